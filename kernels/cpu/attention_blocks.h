// What attention.cpp and attention_backward.cpp share: block sizes, operand packing, and the places
// of one head's operands.
//
// Laws: a block of keys is padded with zero rows to its full size, and the causal mask hides them:
// only the last block of queries is short. Nothing is allocated: all of it lies in one reservation
// of the workspace, laid out by a Layout.
//
//   T activation dtype    C dtype multiplied in (T, or f32 where the processor has no bf16
//   products)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cpu/layout.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vec.h"
#include "kernels/ops/args.h"

namespace dsv3::cpu {

// How a sequence is cut: queries in blocks of q_rows, keys and values in blocks of kv_rows (a
// multiple of q_rows). Query 0 stands at position `offset`.
struct AttentionBlocks {
  explicit AttentionBlocks(const ops::MlaShape& shape);

  int64_t first_query(int64_t i) const { return i * q_rows; }
  int64_t queries(int64_t i) const { return std::min(q_rows, all_queries - i * q_rows); }
  bool is_short(int64_t i) const { return all_queries - i * q_rows < q_rows; }
  int64_t keys(int64_t j) const { return std::min(kv_rows, sequence - j * kv_rows); }
  // The last block of keys that block i of queries sees; the first block of queries that sees block
  // j of keys.
  int64_t last_kv(int64_t i) const { return (offset + first_query(i) + queries(i) - 1) / kv_rows; }
  int64_t first_q(int64_t j) const { return std::max<int64_t>(j * kv_rows - offset, 0) / q_rows; }
  // How many keys of block j the query sees.
  int64_t visible(int64_t query, int64_t j) const {
    return std::clamp<int64_t>(offset + query + 1 - j * kv_rows, 0, kv_rows);
  }

  int64_t sequence = 0, all_queries = 0, offset = 0;
  int64_t q_rows = 0, kv_rows = 0;
  int64_t num_q = 0, num_kv = 0;
};

// One product of the attention for full blocks of queries, and one for the short last block.
class BlockMatmul {
 public:
  // `shape` for full blocks; `q_dim` is the dimension (m or k) that is the number of queries, kNone
  // when it has none.
  BlockMatmul(const MatmulShape& shape, RuntimeDim q_dim, const AttentionBlocks& blocks);
  const Matmul& at(bool is_short) const { return is_short ? *short_ : *full_; }
  size_t scratch_bytes() const { return std::max(full_->scratch_bytes(), short_->scratch_bytes()); }
  size_t packed_bytes() const { return std::max(full_->packed_bytes(), short_->packed_bytes()); }

 private:
  std::shared_ptr<const Matmul> full_, short_;
};

// to[c, r] = from[r, c] for an 8 × 8 tile.
void transpose_tile(const float* from, int64_t from_stride, float* to, int64_t to_stride);
void transpose_tile(const Bf16* from, int64_t from_stride, Bf16* to, int64_t to_stride);

// to[c, r] = from[r, c] for r < rows, c < cols, as C; columns of `to` from `rows` to to_cols are
// zeroed.
template <typename T, typename C>
void transpose_block(const T* from, int64_t from_stride, int64_t rows, int64_t cols, C* to,
                     int64_t to_cols) {
  constexpr int64_t kTile = 8;
  for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
    const int64_t c1 = std::min(cols, c0 + kTile);
    int64_t r = 0;
    if constexpr (std::is_same_v<T, C>) {
      for (; c1 - c0 == kTile && r + kTile <= rows; r += kTile) {
        transpose_tile(from + r * from_stride + c0, from_stride, to + c0 * to_cols + r, to_cols);
      }
    }
    for (; r < rows; ++r) {
      for (int64_t c = c0; c < c1; ++c)
        to[c * to_cols + r] = from_float<C>(to_float(from[r * from_stride + c]));
    }
    for (int64_t c = c0; c < c1; ++c)
      std::fill(to + c * to_cols + rows, to + (c + 1) * to_cols, C{});
  }
}

// to[r, c] = from[r, c] as C for r < rows, c < cols; rows from `rows` to to_rows are zeroed.
// to_stride ≥ cols.
template <typename T, typename C>
void copy_block(const T* from, int64_t from_stride, int64_t rows, int64_t cols, C* to,
                int64_t to_stride, int64_t to_rows) {
  for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c)
      to[r * to_stride + c] = from_float<C>(to_float(from[r * from_stride + c]));
  }
  for (int64_t r = rows; r < to_rows; ++r)
    std::fill(to + r * to_stride, to + r * to_stride + cols, C{});
}

