// Attention by the project's own AVX-512 products (kernels/cpu/avx512): packing, and which thread
// does which block; attention.cpp and attention_backward.cpp come here where vector_attention().
//
// Laws: those of attention.cpp and attention_backward.cpp: an output block is computed whole by one
// thread, dq of a head in parts that are added in order, dk_rope in the order of the heads, so the
// bits depend on the number of threads only where parts do. Blocks are 64 queries by 64 keys; what
// is missing to a whole block is zero and masked. Blocks of queries stand on the diagonal with
// blocks of keys: where the first query is not the first position of its block, the rows before it
// are zero and thrown away.
#include <algorithm>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/avx512/attention_kernels.h"
#include "kernels/cpu/avx512/packing.h"
#include "kernels/cpu/cpu_ops.h"

namespace dsv3::cpu {
namespace {

using avx512::HeadSize;
using avx512::kBlockRows;

// What both passes share: sizes, and the packed keys and values of a head.
template <typename T>
class VectorAttention {
 protected:
  static constexpr int64_t kUnit = avx512::kUnit<T>;
  static constexpr int64_t kBlockUnits = kBlockRows / kUnit;  // units along a block's rows
  static constexpr int64_t kBlockScores = kBlockRows * kBlockRows;

  explicit VectorAttention(const ops::MlaShape& s)
      : s_(s),
        d_(s.nope_dim + s.rope_dim),
        size_(avx512::head_size<T>(d_, s.v_dim)),
        blocks_(ceil_div(s.sequence, kBlockRows)),
        first_q_((s.sequence - s.num_queries()) / kBlockRows),
        lead_((s.sequence - s.num_queries()) % kBlockRows),
        q_blocks_(blocks_ - first_q_),
        threads_(team_size()) {}

  // Rows [skip, skip + count) of block i of the queries are queries `first`, first + 1, … of the
  // sequence.
  struct QueryRows {
    int64_t skip = 0, count = 0, first = 0;
    int64_t rows() const { return skip + count; }
  };
  QueryRows query_rows(int64_t i) const {
    const int64_t skip = i == 0 ? lead_ : 0, first = i * kBlockRows - lead_ + skip;
    return {skip, std::min(kBlockRows - skip, s_.num_queries() - first), first};
  }
  // The rows of a block from its first on: `from` (query `first`) itself, or a copy in `scratch`
  // [64, cols] with zeros before it; `stride` then is the copy's.
  static const T* block_rows(const QueryRows& q, const T* from, int64_t cols, T* scratch,
                             int64_t* stride) {
    if (q.skip == 0) return from;
    std::fill_n(scratch, q.skip * cols, T{});
    avx512::copy_rows(from, *stride, q.count, cols, scratch + q.skip * cols, q.count, cols, cols);
    *stride = cols;
    return scratch;
  }

  int64_t rows(int64_t block) const {
    return std::min(kBlockRows, s_.sequence - block * kBlockRows);
  }

  // Block j of k = [k_nope | k_rope], row by row.
  void pack_k(const HeadRows<T>& head, int64_t j, uint32_t* to) const {
    const int64_t first = j * kBlockRows, width = size_.d_units * kUnit;
    T* k = reinterpret_cast<T*>(to);
    avx512::copy_rows(head.k_nope + first * head.kv_stride, head.kv_stride, rows(j), s_.nope_dim, k,
                      kBlockRows, s_.nope_dim, width);
    const T* rope = s_.rope_dim > 0 ? head.k_rope + first * head.k_rope_stride : head.k_nope;
    avx512::copy_rows(rope, head.k_rope_stride, rows(j), s_.rope_dim, k + s_.nope_dim, kBlockRows,
                      width - s_.nope_dim, width);
  }

  const ops::MlaShape& s_;
  int64_t d_;
  HeadSize size_;
  int64_t blocks_;    // of keys
  int64_t first_q_;   // the block of keys that block 0 of the queries stands at
  int64_t lead_;      // positions of that block before the first query
  int64_t q_blocks_;  // of queries
  int threads_;
};

template <typename T>
class VectorForward : VectorAttention<T> {
  using Base = VectorAttention<T>;
  using Base::blocks_, Base::s_, Base::size_, Base::threads_, Base::kBlockUnits;
  using Base::first_q_, Base::q_blocks_, Base::d_;

