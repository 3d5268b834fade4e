// Causal multi-head latent attention, backward: probabilities are recomputed block by block from
// the forward's log-sum-exp (Dao 2023, algorithm 2); contract in kernels/ops/args.h.
//
// Laws: never a [sequence, sequence] tensor; the order of every addition is fixed. Heads go in
// rounds of one per thread. With fewer heads than threads a head is shared by `parts_` threads,
// each taking every parts_-th block of keys and summing its own dq; the parts are then added in
// order. dk_rope is summed over heads in the order of the heads.
//
//   d = nope + rope    P = exp(scale · q kᵀ − lse)    D = rowsum(dout ∘ out)    dS = scale · P ∘
//   (dout vᵀ − D) dv = Pᵀ dout       dk = dSᵀ q                     dq = dS k
#include <cstring>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/cpu_ops.h"

namespace dsv3::cpu {
namespace {

// One row: p = exp(scale · s − lse) and ds = scale · p · (dp − delta) for the first `visible` of
// `count` columns, 0 behind; overwrites s and dp.
template <typename C>
void gradient_row(float* s, float* dp, C* p, C* ds, int64_t visible, int64_t count, float scale,
                  float lse, float delta) {
  const int64_t n = ceil_div(visible, kVisibleStep) * kVisibleStep;
  std::fill(s + visible, s + n, -std::numeric_limits<float>::infinity());
  std::fill(dp + visible, dp + n, 0.0f);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    s[i] = exp_f32(s[i] * scale - lse);
    dp[i] = scale * s[i] * (dp[i] - delta);
  }
  round_row(s, p, n);
  round_row(dp, ds, n);
  if (n == count) return;
  std::fill(p + n, p + count, C{});
  std::fill(ds + n, ds + count, C{});
}

// The five products of one (queries, keys) block pair.
struct Products {
  Products(const ops::MlaShape& s, const AttentionBlocks& b, DType dtype, int64_t q_stride,
           int64_t dout_stride)
      : scores(plain(b.q_rows, b.kv_rows, s.nope_dim + s.rope_dim, q_stride, dtype), RuntimeDim::kM,
               b),
        dp(plain(b.q_rows, b.kv_rows, s.v_dim, dout_stride, dtype), RuntimeDim::kM, b),
        dq(sum(b.q_rows, s.nope_dim + s.rope_dim, b.kv_rows, false, b.kv_rows, dtype),
           RuntimeDim::kM, b),
        dk(sum(b.kv_rows, s.nope_dim + s.rope_dim, b.q_rows, true, b.kv_rows, dtype),
           RuntimeDim::kK, b),
        dv(sum(b.kv_rows, s.v_dim, b.q_rows, true, b.kv_rows, dtype), RuntimeDim::kK, b) {}

  static MatmulShape plain(int64_t m, int64_t n, int64_t k, int64_t a_stride, DType dtype) {
    MatmulShape shape;
    shape.m = m, shape.n = n, shape.k = k;
    shape.a_stride = a_stride;
    shape.b_stride = shape.c_stride = n;
    shape.in = dtype;
    shape.packed_b = true;
    return shape;
  }
  static MatmulShape sum(int64_t m, int64_t n, int64_t k, bool transpose_a, int64_t a_stride,
                         DType dtype) {
    MatmulShape shape = plain(m, n, k, a_stride, dtype);
    shape.transpose_a = transpose_a;
    shape.accumulate = true;
    return shape;
  }
  size_t scratch_bytes() const {
    return std::max({scores.scratch_bytes(), dp.scratch_bytes(), dq.scratch_bytes(),
                     dk.scratch_bytes(), dv.scratch_bytes()});
  }

  BlockMatmul scores;  // S [queries, kv_rows] = q · kᵀ
  BlockMatmul dp;      // [queries, kv_rows] = dout · vᵀ
  BlockMatmul dq;      // [queries, d] += dS · k
  BlockMatmul dk;      // [kv_rows, d] += dSᵀ · q
  BlockMatmul dv;      // [kv_rows, v] += Pᵀ · dout
};

template <typename T, typename C>
class Backward {
  static constexpr bool kWiden = !std::is_same_v<T, C>;

