// MlaBlock: multi-head latent attention (DeepSeek-V2 §2.1) with decoupled interleaved RoPE.
//
// Law: the latents are what is computed and kept; one product makes both (in_proj), keys and values
// are expanded from the normed kv latent, and all heads share one rotated key part. With a direct
// query (q_lora_rank null) in_proj's first rows are the query.
//   latent = x · in_projᵀ = [q part | kv latent | k_rope]
//   q = norm(q part) · q_bᵀ, or the q part itself;  kv = norm(kv latent) · kv_bᵀ
//   y += attention(q, kv, k_rope) · o_projᵀ
// Axis words: query_width = heads · (nope + rope), kv_width = heads · (nope + v),
// value_width = heads · v.
// The norms of the two latents have an epsilon of their own, 1e-6: DeepSeek's modelling code (and
// transformers after it) gives them no rms_norm_eps.
#pragma once

#include <string>

#include "runtime/model/pass.h"

namespace dsv3::model {

// Epsilon of q_a_layernorm and kv_a_layernorm, whatever model.rms_norm_eps says.
inline constexpr float kLatentNormEps = 1e-6f;

// What the forward leaves for the backward. All pushed on the arena, in this order.
struct MlaStash {
  tensor::Tensor latent;  // [tokens, q part + kv_lora_rank + rope] act; k_rope (and a direct query)
                          // rotated in place
  tensor::Tensor q_normed;   // [tokens, q_lora_rank] act; empty with a direct query
  tensor::Tensor q_rstd;     // [tokens] f32; empty with a direct query
  tensor::Tensor q;          // [tokens, query_width] act, rotated; empty with a direct query
  tensor::Tensor kv_normed;  // [tokens, kv_lora_rank] act
  tensor::Tensor kv_rstd;    // [tokens] f32
  tensor::Tensor kv;         // [tokens, kv_width] act
  tensor::Tensor out;        // [tokens, value_width] act
  tensor::Tensor lse;        // [tokens, heads] f32
};
// What backward_input leaves for backward_weight.
struct MlaGrad {
  tensor::Tensor dlatent;  // [tokens, as latent] act
  tensor::Tensor dq;       // [tokens, query_width] act; empty with a direct query
  tensor::Tensor dkv;      // [tokens, kv_width] act
};

class MlaBlock {
 public:
  // `prefix` is "model.layers.N.self_attn".
  MlaBlock(const spec::ModelSpec& model, const ParamStore& params, const std::string& prefix);

  // cos, sin [pass.sequence, rope / 2]. y += block(x); x, y [tokens, d_model] act.
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
  bool direct_query() const { return q_rank_ == 0; }
  ops::MlaShape shape(const Pass& pass) const;
  // The columns of [q part | kv latent | k_rope] in `latent`.
  ops::Matrix query_part(const tensor::Tensor& latent) const;
  ops::Matrix kv_part(const tensor::Tensor& latent) const;
  ops::Matrix rope_part(const tensor::Tensor& latent) const;
  // The query [tokens, query_width], wherever it lies.
  ops::Matrix query(const tensor::Tensor& latent, const tensor::Tensor& q) const;
  void rotate(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
              ops::Matrix q, ops::Matrix k_rope, bool transpose) const;

  int64_t heads_, nope_dim_, rope_dim_, v_dim_, q_rank_, kv_rank_, q_part_;
  float scale_;
  Weight in_proj_, q_b_proj_, kv_b_proj_, o_proj_;
  Gain q_norm_, kv_norm_;
};

}  // namespace dsv3::model