 public:
  VectorForward(const ops::Context& ctx, const ops::MlaAttentionForward& args)
      : Base(args.shape),
        args_(args),
        whole_heads_(s_.batch * s_.heads >= 4 * threads_),
        heads_(whole_heads_ ? threads_ : std::min<int64_t>(s_.batch * s_.heads, 2 * threads_)) {
    k_at_ = head_.add<uint32_t>(blocks_ * kBlockRows * size_.d_units);
    v_at_ = head_.add<uint32_t>(blocks_ * kBlockUnits * size_.v_cols);
    q_at_ = own_.add<uint32_t>(size_.d_units * kBlockRows);
    scores_at_ = own_.add<float>(Base::kBlockScores);
    p_at_ = own_.add<uint32_t>(kBlockUnits * kBlockRows);
    out_at_ = own_.add<float>(kBlockRows * size_.v_cols);
    largest_at_ = own_.add<float>(kBlockRows);
    sum_at_ = own_.add<float>(kBlockRows);
    if (Base::lead_ > 0) rows_at_ = own_.add<T>(kBlockRows * std::max(d_, s_.v_dim));
    if (Base::lead_ > 0) lse_at_ = own_.add<float>(kBlockRows);
    memory_ = ctx.workspace->reserve(heads_ * head_.size() + threads_ * own_.size());
  }

  void run() {
    const int64_t all = s_.batch * s_.heads;
    std::byte* own = memory_ + heads_ * head_.size();
    if (whole_heads_) {
      for_each_item(all, threads_, own, own_.size(), [&](int64_t head, std::byte* scratch) {
        const int64_t slot = (scratch - own) / static_cast<int64_t>(own_.size());
        for (int64_t j = 0; j < blocks_; ++j) pack(head - slot, slot, j);
        for (int64_t i = 0; i < q_blocks_; ++i) attend(head - slot, slot, i, scratch);
      });
      return;
    }
    for (int64_t first = 0; first < all; first += heads_) {
      const int64_t round = std::min(heads_, all - first);
      for_each_item(round * blocks_, threads_, own, 0,
                    [&](int64_t item, std::byte*) { pack(first, item / blocks_, item % blocks_); });
      for_each_item(round * q_blocks_, threads_, own, own_.size(),
                    [&](int64_t item, std::byte* scratch) {
                      attend(first, item % round, q_blocks_ - 1 - item / round, scratch);
                    });
    }
  }

 private:
  uint32_t* keys(int64_t slot, int64_t j) const {
    return reinterpret_cast<uint32_t*>(memory_ + slot * head_.size() + k_at_) +
           j * kBlockRows * size_.d_units;
  }
  uint32_t* values(int64_t slot, int64_t j) const {
    return reinterpret_cast<uint32_t*>(memory_ + slot * head_.size() + v_at_) +
           j * kBlockUnits * size_.v_cols;
  }

  void pack(int64_t first, int64_t slot, int64_t j) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    Base::pack_k(head, j, keys(slot, j));
    avx512::pack_paired(head.v + j * kBlockRows * head.kv_stride, head.kv_stride, Base::rows(j),
                        s_.v_dim, values(slot, j), kBlockUnits, size_.v_cols);
  }