 public:
  Backward(const ops::Context& ctx, const ops::MlaAttentionBackward& args)
      : args_(args),
        s_(args.shape),
        d_(s_.nope_dim + s_.rope_dim),
        num_queries_(s_.num_queries()),
        blocks_(s_),
        threads_(team_size()),
        heads_(std::min<int64_t>(s_.batch * s_.heads, threads_)),
        q_stride_(kWiden ? d_ : args.q.stride),
        dout_stride_(kWiden ? s_.v_dim : args.dout.stride),
        products_(s_, blocks_, dtype_of<C>(), q_stride_, dout_stride_) {
    const int64_t rest = s_.batch * s_.heads % heads_;  // heads of the last round
    const int64_t dq_buffers = std::max(heads_ * parts_of(heads_), rest * parts_of(rest));
    keys_t_at_ = head_.add_bytes(blocks_.num_kv * products_.scores.packed_bytes());
    keys_at_ = head_.add_bytes(blocks_.num_kv * products_.dq.packed_bytes());
    values_t_at_ = head_.add_bytes(blocks_.num_kv * products_.dp.packed_bytes());
    queries_at_ = head_.add_bytes(blocks_.num_q * products_.dk.packed_bytes());
    douts_at_ = head_.add_bytes(blocks_.num_q * products_.dv.packed_bytes());
    if (kWiden) {
      wide_q_at_ = head_.add<C>(num_queries_ * d_);
      wide_dout_at_ = head_.add<C>(num_queries_ * s_.v_dim);
    }
    delta_at_ = head_.add<float>(num_queries_);
    lse_at_ = head_.add<float>(num_queries_);
    dk_rope_at_ = head_.add<float>(s_.sequence * s_.rope_dim);
    dq_at_ = shared_.add<float>(dq_buffers * num_queries_ * d_);
    dk_rope_sum_at_ = shared_.add<float>(s_.sequence * s_.rope_dim);
    plain_at_ = own_.add<C>(blocks_.kv_rows * std::max(d_, s_.v_dim));
    s_at_ = own_.add<float>(blocks_.q_rows * blocks_.kv_rows);
    dp_at_ = own_.add<float>(blocks_.q_rows * blocks_.kv_rows);
    p_at_ = own_.add<C>(blocks_.q_rows * blocks_.kv_rows);
    ds_at_ = own_.add<C>(blocks_.q_rows * blocks_.kv_rows);
    dk_at_ = own_.add<float>(blocks_.kv_rows * d_);
    dv_at_ = own_.add<float>(blocks_.kv_rows * s_.v_dim);
    scratch_at_ = own_.add_bytes(products_.scratch_bytes());
    shared_memory_ =
        ctx.workspace->reserve(shared_.size() + heads_ * head_.size() + threads_ * own_.size());
    head_memory_ = shared_memory_ + shared_.size();
    own_memory_ = head_memory_ + heads_ * head_.size();
  }

  void run() {
    const int64_t all = s_.batch * s_.heads;
    for (int64_t first = 0; first < all; first += heads_) {
      const int64_t round = std::min(heads_, all - first), parts = parts_of(round);
      const int64_t blocks = blocks_.num_kv + blocks_.num_q;
      for_each_item(round * blocks, threads_, own_memory_, own_.size(),
                    [&](int64_t item, std::byte* own) {
                      const int64_t slot = item / blocks, block = item % blocks;
                      if (block < blocks_.num_kv) {
                        pack_keys(first, slot, block, own);
                      } else {
                        pack_queries(first, slot, block - blocks_.num_kv, own);
                      }
                    });
      for_each_item(round * parts, threads_, own_memory_, own_.size(),
                    [&](int64_t item, std::byte* own) {
                      float* dq = dq_buffer(item);
                      std::fill(dq, dq + num_queries_ * d_, 0.0f);
                      for (int64_t j = item % parts; j < blocks_.num_kv; j += parts)
                        key_block(first, item / parts, j, dq, own);
                    });
      for_each_item(round * blocks_.num_q, threads_, own_memory_, 0, [&](int64_t item, std::byte*) {
        store_dq(first, item / blocks_.num_q, item % blocks_.num_q, parts);
      });
      for (int64_t slot = 0; slot < round && s_.rope_dim > 0; ++slot)
        add_dk_rope(first + slot, slot);
    }
  }

 private:
  int64_t parts_of(int64_t round) const {
    return round == 0 ? 0 : std::min(blocks_.num_kv, ceil_div(threads_, round));
  }
  template <typename E>
  E* of_head(int64_t slot, size_t at) const {
    return reinterpret_cast<E*>(head_memory_ + slot * head_.size() + at);
  }
  std::byte* packed(int64_t slot, size_t at, const BlockMatmul& product, int64_t block) const {
    return of_head<std::byte>(slot, at) + block * product.packed_bytes();
  }
  float* dq_buffer(int64_t item) const {
    return reinterpret_cast<float*>(shared_memory_ + dq_at_) + item * num_queries_ * d_;
  }

