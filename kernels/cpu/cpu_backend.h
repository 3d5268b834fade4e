// The CPU back end: every op on the calling thread's OpenMP team, matrix products by oneDNN.
//
// Law: the same inputs and thread count give the same bits on every run. No op here allocates after
// its first call with a given shape (oneDNN primitives are cached; scratch comes from the
// workspace).
#pragma once

#include <memory>

#include "base/status.h"
#include "kernels/ops/backend.h"

namespace dsv3::cpu {

// kDevice when the processor lacks AVX2 and FMA (the floor of this back end); the sentence names
// what is missing.
Result<std::unique_ptr<ops::Backend>> create_backend();

// True where bf16 matrix products beat f32 ones: AMX-BF16, or AVX512-BF16 on AMD (measured: 2.0× at
// 1024³ on Zen 5; on Intel without AMX it is 0.6×). DSV3_CPU_MATMUL=f32|bf16 overrides, for tests.
bool bf16_is_faster();

}  // namespace dsv3::cpu