  void attend(int64_t first, int64_t slot, int64_t i, std::byte* own) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const typename Base::QueryRows rows = Base::query_rows(i);
    T* scratch = reinterpret_cast<T*>(own + rows_at_);
    uint32_t* q = reinterpret_cast<uint32_t*>(own + q_at_);
    int64_t q_stride = head.q_stride;
    const T* from =
        Base::block_rows(rows, head.q + rows.first * head.q_stride, d_, scratch, &q_stride);
    avx512::pack_transposed(from, q_stride, rows.rows(), d_, q, kBlockRows);
    const avx512::ForwardBlock<T> block{.size = size_,
                                        .scale = s_.scale,
                                        .queries = rows.rows(),
                                        .q = q,
                                        .scores = reinterpret_cast<float*>(own + scores_at_),
                                        .p = reinterpret_cast<uint32_t*>(own + p_at_),
                                        .out = reinterpret_cast<float*>(own + out_at_),
                                        .largest = reinterpret_cast<float*>(own + largest_at_),
                                        .sum = reinterpret_cast<float*>(own + sum_at_)};
    const int64_t last = first_q_ + i;
    for (int64_t j = 0; j <= last; ++j)
      block.step(keys(slot, j), values(slot, j), j == 0, j == last);
    const int64_t token = head.q_token + rows.first;
    T* out = row_of<T>(args_.out, token) + head.h * s_.v_dim;
    float* lse = args_.lse.data + token * s_.heads + head.h;
    if (rows.skip == 0) {
      block.finish(out, args_.out.stride, s_.v_dim, lse, s_.heads);
      return;
    }
    float* all_lse = reinterpret_cast<float*>(own + lse_at_);
    block.finish(scratch, s_.v_dim, s_.v_dim, all_lse, 1);
    for (int64_t r = 0; r < rows.count; ++r) {
      std::copy_n(scratch + (rows.skip + r) * s_.v_dim, s_.v_dim, out + r * args_.out.stride);
      lse[r * s_.heads] = all_lse[rows.skip + r];
    }
  }

  const ops::MlaAttentionForward& args_;
  bool whole_heads_;   // enough of them: a thread packs and computes a head; else they go in rounds
  int64_t heads_;      // packed at a time
  Layout head_, own_;  // one copy per packed head; one per thread
  size_t k_at_, v_at_, q_at_, scores_at_, p_at_, out_at_, largest_at_, sum_at_;
  size_t rows_at_ = 0, lse_at_ = 0;  // where the first block of queries is not whole
  std::byte* memory_;
};

template <typename T>
class VectorBackward : VectorAttention<T> {
  using Base = VectorAttention<T>;
  using Base::blocks_, Base::d_, Base::s_, Base::size_, Base::threads_, Base::kBlockUnits;
  using Base::first_q_, Base::q_blocks_;

 public:
  VectorBackward(const ops::Context& ctx, const ops::MlaAttentionBackward& args)
      : Base(args.shape),
        args_(args),
        whole_heads_(s_.heads >= 2 * threads_),
        heads_(std::min<int64_t>(s_.batch * s_.heads, threads_)),
        padded_(blocks_ * kBlockRows),
        padded_q_(q_blocks_ * kBlockRows) {
    const int64_t rest = s_.batch * s_.heads % heads_;  // heads of the last round
    const int64_t dq_buffers = std::max(heads_ * parts_of(heads_), rest * parts_of(rest));
    k_at_ = head_.add<uint32_t>(padded_ * size_.d_units);
    v_at_ = head_.add<uint32_t>(padded_ * size_.v_units);
    q_t_at_ = head_.add<uint32_t>(padded_q_ * size_.d_units);
    dout_t_at_ = head_.add<uint32_t>(padded_q_ * size_.v_units);
    k_paired_at_ = head_.add<uint32_t>(padded_ / Base::kUnit * size_.d_cols);
    q_at_ = head_.add<uint32_t>(padded_q_ / Base::kUnit * size_.d_cols);
    dout_at_ = head_.add<uint32_t>(padded_q_ / Base::kUnit * size_.v_cols);
    lse_at_ = head_.add<float>(padded_q_);
    delta_at_ = head_.add<float>(padded_q_);
    dq_at_ = shared_.add<float>(dq_buffers * padded_q_ * size_.d_cols);
    dk_rope_at_ = shared_.add<float>(std::max(heads_, s_.heads) * s_.sequence * s_.rope_dim);
    dk_rope_sum_at_ = shared_.add<float>(s_.sequence * s_.rope_dim);
    scores_at_ = own_.add<float>(Base::kBlockScores);
    dp_at_ = own_.add<float>(Base::kBlockScores);
    p_at_ = own_.add<T>(Base::kBlockScores);
    ds_at_ = own_.add<T>(Base::kBlockScores);
    ds_paired_at_ = Base::kUnit == 1 ? ds_at_ : own_.add<T>(Base::kBlockScores);
    out_t_at_ = own_.add<uint32_t>(kBlockRows * size_.v_units);
    dk_at_ = own_.add<float>(kBlockRows * size_.d_cols);
    dv_at_ = own_.add<float>(kBlockRows * size_.v_cols);
    if (Base::lead_ > 0) rows_at_ = own_.add<T>(kBlockRows * std::max(d_, s_.v_dim));
    shared_memory_ =
        ctx.workspace->reserve(shared_.size() + heads_ * head_.size() + threads_ * own_.size());
    head_memory_ = shared_memory_ + shared_.size();
    own_memory_ = head_memory_ + heads_ * head_.size();
  }

