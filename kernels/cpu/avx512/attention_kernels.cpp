// Attention on one pair of blocks; see attention_kernels.h.
#include "kernels/cpu/avx512/attention_kernels.h"

#include <cmath>

#include "kernels/cpu/avx512/lanes.h"
#include "kernels/cpu/avx512/packing.h"
#include "kernels/cpu/avx512/tile.h"

namespace dsv3::cpu::avx512 {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

int64_t groups_of(int64_t queries) {
  return (queries + kLanes - 1) / kLanes;
}

// Lanes of query group g that see key `row` of the diagonal block.
__mmask16 visible(int64_t row, int64_t group) {
  const int64_t behind = row - group * kLanes;
  return behind <= 0 ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>(0xFFFFu << behind);
}

// a [64 keys, units] · b_t [units, 64 queries] into out [64, 64], visible groups only.
template <typename T>
void score(const uint32_t* a, const uint32_t* b_t, int64_t units, int64_t groups, bool diagonal,
           float* out) {
  if (!diagonal) {
    product<T>({a, units, 1, b_t, kBlockRows, units}, {out, kBlockRows, false}, kBlockRows, groups);
    return;
  }
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = g * kLanes;
    product<T>({a + at * units, units, 1, b_t + at, kBlockRows, units},
               {out + at * kBlockRows + at, kBlockRows, false}, kLanes, groups - g);
  }
}

// out [queries, 16 · vectors] (+)= a · b with a [64 queries, keys] held as units [keys / unit, 64].
template <typename T>
void weigh_keys(const uint32_t* a, const uint32_t* b, int64_t cols, int64_t groups, bool diagonal,
                const Output& out) {
  constexpr int64_t kUnits = kBlockRows / kUnit<T>;
  if (!diagonal) {
    product<T>({a, 1, kBlockRows, b, cols, kUnits}, out, groups * kLanes, cols / kLanes);
    return;
  }
  for (int64_t g = 0; g < groups; ++g) {
    product<T>({a + g * kLanes, 1, kBlockRows, b, cols, (g + 1) * kLanes / kUnit<T>},
               {out.c + g * kLanes * out.stride, out.stride, out.accumulate}, kLanes,
               cols / kLanes);
  }
}

// out [64 keys, 16 · vectors] += a [64 keys, 64 / unit] · b [64 / unit, cols].
template <typename T>
void weigh_queries(const uint32_t* a, const uint32_t* b, int64_t cols, int64_t groups,
                   bool diagonal, float* out) {
  constexpr int64_t kUnits = kBlockRows / kUnit<T>, kGroupUnits = kLanes / kUnit<T>;
  if (!diagonal) {
    product<T>({a, kUnits, 1, b, cols, groups * kGroupUnits}, {out, cols, true}, kBlockRows,
               cols / kLanes);
    return;
  }
  for (int64_t g = 0; g < groups; ++g) {
    product<T>({a + g * kLanes * kUnits + g * kGroupUnits, kUnits, 1, b + g * kGroupUnits * cols,
                cols, (groups - g) * kGroupUnits},
               {out + g * kLanes * cols, cols, true}, kLanes, cols / kLanes);
  }
}

}  // namespace

template <typename T>
void dot_rows(const uint32_t* a, const uint32_t* b, int64_t units, float* out) {
  for (int64_t r = 0; r < kBlockRows; r += kLanes) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t u = 0; u < units; ++u) {
      sum = multiply_add<T>(sum, _mm512_loadu_si512(a + u * kBlockRows + r),
                            _mm512_loadu_si512(b + u * kBlockRows + r));
    }
    _mm512_storeu_ps(out + r, sum);
  }
}

