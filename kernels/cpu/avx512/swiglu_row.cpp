// One row of SwiGLU; see swiglu_row.h.
//
//   g gate    u up    σ = sigmoid(g)    32 elements at a time: the even ones and the odd ones
#include "kernels/cpu/avx512/swiglu_row.h"

#include <algorithm>

#include "kernels/cpu/avx512/lanes.h"
#include "kernels/cpu/avx512/tile.h"

namespace dsv3::cpu::avx512 {
namespace {

constexpr int64_t kStep = 32;

// Masks are for what is less than 32 elements only: see lanes.h.
__mmask32 first(int64_t count) {
  return count >= kStep ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
}
__m512i load(const Bf16* x, __mmask32 mask) {
  return mask == ~__mmask32{0} ? _mm512_loadu_si512(x) : _mm512_maskz_loadu_epi16(mask, x);
}
__m512 even(__m512i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
__m512 odd(__m512i x) {
  return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
}
void store(__m512 evens, __m512 odds, __mmask32 mask, Bf16* to) {
  const __m512i rounded = paired(round_pair(evens, odds));
  if (mask == ~__mmask32{0}) {
    _mm512_storeu_si512(to, rounded);
  } else {
    _mm512_mask_storeu_epi16(to, mask, rounded);
  }
}

// Rows are too short for the processor to foresee the next one's place.
void fetch_row_after(const Bf16* at, int64_t stride) {
  _mm_prefetch(reinterpret_cast<const char*>(at + stride), _MM_HINT_T0);
}

// 1 / (1 + 2^(−g log2 e)); the reciprocal by an estimate of 14 bits and one step of Newton's.
__m512 sigmoid(__m512 g) {
  const __m512 x = _mm512_mul_ps(g, _mm512_set1_ps(-1.44269504088896341f));
  // Below 2^126 the sum stays finite, and with it the step; min keeps a NaN in its second argument.
  const __m512 d =
      _mm512_add_ps(_mm512_set1_ps(1.0f), exp2(_mm512_min_ps(_mm512_set1_ps(126.0f), x)));
  const __m512 r = _mm512_rcp14_ps(d);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2.0f)));
}

struct Gradient {
  __m512 dgate, dup, term;
};
Gradient gradient(__m512 d, __m512 g, __m512 u, __m512 row_scale) {
  const __m512 one = _mm512_set1_ps(1.0f), sigma = sigmoid(g), silu = _mm512_mul_ps(g, sigma);
  const __m512 scaled = _mm512_mul_ps(d, row_scale);
  // silu'(g) = σ (1 + g (1 − σ)) = σ + silu (1 − σ)
  const __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(one, sigma), sigma);
  return {_mm512_mul_ps(_mm512_mul_ps(scaled, u), slope), _mm512_mul_ps(scaled, silu),
          _mm512_mul_ps(_mm512_mul_ps(d, silu), u)};
}

}  // namespace

void swiglu_forward_row(const Bf16* gate, const Bf16* up, float row_scale, Bf16* y, int64_t width) {
  const __m512 scale = _mm512_set1_ps(row_scale);
  const auto forward = [&](__m512 g, __m512 u) {
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), u), scale);
  };
  for (int64_t i = 0; i < width; i += kStep) {
    const __mmask32 mask = first(width - i);
    const __m512i g = load(gate + i, mask), u = load(up + i, mask);
    fetch_row_after(gate + i, 2 * width);
    fetch_row_after(up + i, 2 * width);
    store(forward(even(g), even(u)), forward(odd(g), odd(u)), mask, y + i);
  }
}

float swiglu_backward_row(const Bf16* dy, const Bf16* gate, const Bf16* up, float row_scale,
                          Bf16* dgate, Bf16* dup, int64_t width) {
  const __m512 scale = _mm512_set1_ps(row_scale);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += kStep) {
    const __mmask32 mask = first(width - i);
    const __m512i d = load(dy + i, mask), g = load(gate + i, mask), u = load(up + i, mask);
    fetch_row_after(dy + i, width);
    fetch_row_after(gate + i, 2 * width);
    fetch_row_after(up + i, 2 * width);
    const Gradient low = gradient(even(d), even(g), even(u), scale);
    const Gradient high = gradient(odd(d), odd(g), odd(u), scale);
    store(low.dgate, high.dgate, mask, dgate + i);
    store(low.dup, high.dup, mask, dup + i);
    sum = _mm512_add_ps(sum, _mm512_add_ps(low.term, high.term));
  }
  return _mm512_reduce_add_ps(sum);
}

}  // namespace dsv3::cpu::avx512
