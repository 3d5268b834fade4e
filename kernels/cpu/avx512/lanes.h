// Loads, stores and rounding of one vector of 16 lanes.
//
// Law: as tile.h: only files compiled for AVX-512 include this, and everything has internal
// linkage. What lies behind `cols` or `count` is neither read nor written.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "base/dtype.h"
#include "kernels/cpu/avx512/operands.h"

namespace dsv3::cpu::avx512 {
namespace {

// Two rows of 16 values as T: of bf16 the first row's 16, then the second's.
inline __m512i round_pair(__m512 first, __m512 second) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}
// … element by element: first[0], second[0], first[1], …
inline __m512i paired(__m512i rows) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, rows);
}

// Up to 16 units of a row from element `begin` on; what lies behind `cols` is zero.
template <typename T>
inline __m512i load_units(const T* row, int64_t begin, int64_t cols) {
  const int64_t left = cols - begin;
  if (left >= kLanes * kUnit<T>) return _mm512_loadu_si512(row + begin);
  if constexpr (std::is_same_v<T, float>) {
    return _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << left) - 1), row + begin);
  } else {
    return _mm512_maskz_loadu_epi16((__mmask32{1} << left) - 1, row + begin);
  }
}

inline __mmask16 first_lanes(int64_t count) {
  return count >= kLanes ? static_cast<__mmask16>(0xFFFF)
                         : static_cast<__mmask16>((1u << count) - 1);
}

// Stores the first `count` lanes rounded to T.
template <typename T>
inline void store_lanes(__m512 value, int64_t count, T* to) {
  if constexpr (std::is_same_v<T, float>) {
    if (count >= kLanes) {
      _mm512_storeu_ps(to, value);
    } else {
      _mm512_mask_storeu_ps(to, first_lanes(count), value);
    }
  } else {
    const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
    if (count >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
    } else {
      _mm256_mask_storeu_epi16(to, first_lanes(count), rounded);
    }
  }
}

}  // namespace
}  // namespace dsv3::cpu::avx512