template <typename T>
void ForwardBlock<T>::step(const uint32_t* k, const uint32_t* v, bool first, bool diagonal) const {
  const int64_t groups = groups_of(queries);
  score<T>(k, q, size.d_units, groups, diagonal, scores);
  const __m512 factor = _mm512_set1_ps(scale * kLog2E);
  for (int64_t g = 0; g < groups; ++g) {
    const float* column = scores + g * kLanes;
    const int64_t open = diagonal ? g * kLanes : kBlockRows;  // rows that all lanes see
    const int64_t rows = diagonal ? open + kLanes : kBlockRows;
    __m512 top = _mm512_set1_ps(-INFINITY);
    for (int64_t r = 0; r < open; ++r)
      top = _mm512_max_ps(top, _mm512_loadu_ps(column + r * kBlockRows));
    for (int64_t r = open; r < rows; ++r) {
      top = _mm512_mask_max_ps(top, visible(r, g), top, _mm512_loadu_ps(column + r * kBlockRows));
    }
    const __m512 before = first ? _mm512_set1_ps(-INFINITY) : _mm512_loadu_ps(largest + g * kLanes);
    const __m512 now = _mm512_max_ps(before, _mm512_mul_ps(top, factor));
    __m512 total = _mm512_setzero_ps();
    for (int64_t r = 0; r < rows; r += 2) {
      __m512 p0 = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(column + r * kBlockRows), factor, now));
      __m512 p1 =
          exp2(_mm512_fmsub_ps(_mm512_loadu_ps(column + (r + 1) * kBlockRows), factor, now));
      if (r >= open) {
        p0 = _mm512_maskz_mov_ps(visible(r, g), p0);
        p1 = _mm512_maskz_mov_ps(visible(r + 1, g), p1);
      }
      total = _mm512_add_ps(total, _mm512_add_ps(p0, p1));
      if constexpr (std::is_same_v<T, float>) {
        _mm512_storeu_ps(p + r * kBlockRows + g * kLanes, p0);
        _mm512_storeu_ps(p + (r + 1) * kBlockRows + g * kLanes, p1);
      } else {
        _mm512_storeu_si512(p + r / 2 * kBlockRows + g * kLanes, paired(round_pair(p0, p1)));
      }
    }
    _mm512_storeu_ps(largest + g * kLanes, now);
    if (first) {
      _mm512_storeu_ps(sum + g * kLanes, total);
      continue;
    }
    const __m512 correction = exp2(_mm512_sub_ps(before, now));
    _mm512_storeu_ps(sum + g * kLanes,
                     _mm512_fmadd_ps(_mm512_loadu_ps(sum + g * kLanes), correction, total));
    if (_mm512_cmp_ps_mask(correction, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ) == 0) continue;
    alignas(64) float each[kLanes];
    _mm512_store_ps(each, correction);
    for (int64_t r = 0; r < kLanes; ++r) {
      float* row = out + (g * kLanes + r) * size.v_cols;
      const __m512 by = _mm512_set1_ps(each[r]);
      for (int64_t c = 0; c < size.v_cols; c += kLanes)
        _mm512_storeu_ps(row + c, _mm512_mul_ps(_mm512_loadu_ps(row + c), by));
    }
  }
  weigh_keys<T>(p, v, size.v_cols, groups, diagonal, {out, size.v_cols, !first});
}

template <typename T>
void ForwardBlock<T>::finish(T* to, int64_t to_stride, int64_t v_dim, float* lse,
                             int64_t lse_stride) const {
  for (int64_t r = 0; r < queries; ++r) {
    const __m512 inverse = _mm512_set1_ps(1.0f / sum[r]);
    for (int64_t c = 0; c < v_dim; c += kLanes) {
      const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(out + r * size.v_cols + c), inverse);
      store_lanes(value, v_dim - c, to + r * to_stride + c);
    }
    lse[r * lse_stride] = largest[r] * kLn2 + std::log(sum[r]);
  }
}

template <typename T>
void BackwardBlock<T>::run() const {
  constexpr int64_t kUnits = kBlockRows / kUnit<T>;
  const int64_t groups = groups_of(queries);
  score<T>(k, q_t, size.d_units, groups, diagonal, scores);
  score<T>(v, dout_t, size.v_units, groups, diagonal, dp);
  const __m512 factor = _mm512_set1_ps(scale * kLog2E), scale16 = _mm512_set1_ps(scale);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = g * kLanes, open = diagonal ? at : kBlockRows;
    const int64_t rows = diagonal ? open + kLanes : kBlockRows;
    const __m512 lse16 = _mm512_loadu_ps(lse + at), delta16 = _mm512_loadu_ps(delta + at);
    for (int64_t r = 0; r < rows; r += 2) {
      __m512 p2[2], ds2[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const int64_t from = (r + i) * kBlockRows + at;
        __m512 value = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(scores + from), factor, lse16));
        if (r >= open) value = _mm512_maskz_mov_ps(visible(r + i, g), value);
        p2[i] = value;
        ds2[i] = _mm512_mul_ps(_mm512_mul_ps(value, scale16),
                               _mm512_sub_ps(_mm512_loadu_ps(dp + from), delta16));
      }
      if constexpr (std::is_same_v<T, float>) {
        for (int i = 0; i < 2; ++i) {
          _mm512_storeu_ps(p + (r + i) * kUnits + at, p2[i]);
          _mm512_storeu_ps(ds + (r + i) * kUnits + at, ds2[i]);
        }
      } else {
        const __m512i p_rows = round_pair(p2[0], p2[1]), ds_rows = round_pair(ds2[0], ds2[1]);
        uint32_t* p_at = p + r * kUnits + at / 2;
        uint32_t* ds_at = ds + r * kUnits + at / 2;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p_at), _mm512_castsi512_si256(p_rows));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p_at + kUnits),
                            _mm512_extracti64x4_epi64(p_rows, 1));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds_at), _mm512_castsi512_si256(ds_rows));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds_at + kUnits),
                            _mm512_extracti64x4_epi64(ds_rows, 1));
        _mm512_storeu_si512(ds_paired + r / 2 * kBlockRows + at, paired(ds_rows));
      }
    }
  }
  weigh_queries<T>(p, dout, size.v_cols, groups, diagonal, dv);
  weigh_queries<T>(ds, q, size.d_cols, groups, diagonal, dk);
  weigh_keys<T>(ds_paired, k_paired, size.d_cols, groups, diagonal, {dq, size.d_cols, true});
}

template void dot_rows<float>(const uint32_t*, const uint32_t*, int64_t, float*);
template void dot_rows<Bf16>(const uint32_t*, const uint32_t*, int64_t, float*);
template struct ForwardBlock<float>;
template struct ForwardBlock<Bf16>;
template struct BackwardBlock<float>;
template struct BackwardBlock<Bf16>;

}  // namespace dsv3::cpu::avx512
