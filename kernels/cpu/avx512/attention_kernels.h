// Attention on one pair of blocks (64 queries, 64 keys) for processors with AVX-512: packing, the
// forward's step of the running softmax, the backward's five products.
//
// Laws: plain memory in, plain memory out; no parallelism and no allocation here. Scores are held
// transposed, [keys, queries]: a vector is 16 queries, so maxima and sums run down the vectors and
// nothing is summed across lanes. Groups of 16 keys that the causal mask hides from a whole group
// of 16 queries are not computed.
//
//   T float or Bf16    unit: 32 bits, two bf16 or one f32 along the summed dimension (tile.h)
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/avx512/operands.h"

namespace dsv3::cpu::avx512 {

constexpr int64_t kBlockRows = 64;  // queries, and keys, of a block

// Sizes of one head's operands in units and padded columns.
struct HeadSize {
  int64_t d_units = 0, v_units = 0;  // of a row of q and k; of v and dout
  int64_t d_cols = 0, v_cols = 0;    // the same in columns, up to a multiple of 16
};
template <typename T>
HeadSize head_size(int64_t d, int64_t v) {
  return {(d + kUnit<T> - 1) / kUnit<T>, (v + kUnit<T> - 1) / kUnit<T>, (d + 15) / 16 * 16,
          (v + 15) / 16 * 16};
}

// out[r] = Σ a[r] · b[r] over the units of row r, both pack_transposed: in the order, and so with
// the rounding, of a product's element.
template <typename T>
void dot_rows(const uint32_t* a, const uint32_t* b, int64_t units, float* out);

// One block of queries on its way through the blocks of keys.
template <typename T>
struct ForwardBlock {
  HeadSize size;
  float scale = 1.0f;
  int64_t queries = 0;          // ≤ 64
  const uint32_t* q = nullptr;  // pack_transposed: [d_units, 64]
  float* scores = nullptr;      // scratch [64, 64]
  uint32_t* p = nullptr;        // scratch [64 / unit, 64] units
  float* out = nullptr;         // [64, v_cols] f32, unnormalised
  float* largest = nullptr;     // [64], in powers of 2
  float* sum = nullptr;         // [64]
  // Takes block 0, 1, … of the keys in turn: k [64, d_units] row by row, v pack_paired
  // [64 / unit, v_cols]. `diagonal`: the block of the queries' own positions, the last one.
  void step(const uint32_t* k, const uint32_t* v, bool first, bool diagonal) const;
  // out/sum rounded to T, and the natural log-sum-exp.
  void finish(T* to, int64_t to_stride, int64_t v_dim, float* lse, int64_t lse_stride) const;
};

// One pair of blocks of the backward.
template <typename T>
struct BackwardBlock {
  HeadSize size;
  float scale = 1.0f;
  int64_t queries = 0;  // ≤ 64
  bool diagonal = false;
  const uint32_t *q_t = nullptr, *q = nullptr;        // pack_transposed, pack_paired
  const uint32_t *dout_t = nullptr, *dout = nullptr;  // pack_transposed, pack_paired
  const uint32_t *k = nullptr, *k_paired = nullptr;   // rows [64, d_units], pack_paired
  const uint32_t* v = nullptr;                        // rows [64, v_units]
  const float *lse = nullptr, *delta = nullptr;       // [64]; lse in powers of 2, +∞ where padded
  float *scores = nullptr, *dp = nullptr;             // scratch [64, 64]
  uint32_t *p = nullptr, *ds = nullptr;               // scratch [64, 64 / unit] units
  uint32_t* ds_paired = nullptr;                      // scratch [64 / unit, 64]; f32: is ds
  float *dq = nullptr, *dk = nullptr, *dv = nullptr;  // [64, d_cols], [64, d_cols], [64, v_cols] +=
  void run() const;
};

}  // namespace dsv3::cpu::avx512
