// Small pieces of the CPU kernels: float | Bf16 rows as f32, dtype dispatch, branch-free exp and
// sigmoid, loop splitting.
//
// Laws: every function here is branch-free per element, so that the compiler turns the loops over
// it into vector code; bf16 is loaded to f32, computed in f32 and stored rounded to nearest even.
// Loops are split by size alone, never by the number of threads, so results do not depend on it.
//
// Files that are compiled twice, for AVX2 and for AVX-512 (row ops, cpu_ops.h), see these functions
// in a namespace of their own each: the linker never takes one level's code for the other.
//
// Only for files of kernels/cpu.
#pragma once

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/ops/view.h"

#ifndef DSV3_CPU_LEVEL
#define DSV3_CPU_LEVEL level_v3
#define DSV3_CPU_ROWS rows_v3
#endif

namespace dsv3::cpu {
inline namespace DSV3_CPU_LEVEL {

// Fewer elements than this are done by the calling thread: waking the team costs more.
constexpr int64_t kParallelMin = 8192;
// Elements per block of a split row, a multiple of every vector width.
constexpr int64_t kBlock = 16384;

// ---- float | Bf16 -------------------------------------------------------------------------------

// One element as f32.
inline float to_float(float value) {
  return value;
}
inline float to_float(Bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
// f32 rounded to T (nearest even; NaN stays NaN).
template <typename T>
inline T from_float(float value) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return value;
  } else {
    // The same rounding as Bf16's constructor, written as one select so that loops over it
    // vectorise.
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet_nan = (bits >> 16) | 0x40u;
    T out;
    out.bits = static_cast<uint16_t>(value == value ? rounded : quiet_nan);
    return out;
  }
}

// to[0, n) = from[0, n) as f32.
template <typename T>
inline void load_row(const T* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}
// to[0, n) = from[0, n) rounded to T.
template <typename T>
inline void store_row(const float* from, T* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = from_float<T>(from[i]);
}

// Calls f with a value of the C++ type of `dtype`, float or Bf16:
//   dispatch(x.dtype, [&](auto element) { using T = decltype(element); … });
template <typename F>
inline void dispatch(DType dtype, F&& f) {
  if (dtype == DType::kBf16) {
    f(Bf16{});
  } else {
    DSV3_CHECK(dtype == DType::kF32, "activations are f32 or bf16");
    f(float{});
  }
}

// Row `row` of a view, typed.
template <typename T, typename Void>
inline auto* row_of(const ops::BasicMatrix<Void>& matrix, int64_t row) {
  return matrix.template as<T>() + row * matrix.stride;
}

// ---- exp and sigmoid ----------------------------------------------------------------------------

// e^x within 2 ulp of f32; 0 below −86.6 (true value < 2.5e-38), +∞ above 88.73, NaN for NaN.
// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial (the coefficients of Cephes' expf); 2^n
// through the exponent bits.
inline float exp_f32(float x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // exact in 9 bits, so n · kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  float clamped = x > 89.0f ? 89.0f : x;
  clamped = clamped < -86.6f ? -86.6f : clamped;
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^(n−1), doubled at the end, so that n = 128 stays representable on the way.
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) + 126u) << 23;
  const float value = p * std::bit_cast<float>(exponent) * 2.0f;
  return x < -86.6f ? 0.0f : value;
}

// 1 / (1 + e^−x).
inline float sigmoid_f32(float x) {
  return 1.0f / (1.0f + exp_f32(-x));
}

// ---- rows of f32 --------------------------------------------------------------------------------

// The largest element; −∞ for none. NaNs are passed over (they show in the sum of exponentials).
template <typename T>
inline float max_of(const T* x, int64_t n) {
  float largest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const float value = to_float(x[i]);
    largest = value > largest ? value : largest;
  }
  return largest;
}

// Σ e^(x − shift): f32 within blocks of 1024, f64 across them. With kKeep the terms are stored in
// terms[0, n), which may be x.
template <bool kKeep = false, typename T>
inline double sum_exp(const T* x, int64_t n, float shift, float* terms = nullptr) {
  constexpr int64_t kSumBlock = 1024;
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = std::min(n, begin + kSumBlock);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const float term = exp_f32(to_float(x[i]) - shift);
      if constexpr (kKeep) terms[i] = term;
      sum += term;
    }
    total += sum;
  }
  return total;
}

// ---- loops --------------------------------------------------------------------------------------

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Calls f(row, first_column, count) so that every element of [rows, cols] is covered once, in
// blocks spread over the team. Adjacent rows are joined when `contiguous` (then row is 0 and
// columns run on). f must not depend on the split.
template <typename F>
inline void for_each_block(int64_t rows, int64_t cols, bool contiguous, F&& f) {
  if (contiguous) {
    cols *= rows;
    rows = cols > 0 ? 1 : 0;
  }
  const int64_t per_row = ceil_div(cols, kBlock);
#pragma omp parallel for schedule(static) if (rows * cols > kParallelMin)
  for (int64_t block = 0; block < rows * per_row; ++block) {
    const int64_t row = block / per_row;
    const int64_t begin = (block % per_row) * kBlock;
    f(row, begin, std::min(kBlock, cols - begin));
  }
}

}  // namespace DSV3_CPU_LEVEL
}  // namespace dsv3::cpu
