// Causal multi-head latent attention, forward: blocks of queries against blocks of keys with a
// running softmax (Milakov & Gimelshein 2018; Dao 2023); contract in kernels/ops/args.h.
//
// Laws: never a [sequence, sequence] tensor; blocks above the diagonal are not computed; an output
// block is computed whole by one thread, so its bits do not depend on the team. Heads go in rounds:
// their keys and values are packed once, then every block of queries of the round is a piece of
// work, longest first.
//
//   d = nope + rope    S scores [queries, kv_rows] f32    P probabilities, unnormalised, in C    m,
//   l running maximum and sum
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/cpu_ops.h"

namespace dsv3::cpu {
namespace {

// One row of the running softmax: p = exp(scale · s − m) for the first `visible` of `count` scores,
// 0 behind; updates m and l and overwrites s. Returns what the row's accumulated output must be
// multiplied with. scale > 0.
template <typename C>
float softmax_row(float* s, C* p, int64_t visible, int64_t count, float scale, float* m, float* l) {
  const int64_t n = ceil_div(visible, kVisibleStep) * kVisibleStep;
  if (visible < n) std::fill(s + visible, s + n, -std::numeric_limits<float>::infinity());
  const float m_new = std::max(*m, max_of(s, n) * scale);
  const float correction = exp_f32(*m - m_new);
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    s[i] = exp_f32(s[i] * scale - m_new);
    sum += s[i];
  }
  round_row(s, p, n);
  if (n < count) std::fill(p + n, p + count, C{});
  *l = *l * correction + sum;
  *m = m_new;
  return correction;
}

template <typename T, typename C>
class Forward {
 public:
  Forward(const ops::Context& ctx, const ops::MlaAttentionForward& args)
      : args_(args),
        s_(args.shape),
        d_(s_.nope_dim + s_.rope_dim),
        blocks_(s_),
        threads_(team_size()),
        heads_(std::min<int64_t>(s_.batch * s_.heads, 2 * threads_)),
        scores_(scores_shape(), RuntimeDim::kM, blocks_),
        values_(values_shape(), RuntimeDim::kM, blocks_) {
    const int64_t packed = heads_ * blocks_.num_kv;
    keys_at_ = shared_.add_bytes(packed * scores_.packed_bytes());
    values_at_ = shared_.add_bytes(packed * values_.packed_bytes());
    plain_at_ = own_.add<C>(blocks_.kv_rows * std::max(d_, s_.v_dim));
    if constexpr (!std::is_same_v<T, C>) q_at_ = own_.add<C>(blocks_.q_rows * d_);
    s_at_ = own_.add<float>(blocks_.q_rows * blocks_.kv_rows);
    p_at_ = own_.add<C>(blocks_.q_rows * blocks_.kv_rows);
    o_at_ = own_.add<float>(blocks_.q_rows * s_.v_dim);
    stats_at_ = own_.add<float>(2 * blocks_.q_rows);
    scratch_at_ = own_.add_bytes(std::max(scores_.scratch_bytes(), values_.scratch_bytes()));
    memory_ = ctx.workspace->reserve(shared_.size() + threads_ * own_.size());
  }

  void run() {
    const int64_t all = s_.batch * s_.heads;
    std::byte* own = memory_ + shared_.size();
    for (int64_t first = 0; first < all; first += heads_) {
      const int64_t round = std::min(heads_, all - first);
      for_each_item(round * blocks_.num_kv, threads_, own, own_.size(),
                    [&](int64_t item, std::byte* scratch) {
                      pack(first, item / blocks_.num_kv, item % blocks_.num_kv, scratch);
                    });
      for_each_item(round * blocks_.num_q, threads_, own, own_.size(),
                    [&](int64_t item, std::byte* scratch) {
                      attend(first, item % round, blocks_.num_q - 1 - item / round, scratch);
                    });
    }
  }

 private:
  // S [queries, kv_rows] = q [queries, d] · kᵀ [d, kv_rows].
  MatmulShape scores_shape() const {
    MatmulShape shape;
    shape.m = blocks_.q_rows, shape.n = blocks_.kv_rows, shape.k = d_;
    shape.a_stride = std::is_same_v<T, C> ? args_.q.stride : d_;
    shape.b_stride = shape.c_stride = blocks_.kv_rows;
    shape.in = dtype_of<C>();
    shape.packed_b = true;
    return shape;
  }
  // O [queries, v] += P [queries, kv_rows] · V [kv_rows, v].
  MatmulShape values_shape() const {
    MatmulShape shape;
    shape.m = blocks_.q_rows, shape.n = s_.v_dim, shape.k = blocks_.kv_rows;
    shape.a_stride = blocks_.kv_rows;
    shape.b_stride = shape.c_stride = s_.v_dim;
    shape.accumulate = true;
    shape.in = dtype_of<C>();
    shape.packed_b = true;
    return shape;
  }