  void run() {
    if (whole_heads_) {
      for (int64_t sequence = 0; sequence < s_.batch; ++sequence) run_sequence(sequence * s_.heads);
      return;
    }
    const int64_t all = s_.batch * s_.heads;
    for (int64_t first = 0; first < all; first += heads_) {
      const int64_t round = std::min(heads_, all - first), parts = parts_of(round);
      for_each_item(
          round * blocks_, threads_, own_memory_, own_.size(),
          [&](int64_t item, std::byte* own) { pack(first, item / blocks_, item % blocks_, own); });
      for_each_item(round * parts, threads_, own_memory_, own_.size(),
                    [&](int64_t item, std::byte* own) {
                      float* dq = dq_buffer(item);
                      std::fill(dq, dq + padded_q_ * size_.d_cols, 0.0f);
                      for (int64_t j = item % parts; j < blocks_; j += parts)
                        key_block(first, item / parts, j, dq, dk_rope_of(item / parts), own);
                    });
      for_each_item(round * q_blocks_, threads_, own_memory_, 0, [&](int64_t item, std::byte*) {
        store_dq(first, item / q_blocks_, item % q_blocks_, parts);
      });
      for (int64_t slot = 0; slot < round && s_.rope_dim > 0; ++slot)
        add_dk_rope(first + slot, dk_rope_of(slot));
    }
  }

 private:
  // All heads of a sequence, each by one thread from packing to storing.
  void run_sequence(int64_t first) {
    for_each_item(s_.heads, threads_, own_memory_, own_.size(), [&](int64_t h, std::byte* own) {
      const int64_t slot = (own - own_memory_) / static_cast<int64_t>(own_.size());
      const int64_t base = first + h - slot;
      for (int64_t b = 0; b < blocks_; ++b) pack(base, slot, b, own);
      float* dq = dq_buffer(slot);
      std::fill(dq, dq + padded_q_ * size_.d_cols, 0.0f);
      for (int64_t j = 0; j < blocks_; ++j) key_block(base, slot, j, dq, dk_rope_of(h), own);
      for (int64_t i = 0; i < q_blocks_; ++i) store_dq(base, slot, i, 1);
    });
    for (int64_t h = 0; h < s_.heads && s_.rope_dim > 0; ++h) add_dk_rope(first + h, dk_rope_of(h));
  }

  int64_t parts_of(int64_t round) const {
    return round == 0 ? 0 : std::min<int64_t>(blocks_, ceil_div(threads_, round));
  }
  template <typename E = uint32_t>
  E* of_head(int64_t slot, size_t at) const {
    return reinterpret_cast<E*>(head_memory_ + slot * head_.size() + at);
  }
  // [sequence, rope] of the i-th head at work.
  float* dk_rope_of(int64_t i) const {
    return reinterpret_cast<float*>(shared_memory_ + dk_rope_at_) + i * s_.sequence * s_.rope_dim;
  }
  float* dq_buffer(int64_t item) const {
    return reinterpret_cast<float*>(shared_memory_ + dq_at_) + item * padded_q_ * size_.d_cols;
  }

