// The inner product of the AVX-512 kernels: one tile of C in registers, and the vector exp.
//
// Laws: only files that are compiled for AVX-512 include this; everything here has internal
// linkage, so that no other file is ever linked against its code (which would end on a processor
// without AVX-512). C is summed in f32 in the order of k.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "base/dtype.h"
#include "kernels/cpu/avx512/operands.h"

namespace dsv3::cpu::avx512 {
namespace {

template <typename T>
inline __attribute__((always_inline)) __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
  if constexpr (std::is_same_v<T, float>) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  } else {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
}

// c [kRows, 16 · kVectors] (+)= a · b. What c holds is fetched early and added last: a tile doesn't
// wait for it, nor the next tile for this one.
template <typename T, int kRows, int kVectors>
inline void tile(const Operands& in, const Output& out) {
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[i][v] = _mm512_setzero_ps();
      if (out.accumulate)
        _mm_prefetch(reinterpret_cast<const char*>(out.c + i * out.stride + v * kLanes),
                     _MM_HINT_T0);
    }
  }
  const uint32_t* a = in.a;
  const uint32_t* b = in.b;
  for (int64_t u = 0; u < in.units; ++u, a += in.a_unit, b += in.b_stride) {
    __m512i columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = _mm512_loadu_si512(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512i row = _mm512_set1_epi32(static_cast<int>(a[i * in.a_row]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add<T>(sum[i][v], row, columns[v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* c = out.c + i * out.stride + v * kLanes;
      if (out.accumulate) sum[i][v] = _mm512_add_ps(sum[i][v], _mm512_loadu_ps(c));
      _mm512_storeu_ps(c, sum[i][v]);
    }
  }
}

// The last rows of a panel: fewer than a full tile's.
template <typename T, int kRows, int kVectors>
inline void last_rows(const Operands& in, const Output& out, int64_t rows) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<T, kRows, kVectors>(in, out);
    } else {
      last_rows<T, kRows - 1, kVectors>(in, out, rows);
    }
  }
}

// A panel of kVectors vectors of columns. Tiles have 24 sums: more than the latency of a
// multiply-add asks for, and room for B's vectors and A's broadcast in the 32 registers.
template <typename T, int kVectors>
inline void panel(Operands in, Output out, int64_t rows) {
  constexpr int kRows = kVectors == 1 ? 12 : 24 / kVectors;
  for (; rows >= kRows; rows -= kRows) {
    tile<T, kRows, kVectors>(in, out);
    in.a += kRows * in.a_row;
    out.c += kRows * out.stride;
  }
  last_rows<T, kRows - 1, kVectors>(in, out, rows);
}

// c [rows, 16 · vectors] (+)= a [rows, units] · b [units, 16 · vectors].
template <typename T>
inline void product(Operands in, Output out, int64_t rows, int64_t vectors) {
  while (vectors > 0) {
    // Panels of 4 and 3 have the best tiles: 6 is 3 + 3, 7 is 4 + 3.
    const int64_t width = vectors % 4 != 0 && vectors % 3 == 0 ? 3 : std::min<int64_t>(vectors, 4);
    if (width == 4) panel<T, 4>(in, out, rows);
    if (width == 3) panel<T, 3>(in, out, rows);
    if (width == 2) panel<T, 2>(in, out, rows);
    if (width == 1) panel<T, 1>(in, out, rows);
    in.b += width * kLanes;
    out.c += width * kLanes;
    vectors -= width;
  }
}

// 2^x within 2 ulp of f32; 0 below −126, NaN for NaN.  x = n + r, |r| ≤ 1/2: 2^r = e^(r ln 2) by
// its Taylor series to r^7 (the next term is below 2^-27).
inline __attribute__((always_inline)) __m512 exp2(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.5252734e-5f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.5403530e-4f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3333558e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.6181291e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

}  // namespace
}  // namespace dsv3::cpu::avx512
