// The reduction of the members' values.
//
// Law: values are combined in the order given (the order of ranks): ((v0 ⊕ v1) ⊕ v2) ⊕ …; bf16 in
// f32 with one rounding at the end; integers wrap; a NaN wins a maximum. The result doesn't depend
// on how the elements are split over calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "runtime/comm/communicator.h"

namespace dsv3::comm {

// out[i] = sources[0][i] ⊕ sources[1][i] ⊕ …, `count` elements of `dtype`, aligned to it.
// At least one source; `out` may be one of them, else it overlaps none.
void fold(Reduce reduce, DType dtype, std::span<const std::byte* const> sources, std::byte* out,
          int64_t count);

}  // namespace dsv3::comm