  // Block b of the keys and values of a head, and of the queries that stand there.
  void pack(int64_t first, int64_t slot, int64_t b, std::byte* own) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const int64_t begin = b * kBlockRows, rows = Base::rows(b);
    const int64_t d_block = kBlockUnits * size_.d_cols;
    uint32_t* k = of_head(slot, k_at_) + begin * size_.d_units;
    Base::pack_k(head, b, k);
    avx512::pack_paired(reinterpret_cast<const T*>(k), size_.d_units * Base::kUnit, rows, d_,
                        of_head(slot, k_paired_at_) + b * d_block, kBlockUnits, size_.d_cols);
    const int64_t v_width = size_.v_units * Base::kUnit;
    avx512::copy_rows(head.v + begin * head.kv_stride, head.kv_stride, rows, s_.v_dim,
                      of_head<T>(slot, v_at_) + begin * v_width, kBlockRows, v_width, v_width);
    if (b >= first_q_) pack_queries(head, slot, b - first_q_, own);
  }

  // Block i of the queries.
  void pack_queries(const HeadRows<T>& head, int64_t slot, int64_t i, std::byte* own) const {
    const int64_t begin = i * kBlockRows;
    const int64_t d_block = kBlockUnits * size_.d_cols, v_block = kBlockUnits * size_.v_cols;
    const typename Base::QueryRows rows = Base::query_rows(i);
    T* scratch = reinterpret_cast<T*>(own + rows_at_);
    int64_t stride = head.q_stride;
    const T* q = Base::block_rows(rows, head.q + rows.first * stride, d_, scratch, &stride);
    avx512::pack_transposed(q, stride, rows.rows(), d_,
                            of_head(slot, q_t_at_) + begin * size_.d_units, kBlockRows);
    avx512::pack_paired(q, stride, rows.rows(), d_, of_head(slot, q_at_) + i * d_block, kBlockUnits,
                        size_.d_cols);
    stride = args_.dout.stride;
    const T* dout = row_of<T>(args_.dout, head.q_token + rows.first) + head.h * s_.v_dim;
    dout = Base::block_rows(rows, dout, s_.v_dim, scratch, &stride);
    avx512::pack_transposed(dout, stride, rows.rows(), s_.v_dim,
                            of_head(slot, dout_t_at_) + begin * size_.v_units, kBlockRows);
    avx512::pack_paired(dout, stride, rows.rows(), s_.v_dim, of_head(slot, dout_at_) + i * v_block,
                        kBlockUnits, size_.v_cols);
    pack_statistics(head, slot, i, own);
  }

  // Rows that pad a block get the log-sum-exp +∞: their probabilities are 0.
  void pack_statistics(const HeadRows<T>& head, int64_t slot, int64_t i, std::byte* own) const {
    constexpr float kLog2E = 1.44269504088896341f;
    const int64_t begin = i * kBlockRows;
    const typename Base::QueryRows rows = Base::query_rows(i);
    float* delta = of_head<float>(slot, delta_at_) + begin;
    float* lse = of_head<float>(slot, lse_at_) + begin;
    uint32_t* out_t = reinterpret_cast<uint32_t*>(own + out_t_at_);
    int64_t stride = args_.out.stride;
    const T* out = row_of<T>(args_.out, head.q_token + rows.first) + head.h * s_.v_dim;
    out = Base::block_rows(rows, out, s_.v_dim, reinterpret_cast<T*>(own + rows_at_), &stride);
    avx512::pack_transposed(out, stride, rows.rows(), s_.v_dim, out_t, kBlockRows);
    avx512::dot_rows<T>(of_head(slot, dout_t_at_) + begin * size_.v_units, out_t, size_.v_units,
                        delta);
    std::fill(lse, lse + kBlockRows, std::numeric_limits<float>::infinity());
    for (int64_t r = 0; r < rows.count; ++r) {
      const int64_t token = head.q_token + rows.first + r;
      lse[rows.skip + r] = args_.lse.data[token * s_.heads + head.h] * kLog2E;
    }
  }

  // Block j of the keys of one head against all queries that see it: its dk and dv whole, its share
  // of dq.
  void key_block(int64_t first, int64_t slot, int64_t j, float* dq, float* dk_rope,
                 std::byte* own) const {
    const int64_t d_block = kBlockUnits * size_.d_cols, v_block = kBlockUnits * size_.v_cols;
    avx512::BackwardBlock<T> block{.size = size_,
                                   .scale = s_.scale,
                                   .k = of_head(slot, k_at_) + j * kBlockRows * size_.d_units,
                                   .k_paired = of_head(slot, k_paired_at_) + j * d_block,
                                   .v = of_head(slot, v_at_) + j * kBlockRows * size_.v_units,
                                   .scores = reinterpret_cast<float*>(own + scores_at_),
                                   .dp = reinterpret_cast<float*>(own + dp_at_),
                                   .p = reinterpret_cast<uint32_t*>(own + p_at_),
                                   .ds = reinterpret_cast<uint32_t*>(own + ds_at_),
                                   .ds_paired = reinterpret_cast<uint32_t*>(own + ds_paired_at_),
                                   .dk = reinterpret_cast<float*>(own + dk_at_),
                                   .dv = reinterpret_cast<float*>(own + dv_at_)};
    std::fill(block.dk, block.dk + kBlockRows * size_.d_cols, 0.0f);
    std::fill(block.dv, block.dv + kBlockRows * size_.v_cols, 0.0f);
    for (int64_t i = std::max<int64_t>(j - first_q_, 0); i < q_blocks_; ++i) {
      const int64_t begin = i * kBlockRows;
      block.queries = Base::query_rows(i).rows();
      block.diagonal = first_q_ + i == j;
      block.q_t = of_head(slot, q_t_at_) + begin * size_.d_units;
      block.q = of_head(slot, q_at_) + i * d_block;
      block.dout_t = of_head(slot, dout_t_at_) + begin * size_.v_units;
      block.dout = of_head(slot, dout_at_) + i * v_block;
      block.lse = of_head<float>(slot, lse_at_) + begin;
      block.delta = of_head<float>(slot, delta_at_) + begin;
      block.dq = dq + begin * size_.d_cols;
      block.run();
    }
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const int64_t begin = j * kBlockRows, rows = Base::rows(j);
    T* dkv = row_of<T>(args_.dkv, head.token + begin) + head.h * (s_.nope_dim + s_.v_dim);
    avx512::store_rows(block.dk, size_.d_cols, rows, s_.nope_dim, dkv, args_.dkv.stride);
    avx512::store_rows(block.dv, size_.v_cols, rows, s_.v_dim, dkv + s_.nope_dim, args_.dkv.stride);
    avx512::store_rows(block.dk + s_.nope_dim, size_.d_cols, rows, s_.rope_dim,
                       dk_rope + begin * s_.rope_dim, s_.rope_dim);
  }

  void store_dq(int64_t first, int64_t slot, int64_t i, int64_t parts) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const typename Base::QueryRows rows = Base::query_rows(i);
    const int64_t begin = i * kBlockRows, count = rows.rows() * size_.d_cols;
    float* sum = dq_buffer(slot * parts) + begin * size_.d_cols;
    for (int64_t part = 1; part < parts; ++part) {
      const float* add = dq_buffer(slot * parts + part) + begin * size_.d_cols;
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) sum[c] += add[c];
    }
    avx512::store_rows(sum + rows.skip * size_.d_cols, size_.d_cols, rows.count, d_,
                       row_of<T>(args_.dq, head.q_token + rows.first) + head.h * d_,
                       args_.dq.stride);
  }

  void add_dk_rope(int64_t head, const float* add) const {
    sum_dk_rope<T>(args_, head, add, reinterpret_cast<float*>(shared_memory_ + dk_rope_sum_at_));
  }

  const ops::MlaAttentionBackward& args_;
  bool whole_heads_;           // enough of them: a thread does a head alone; else they go in rounds
  int64_t heads_;              // packed at a time
  int64_t padded_, padded_q_;  // rows of all blocks of keys, of queries
  Layout shared_, head_, own_;  // head_: one copy per head of a round; own_: one per thread
  size_t k_at_, v_at_, q_t_at_, dout_t_at_, k_paired_at_, q_at_, dout_at_, lse_at_, delta_at_;
  size_t dq_at_, dk_rope_at_, dk_rope_sum_at_;
  size_t scores_at_, dp_at_, p_at_, ds_at_, ds_paired_at_, out_t_at_, dk_at_, dv_at_;
  size_t rows_at_ = 0;  // where the first block of queries is not whole
  std::byte *shared_memory_, *head_memory_, *own_memory_;
};

}  // namespace

bool vector_attention(DType act) {
  return act == DType::kBf16 ? has_bf16_vectors() : has_f32_vectors();
}

void vector_attention_forward(const ops::Context& ctx, const ops::MlaAttentionForward& args) {
  dispatch(args.q.dtype, [&](auto act) { VectorForward<decltype(act)>(ctx, args).run(); });
}

void vector_attention_backward(const ops::Context& ctx, const ops::MlaAttentionBackward& args) {
  dispatch(args.q.dtype, [&](auto act) { VectorBackward<decltype(act)>(ctx, args).run(); });
}

}  // namespace dsv3::cpu