  void pack_keys(int64_t first, int64_t slot, int64_t j, std::byte* own) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const int64_t begin = j * blocks_.kv_rows, rows = blocks_.keys(j);
    C* plain = reinterpret_cast<C*>(own + plain_at_);
    head.transposed_keys(s_, blocks_, j, plain);
    products_.scores.at(false).pack(plain, packed(slot, keys_t_at_, products_.scores, j));
    copy_block(head.k_nope + begin * head.kv_stride, head.kv_stride, rows, s_.nope_dim, plain, d_,
               blocks_.kv_rows);
    if (s_.rope_dim > 0) {
      copy_block(head.k_rope + begin * head.k_rope_stride, head.k_rope_stride, rows, s_.rope_dim,
                 plain + s_.nope_dim, d_, blocks_.kv_rows);
    }
    products_.dq.at(false).pack(plain, packed(slot, keys_at_, products_.dq, j));
    transpose_block(head.v + begin * head.kv_stride, head.kv_stride, rows, s_.v_dim, plain,
                    blocks_.kv_rows);
    products_.dp.at(false).pack(plain, packed(slot, values_t_at_, products_.dp, j));
  }

  // Block i of q and dout as right-hand sides, delta and lse as columns of their own.
  void pack_queries(int64_t first, int64_t slot, int64_t i, std::byte* own) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const int64_t begin = blocks_.first_query(i), rows = blocks_.queries(i);
    const bool is_short = blocks_.is_short(i);
    C* plain = reinterpret_cast<C*>(own + plain_at_);
    copy_block(head.q + begin * head.q_stride, head.q_stride, rows, d_, plain, d_, rows);
    products_.dk.at(is_short).pack(plain, packed(slot, queries_at_, products_.dk, i));
    if (kWiden)
      std::memcpy(of_head<C>(slot, wide_q_at_) + begin * d_, plain, rows * d_ * sizeof(C));
    const T* dout = row_of<T>(args_.dout, head.q_token + begin) + head.h * s_.v_dim;
    copy_block(dout, args_.dout.stride, rows, s_.v_dim, plain, s_.v_dim, rows);
    products_.dv.at(is_short).pack(plain, packed(slot, douts_at_, products_.dv, i));
    if (kWiden)
      std::memcpy(of_head<C>(slot, wide_dout_at_) + begin * s_.v_dim, plain,
                  rows * s_.v_dim * sizeof(C));
    for (int64_t r = begin; r < begin + rows; ++r) {
      const T* d = row_of<T>(args_.dout, head.q_token + r) + head.h * s_.v_dim;
      const T* o = row_of<T>(args_.out, head.q_token + r) + head.h * s_.v_dim;
      float delta = 0.0f;
#pragma omp simd reduction(+ : delta)
      for (int64_t c = 0; c < s_.v_dim; ++c) delta += to_float(d[c]) * to_float(o[c]);
      of_head<float>(slot, delta_at_)[r] = delta;
      of_head<float>(slot, lse_at_)[r] = args_.lse.data[(head.q_token + r) * s_.heads + head.h];
    }
  }

  // Block j of the keys of one head against all queries that see it: its dk and dv whole, its share
  // of dq.
  void key_block(int64_t first, int64_t slot, int64_t j, float* dq, std::byte* own) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const C* q = head_queries(head, slot);
    const C* dout = head_douts(head, slot);
    float* scores = reinterpret_cast<float*>(own + s_at_);
    float* dp = reinterpret_cast<float*>(own + dp_at_);
    C* p = reinterpret_cast<C*>(own + p_at_);
    C* ds = reinterpret_cast<C*>(own + ds_at_);
    float* dk = reinterpret_cast<float*>(own + dk_at_);
    float* dv = reinterpret_cast<float*>(own + dv_at_);
    std::byte* scratch = own + scratch_at_;
    const float* delta = of_head<float>(slot, delta_at_);
    const float* lse = of_head<float>(slot, lse_at_);
    const int64_t kv_rows = blocks_.kv_rows;
    std::fill(dk, dk + kv_rows * d_, 0.0f);
    std::fill(dv, dv + kv_rows * s_.v_dim, 0.0f);
    for (int64_t i = blocks_.first_q(j); i < blocks_.num_q; ++i) {
      const int64_t begin = blocks_.first_query(i), queries = blocks_.queries(i);
      const bool is_short = blocks_.is_short(i);
      products_.scores.at(is_short).run(
          q + begin * q_stride_, packed(slot, keys_t_at_, products_.scores, j), scores, scratch);
      products_.dp.at(is_short).run(dout + begin * dout_stride_,
                                    packed(slot, values_t_at_, products_.dp, j), dp, scratch);
      for (int64_t r = 0; r < queries; ++r) {
        const int64_t visible = blocks_.visible(begin + r, j);
        gradient_row(scores + r * kv_rows, dp + r * kv_rows, p + r * kv_rows, ds + r * kv_rows,
                     visible, kv_rows, s_.scale, lse[begin + r], delta[begin + r]);
      }
      products_.dv.at(is_short).run(p, packed(slot, douts_at_, products_.dv, i), dv, scratch);
      products_.dk.at(is_short).run(ds, packed(slot, queries_at_, products_.dk, i), dk, scratch);
      products_.dq.at(is_short).run(ds, packed(slot, keys_at_, products_.dq, j), dq + begin * d_,
                                    scratch);
    }
    float* dk_rope = of_head<float>(slot, dk_rope_at_);
    for (int64_t r = 0; r < blocks_.keys(j); ++r) {
      const int64_t position = j * kv_rows + r;
      T* dkv = row_of<T>(args_.dkv, head.token + position) + head.h * (s_.nope_dim + s_.v_dim);
      store_row(dk + r * d_, dkv, s_.nope_dim);
      store_row(dv + r * s_.v_dim, dkv + s_.nope_dim, s_.v_dim);
      std::copy_n(dk + r * d_ + s_.nope_dim, s_.rope_dim, dk_rope + position * s_.rope_dim);
    }
  }

  const C* head_queries(const HeadRows<T>& head, int64_t slot) const {
    if constexpr (kWiden)
      return of_head<C>(slot, wide_q_at_);
    else
      return head.q;
  }
  const C* head_douts(const HeadRows<T>& head, int64_t slot) const {
    if constexpr (kWiden)
      return of_head<C>(slot, wide_dout_at_);
    else
      return row_of<T>(args_.dout, head.q_token) + head.h * s_.v_dim;
  }

  void store_dq(int64_t first, int64_t slot, int64_t i, int64_t parts) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    for (int64_t r = blocks_.first_query(i); r < blocks_.first_query(i) + blocks_.queries(i); ++r) {
      float* sum = dq_buffer(slot * parts) + r * d_;
      for (int64_t part = 1; part < parts; ++part) {
        const float* add = dq_buffer(slot * parts + part) + r * d_;
#pragma omp simd
        for (int64_t c = 0; c < d_; ++c) sum[c] += add[c];
      }
      store_row(sum, row_of<T>(args_.dq, head.q_token + r) + head.h * d_, d_);
    }
  }

  void add_dk_rope(int64_t head, int64_t slot) const {
    sum_dk_rope<T>(args_, head, of_head<float>(slot, dk_rope_at_),
                   reinterpret_cast<float*>(shared_memory_ + dk_rope_sum_at_));
  }

  const ops::MlaAttentionBackward& args_;
  const ops::MlaShape& s_;
  int64_t d_, num_queries_;
  AttentionBlocks blocks_;
  int threads_;
  int64_t heads_;  // of one round
  int64_t q_stride_, dout_stride_;
  Products products_;
  Layout shared_, head_, own_;  // head_: one copy per head of a round; own_: one per thread
  size_t keys_t_at_, keys_at_, values_t_at_, queries_at_, douts_at_, wide_q_at_, wide_dout_at_,
      delta_at_, lse_at_, dk_rope_at_;
  size_t dq_at_, dk_rope_sum_at_;
  size_t plain_at_, s_at_, dp_at_, p_at_, ds_at_, dk_at_, dv_at_, scratch_at_;
  std::byte *shared_memory_, *head_memory_, *own_memory_;
};

}  // namespace

void mla_attention_backward(const ops::Context& ctx, const ops::MlaAttentionBackward& args) {
  if (args.shape.batch * args.shape.sequence * args.shape.heads == 0) return;
  if (vector_attention(args.q.dtype)) return vector_attention_backward(ctx, args);
  dispatch_attention(args.q.dtype, [&](auto act, auto compute) {
    Backward<decltype(act), decltype(compute)>(ctx, args).run();
  });
}

}  // namespace dsv3::cpu
