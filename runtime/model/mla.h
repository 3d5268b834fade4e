// MlaBlock: multi-head latent attention (DeepSeek-V2 §2.1) with decoupled interleaved RoPE.
//
// Law: the latents are what is computed and kept; one product makes both (in_proj), keys and values
// are expanded from the normed kv latent, and all heads share one rotated key part. With a direct
// query (q_lora_rank null) in_proj's first rows are the query.
//   latent = x · in_projᵀ = [q part | kv latent | k_rope]
//   q = norm(q part) · q_bᵀ, or the q part itself;  kv = norm(kv latent) · kv_bᵀ
//   y += attention(q, kv, k_rope) · o_projᵀ
// Under TP a rank has its heads of q_b, kv_b and o_proj; the latents are made from its own tokens
// and gathered, the partial sums of o_proj scattered. Under CP the normed kv latent and k_rope
// travel, not the heads' keys and values (DeepSeek-V3: 576 numbers a token against 32,768): every
// CP rank up-projects whole sequences for its heads, and its queries are two parts of each
// (pass.h). What was gathered is not kept: the backward gathers again. Axis words, heads being this
// rank's: query_width = heads · (nope + rope), kv_width = heads · (nope + v), value_width = heads ·
// v. The norms of the two latents have an epsilon of their own, 1e-6: DeepSeek's modelling code
// (and transformers after it) gives them no rms_norm_eps.
#pragma once

#include <string>

#include "runtime/model/pass.h"

namespace dsv3::model {

// Epsilon of q_a_layernorm and kv_a_layernorm, whatever model.rms_norm_eps says.
inline constexpr float kLatentNormEps = 1e-6f;

// What the forward leaves for the backward. All pushed on the arena, in this order. Under selective
// recomputation q (not a direct query) and kv are empty, and under CP kv is, which would be as
// large as if there was no CP: the backward projects the latents up again.
struct MlaStash {
  tensor::Tensor latent;  // [tokens, q part + kv_lora_rank + rope] act; k_rope (and a direct query)
                          // rotated in place. Under TP a direct query is no part of it
  tensor::Tensor q_normed;   // [tokens, q_lora_rank] act; empty with a direct query
  tensor::Tensor q_rstd;     // [tokens] f32; empty with a direct query
  tensor::Tensor q;          // [gathered_tokens, query_width] act, rotated; empty if in latent
  tensor::Tensor kv_normed;  // [tokens, kv_lora_rank] act
  tensor::Tensor kv_rstd;    // [tokens] f32
  tensor::Tensor kv;         // [sequences · sequence, kv_width] act
  tensor::Tensor out;        // [gathered_tokens, value_width] act
  tensor::Tensor lse;        // [gathered_tokens, heads] f32
};
// What the heads' projections read, where it is not all here.
struct MlaInputs {
  tensor::Tensor query;    // [gathered_tokens, q_lora_rank] act, or x [.., d_model] for a direct
                           // query; empty with TP 1
  tensor::Tensor latents;  // [sequences · sequence, kv_lora_rank + rope] act: normed kv latent and
                           // rotated k_rope; empty with TP and CP 1
};
// What backward_input leaves for backward_weight.
struct MlaGrad {
  tensor::Tensor dlatent;  // [tokens, as latent] act
  tensor::Tensor dq;       // [gathered_tokens, query_width] act; empty if in dlatent
  tensor::Tensor dkv;      // [sequences · sequence, kv_width] act
  tensor::Tensor dy;       // [gathered_tokens, d_model] act; empty with TP 1
  MlaInputs inputs;        // without a direct query's x
};

class MlaBlock {
 public:
  // `prefix` is "model.layers.N.self_attn".
  MlaBlock(const spec::ModelSpec& model, const ParamStore& params, const std::string& prefix);

  // cos, sin [pass.gathered_sequence(), rope / 2], of token_positions(). y += block(x); x, y
  // [tokens, d_model] act.
  void forward(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
               ops::ConstMatrix x, ops::Matrix y, MlaStash& stash) const;
  // dx = gradient of x; dy [tokens, d_model] act. Pushes grad's tensors.
  void backward_input(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                      const MlaStash& stash, ops::ConstMatrix dy, ops::Matrix dx,
                      MlaGrad& grad) const;
  // Accumulates the gradients of the four projections. x and dy as they were in forward and
  // backward_input.
  void backward_weight(const Pass& pass, const MlaStash& stash, ops::ConstMatrix x,
                       ops::ConstMatrix dy, const MlaGrad& grad) const;

 private:
  class Gather;  // the inputs on their way
  // One call of the attention: rows of the queries and of the keys that it is about.
  struct Call {
    ops::MlaShape shape;
    int64_t first_query = 0, first_key = 0;
    bool later = true;  // of a sequence's two parts the one that sees more: comes first
    int64_t queries() const { return shape.batch * shape.num_queries(); }
    int64_t keys() const { return shape.batch * shape.sequence; }
  };

  bool direct_query() const { return q_rank_ == 0; }
  bool query_in_latent() const { return direct_query() && tp_ == 1; }
  bool keeps_query(const Pass& pass) const {
    return direct_query() || pass.recompute != Recompute::kSelective;
  }
  bool keeps_kv(const Pass& pass) const {
    return pass.cp() == 1 && pass.recompute != Recompute::kSelective;
  }
  int64_t query_width() const { return heads_ * (nope_dim_ + rope_dim_); }
  int64_t kv_width() const { return heads_ * (nope_dim_ + v_dim_); }
  // The columns of [q part | kv latent | k_rope] in `latent`.
  ops::Matrix query_part(const tensor::Tensor& latent) const;
  ops::Matrix kv_part(const tensor::Tensor& latent) const;
  ops::Matrix rope_part(const tensor::Tensor& latent) const;
  // The query [gathered_tokens, query_width], wherever it lies.
  ops::Matrix query(const tensor::Tensor& latent, const tensor::Tensor& q) const;
  // Normed kv latent and rotated k_rope of whole sequences, wherever they lie.
  ops::ConstMatrix kv_input(const MlaStash& stash, const MlaInputs& inputs) const;
  ops::ConstMatrix rope_input(const MlaStash& stash, const MlaInputs& inputs) const;
  MlaInputs push_inputs(const Pass& pass, bool with_query, int64_t query_cols) const;

  void push_stash(const Pass& pass, MlaStash& stash) const;
  void rotate_query(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                    ops::Matrix q, bool transpose) const;
  // k_rope [tokens, rope]: this rank's own tokens.
  void rotate_key(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                  ops::Matrix k_rope, bool transpose) const;
  // kv of the positions that this rank's queries see.
  void expand_kv(const Pass& pass, ops::ConstMatrix latents, const tensor::Tensor& kv) const;
  template <typename F>
  void for_each_call(const Pass& pass, const F& f) const;
  void attend_backward(const Pass& pass, const MlaStash& stash, ops::ConstMatrix q,
                       const tensor::Tensor& kv, ops::ConstMatrix k_rope, ops::ConstMatrix dout,
                       ops::Matrix dq, const MlaGrad& grad, ops::Matrix dk_rope) const;
  // From the gradients of the heads' projections to dlatent.
  void latent_backward(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                       const MlaStash& stash, const MlaGrad& grad, ops::Matrix partial) const;

  int64_t tp_, heads_, nope_dim_, rope_dim_, v_dim_, q_rank_, kv_rank_, q_part_;
  float scale_;
  Weight in_proj_, q_b_proj_, kv_b_proj_, o_proj_;  // under TP a direct query's is q_b_proj_
  Gain q_norm_, kv_norm_;
};

}  // namespace dsv3::model