  std::byte* packed_keys(int64_t slot, int64_t j) const {
    return memory_ + keys_at_ + (slot * blocks_.num_kv + j) * scores_.packed_bytes();
  }
  std::byte* packed_values(int64_t slot, int64_t j) const {
    return memory_ + values_at_ + (slot * blocks_.num_kv + j) * values_.packed_bytes();
  }

  void pack(int64_t first, int64_t slot, int64_t j, std::byte* scratch) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    C* plain = reinterpret_cast<C*>(scratch + plain_at_);
    head.transposed_keys(s_, blocks_, j, plain);
    scores_.at(false).pack(plain, packed_keys(slot, j));
    copy_block(head.v + j * blocks_.kv_rows * head.kv_stride, head.kv_stride, blocks_.keys(j),
               s_.v_dim, plain, s_.v_dim, blocks_.kv_rows);
    values_.at(false).pack(plain, packed_values(slot, j));
  }

  // Block i of the queries of one head against all keys it may see.
  void attend(int64_t first, int64_t slot, int64_t i, std::byte* scratch) const {
    const HeadRows<T> head(s_, first + slot, args_.q, args_.kv, args_.k_rope);
    const int64_t begin = blocks_.first_query(i), queries = blocks_.queries(i);
    const bool is_short = blocks_.is_short(i);
    const void* q = head.q + begin * head.q_stride;
    if constexpr (!std::is_same_v<T, C>) {
      C* wide = reinterpret_cast<C*>(scratch + q_at_);
      copy_block(head.q + begin * head.q_stride, head.q_stride, queries, d_, wide, d_, queries);
      q = wide;
    }
    float* scores = reinterpret_cast<float*>(scratch + s_at_);
    C* p = reinterpret_cast<C*>(scratch + p_at_);
    float* o = reinterpret_cast<float*>(scratch + o_at_);
    float* m = reinterpret_cast<float*>(scratch + stats_at_);
    float* l = m + blocks_.q_rows;
    std::fill(o, o + queries * s_.v_dim, 0.0f);
    std::fill(m, m + queries, -std::numeric_limits<float>::infinity());
    std::fill(l, l + queries, 0.0f);
    for (int64_t j = 0; j <= blocks_.last_kv(i); ++j) {
      scores_.at(is_short).run(q, packed_keys(slot, j), scores, scratch + scratch_at_);
      for (int64_t r = 0; r < queries; ++r) {
        const int64_t visible = blocks_.visible(begin + r, j);
        const float correction = softmax_row(scores + r * blocks_.kv_rows, p + r * blocks_.kv_rows,
                                             visible, blocks_.kv_rows, s_.scale, m + r, l + r);
        if (correction == 1.0f) continue;
        float* row = o + r * s_.v_dim;
#pragma omp simd
        for (int64_t c = 0; c < s_.v_dim; ++c) row[c] *= correction;
      }
      values_.at(is_short).run(p, packed_values(slot, j), o, scratch + scratch_at_);
    }
    for (int64_t r = 0; r < queries; ++r) {
      const int64_t token = head.q_token + begin + r;
      T* out = row_of<T>(args_.out, token) + head.h * s_.v_dim;
      const float inverse = 1.0f / l[r];
#pragma omp simd
      for (int64_t c = 0; c < s_.v_dim; ++c) out[c] = from_float<T>(o[r * s_.v_dim + c] * inverse);
      args_.lse.data[token * s_.heads + head.h] = m[r] + std::log(l[r]);
    }
  }

  const ops::MlaAttentionForward& args_;
  const ops::MlaShape& s_;
  int64_t d_;
  AttentionBlocks blocks_;
  int threads_;
  int64_t heads_;  // of one round
  BlockMatmul scores_, values_;
  Layout shared_, own_;  // own_: one copy per thread
  size_t keys_at_, values_at_, plain_at_, q_at_, s_at_, p_at_, o_at_, stats_at_, scratch_at_;
  std::byte* memory_;
};

}  // namespace

void mla_attention_forward(const ops::Context& ctx, const ops::MlaAttentionForward& args) {
  if (args.shape.batch * args.shape.sequence * args.shape.heads == 0) return;
  if (vector_attention(args.q.dtype)) return vector_attention_forward(ctx, args);
  dispatch_attention(args.q.dtype, [&](auto act, auto compute) {
    Forward<decltype(act), decltype(compute)>(ctx, args).run();
  });
}

}  // namespace dsv3::cpu
