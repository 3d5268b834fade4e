// One row of SwiGLU and of its gradient in bf16, for processors with AVX512-BF16.
//
// Law: the formulas are those of kernels/cpu/swiglu.cpp; only the rounding instruction, the order
// of the sum and the last bit of the sigmoid differ.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv3::cpu::avx512 {

void swiglu_forward_row(const Bf16* gate, const Bf16* up, float row_scale, Bf16* y, int64_t width);
// Returns Σ dy · silu · up.
float swiglu_backward_row(const Bf16* dy, const Bf16* gate, const Bf16* up, float row_scale,
                          Bf16* dgate, Bf16* dup, int64_t width);

}  // namespace dsv3::cpu::avx512
