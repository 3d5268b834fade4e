// Packing and rounding; see packing.h.
#include "kernels/cpu/avx512/packing.h"

#include "kernels/cpu/avx512/lanes.h"

namespace dsv3::cpu::avx512 {
namespace {

// 16 rows × 16 units, transposed.
void transpose_units(const __m512i (&in)[16], uint32_t* to, int64_t to_stride, int64_t count) {
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(in[2 * i], in[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(in[2 * i], in[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  // b[4 i + c] holds columns c, c + 4, c + 8, c + 12 of rows 4 i to 4 i + 3, one per quarter.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xEE);
    const __m512i low23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xEE);
    const __m512i column[4] = {
        _mm512_shuffle_i32x4(low01, low23, 0x88), _mm512_shuffle_i32x4(low01, low23, 0xDD),
        _mm512_shuffle_i32x4(high01, high23, 0x88), _mm512_shuffle_i32x4(high01, high23, 0xDD)};
    for (int quarter = 0; quarter < 4; ++quarter) {
      if (c + 4 * quarter < count)
        _mm512_storeu_si512(to + (c + 4 * quarter) * to_stride, column[quarter]);
    }
  }
}

constexpr int64_t kRowsAhead = 64;
void fetch(const void* at) {
  _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
}

// `cols` columns, at most 16, of the rows of one unit; of bf16 the second row may be missing.
template <typename T>
__m512i load_pair(const T* from, int64_t stride, int64_t rows, int64_t cols) {
  const bool whole = cols >= kLanes && rows >= kUnit<T>;
  const __mmask16 mask = cols > 0 ? first_lanes(cols) : static_cast<__mmask16>(0);
  if constexpr (std::is_same_v<T, float>) {
    if (whole) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi32(rows > 0 ? mask : 0, from);
  } else {
    const auto* first = reinterpret_cast<const __m256i*>(from);
    const auto* second = reinterpret_cast<const __m256i*>(from + stride);
    const __m256i one =
        whole ? _mm256_loadu_si256(first) : _mm256_maskz_loadu_epi16(rows > 0 ? mask : 0, first);
    const __m256i two =
        whole ? _mm256_loadu_si256(second) : _mm256_maskz_loadu_epi16(rows > 1 ? mask : 0, second);
    return paired(_mm512_inserti64x4(_mm512_castsi256_si512(one), two, 1));
  }
}

}  // namespace

template <typename T>
void pack_transposed(const T* from, int64_t stride, int64_t rows, int64_t cols, uint32_t* to,
                     int64_t to_rows) {
  const int64_t units = (cols + kUnit<T> - 1) / kUnit<T>;
  for (int64_t r0 = 0; r0 < to_rows; r0 += kLanes) {
    for (int64_t u0 = 0; u0 < units; u0 += kLanes) {
      __m512i in[16];
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        const T* row = from + (r0 + r) * stride;
        in[r] = r0 + r < rows ? load_units(row, u0 * kUnit<T>, cols) : _mm512_setzero_si512();
        fetch(row + kRowsAhead * stride + u0 * kUnit<T>);
      }
      transpose_units(in, to + u0 * to_rows + r0, to_rows, units - u0);
    }
  }
}

template <typename T>
void pack_paired(const T* from, int64_t stride, int64_t rows, int64_t cols, uint32_t* to,
                 int64_t units, int64_t to_cols) {
  for (int64_t u = 0; u < units; ++u, from += kUnit<T> * stride, rows -= kUnit<T>, to += to_cols) {
    for (int64_t c = 0; c < to_cols; c += kLanes) {
      _mm512_storeu_si512(to + c, load_pair(from + c, stride, rows, cols - c));
    }
  }
}

template <typename T>
void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t cols, T* to, int64_t to_rows,
               int64_t to_cols, int64_t to_stride) {
  constexpr int64_t kStep = kLanes * kUnit<T>;
  for (int64_t r = 0; r < to_rows; ++r, from += stride, to += to_stride) {
    int64_t c = 0;
    for (; r < rows && c + kStep <= cols; c += kStep) {
      _mm512_storeu_si512(to + c, _mm512_loadu_si512(from + c));
      fetch(from + kRowsAhead * stride + c);
    }
    for (; r < rows && c < cols; ++c) to[c] = from[c];
    for (; c < to_cols; ++c) to[c] = T{};
  }
}

template <typename T>
void store_rows(const float* from, int64_t from_stride, int64_t rows, int64_t cols, T* to,
                int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; c += kLanes) {
      const float* at = from + r * from_stride + c;
      const __m512 value = cols - c >= kLanes ? _mm512_loadu_ps(at)
                                              : _mm512_maskz_loadu_ps(first_lanes(cols - c), at);
      store_lanes(value, cols - c, to + r * to_stride + c);
    }
  }
}

template void pack_transposed(const float*, int64_t, int64_t, int64_t, uint32_t*, int64_t);
template void pack_transposed(const Bf16*, int64_t, int64_t, int64_t, uint32_t*, int64_t);
template void pack_paired(const float*, int64_t, int64_t, int64_t, uint32_t*, int64_t, int64_t);
template void pack_paired(const Bf16*, int64_t, int64_t, int64_t, uint32_t*, int64_t, int64_t);
template void copy_rows(const float*, int64_t, int64_t, int64_t, float*, int64_t, int64_t, int64_t);
template void copy_rows(const Bf16*, int64_t, int64_t, int64_t, Bf16*, int64_t, int64_t, int64_t);
template void store_rows(const float*, int64_t, int64_t, int64_t, float*, int64_t);
template void store_rows(const float*, int64_t, int64_t, int64_t, Bf16*, int64_t);

}  // namespace dsv3::cpu::avx512