// The masked row loops work on whole vectors: columns up to this multiple behind the last visible
// one are computed as masked.
constexpr int64_t kVisibleStep = 16;

// to[0, n) = from[0, n) rounded to C, nearest even. Without from_float's care for NaN, which here
// has shown in the row's log-sum-exp already.
template <typename C>
void round_row(const float* from, C* to, int64_t n) {
  if constexpr (std::is_same_v<C, float>) {
    std::copy_n(from, n, to);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(from[i]);
      to[i].bits = static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
    }
  }
}

// The operands of head h of sequence b, as typed rows with strides.
template <typename T>
struct HeadRows {
  HeadRows(const ops::MlaShape& s, int64_t head, const ops::ConstMatrix& q_all,
           const ops::ConstMatrix& kv_all, const ops::ConstMatrix& k_rope_all)
      : token((head / s.heads) * s.sequence),
        q_token((head / s.heads) * s.num_queries()),
        h(head % s.heads),
        q_stride(q_all.stride),
        kv_stride(kv_all.stride),
        k_rope_stride(k_rope_all.stride) {
    q = q_all.as<T>() + q_token * q_stride + h * (s.nope_dim + s.rope_dim);
    k_nope = kv_all.as<T>() + token * kv_stride + h * (s.nope_dim + s.v_dim);
    v = k_nope + s.nope_dim;
    k_rope = s.rope_dim > 0 ? k_rope_all.as<T>() + token * k_rope_stride : nullptr;
  }
  int64_t token = 0;    // the sequence's first row of keys
  int64_t q_token = 0;  // and of queries
  int64_t h = 0;
  int64_t q_stride = 0, kv_stride = 0, k_rope_stride = 0;
  const T* q = nullptr;
  const T* k_nope = nullptr;
  const T* v = nullptr;
  const T* k_rope = nullptr;

  // Block j of k = [k_nope | k_rope], transposed to [nope + rope, kv_rows].
  template <typename C>
  void transposed_keys(const ops::MlaShape& s, const AttentionBlocks& blocks, int64_t j,
                       C* to) const {
    const int64_t first = j * blocks.kv_rows, rows = blocks.keys(j);
    transpose_block(k_nope + first * kv_stride, kv_stride, rows, s.nope_dim, to, blocks.kv_rows);
    if (s.rope_dim > 0) {
      transpose_block(k_rope + first * k_rope_stride, k_rope_stride, rows, s.rope_dim,
                      to + s.nope_dim * blocks.kv_rows, blocks.kv_rows);
    }
  }
};

// Attention by the project's own AVX-512 products (attention_vectors.cpp): where this processor has
// them and they are faster than oneDNN's, which AMX makes faster for bf16.
bool vector_attention(DType act);
void vector_attention_forward(const ops::Context& ctx, const ops::MlaAttentionForward& args);
void vector_attention_backward(const ops::Context& ctx, const ops::MlaAttentionBackward& args);

// Calls f(T{}, C{}) for the activation dtype.
template <typename F>
void dispatch_attention(DType act, const F& f) {
  if (act == DType::kF32) {
    f(float{}, float{});
  } else if (native_bf16()) {
    f(Bf16{}, Bf16{});
  } else {
    f(Bf16{}, float{});
  }
}

// Adds one head's dk_rope, add [sequence, rope_dim], to its sequence's sum of the same shape; the
// first head begins it, the last stores it. Heads must come in their order.
template <typename T>
void sum_dk_rope(const ops::MlaAttentionBackward& args, int64_t head, const float* add,
                 float* sum) {
  const ops::MlaShape& s = args.shape;
  const int64_t h = head % s.heads, token = head / s.heads * s.sequence;
#pragma omp parallel for schedule(static) if (s.sequence * s.rope_dim > kParallelMin)
  for (int64_t r = 0; r < s.sequence; ++r) {
    float* row = sum + r * s.rope_dim;
#pragma omp simd
    for (int64_t c = 0; c < s.rope_dim; ++c)
      row[c] = (h == 0 ? 0.0f : row[c]) + add[r * s.rope_dim + c];
    if (h == s.heads - 1) store_row(row, row_of<T>(args.dk_rope, token + r), s.rope_dim);
  }
}

}  // namespace dsv3::cpu
