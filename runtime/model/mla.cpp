// Forward and backward of multi-head latent attention; see mla.h.
#include "runtime/model/mla.h"

#include "runtime/model/norm.h"
#include "runtime/model/rope_tables.h"

namespace dsv3::model {

MlaBlock::MlaBlock(const spec::ModelSpec& model, const ParamStore& params,
                   const std::string& prefix)
    : heads_(model.num_heads),
      nope_dim_(model.mla.qk_nope_head_dim),
      rope_dim_(model.mla.qk_rope_head_dim),
      v_dim_(model.mla.v_head_dim),
      q_rank_(model.mla.q_lora_rank.value_or(0)),
      kv_rank_(model.mla.kv_lora_rank),
      q_part_(q_rank_ > 0 ? q_rank_ : heads_ * (nope_dim_ + rope_dim_)),
      scale_(softmax_scale(model.mla)),
      in_proj_(params.weight(prefix + ".in_proj")),
      kv_b_proj_(params.weight(prefix + ".kv_b_proj")),
      o_proj_(params.weight(prefix + ".o_proj")),
      kv_norm_(params.gain(prefix + ".kv_a_layernorm")) {
  if (direct_query()) return;
  q_b_proj_ = params.weight(prefix + ".q_b_proj");
  q_norm_ = params.gain(prefix + ".q_a_layernorm");
}

ops::MlaShape MlaBlock::shape(const Pass& pass) const {
  return {.batch = pass.sequences,
          .sequence = pass.sequence,
          .heads = heads_,
          .nope_dim = nope_dim_,
          .rope_dim = rope_dim_,
          .v_dim = v_dim_,
          .scale = scale_};
}

ops::Matrix MlaBlock::query_part(const tensor::Tensor& latent) const {
  return latent.matrix().col_range(0, q_part_);
}
ops::Matrix MlaBlock::kv_part(const tensor::Tensor& latent) const {
  return latent.matrix().col_range(q_part_, kv_rank_);
}
ops::Matrix MlaBlock::rope_part(const tensor::Tensor& latent) const {
  return latent.matrix().col_range(q_part_ + kv_rank_, rope_dim_);
}
ops::Matrix MlaBlock::query(const tensor::Tensor& latent, const tensor::Tensor& q) const {
  return direct_query() ? query_part(latent) : q.matrix();
}

void MlaBlock::rotate(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                      ops::Matrix q, ops::Matrix k_rope, bool transpose) const {
  if (rope_dim_ == 0) return;
  ops::Rope args{.x = q.col_range(nope_dim_, rope_dim_).data,
                 .dtype = pass.act,
                 .tokens = pass.tokens(),
                 .heads = heads_,
                 .token_stride = q.stride,
                 .head_stride = nope_dim_ + rope_dim_,
                 .rope_dim = rope_dim_,
                 .sequence = pass.sequence,
                 .cos = cos,
                 .sin = sin,
                 .transpose = transpose};
  ops::rope(pass.ctx, args);
  args.x = k_rope.data;
  args.heads = 1;
  args.token_stride = k_rope.stride;
  args.head_stride = rope_dim_;
  ops::rope(pass.ctx, args);
}

void MlaBlock::forward(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                       ops::ConstMatrix x, ops::Matrix y, MlaStash& stash) const {
  stash.latent = pass.push("activations/attention/latent", q_part_ + kv_rank_ + rope_dim_);
  linear(pass, x, in_proj_, stash.latent);
  if (!direct_query()) {
    stash.q_normed = pass.push("activations/attention/latent", q_rank_);
    stash.q_rstd = pass.push_f32("activations/attention/statistics", {pass.tokens()});
    stash.q = pass.push("activations/attention/q", heads_ * (nope_dim_ + rope_dim_));
    norm_forward(pass, q_norm_, kLatentNormEps, query_part(stash.latent), stash.q_normed,
                 stash.q_rstd);
    linear(pass, stash.q_normed, q_b_proj_, stash.q);
  }
  stash.kv_normed = pass.push("activations/attention/latent", kv_rank_);
  stash.kv_rstd = pass.push_f32("activations/attention/statistics", {pass.tokens()});
  stash.kv = pass.push("activations/attention/kv", heads_ * (nope_dim_ + v_dim_));
  norm_forward(pass, kv_norm_, kLatentNormEps, kv_part(stash.latent), stash.kv_normed,
               stash.kv_rstd);
  linear(pass, stash.kv_normed, kv_b_proj_, stash.kv);

  const ops::Matrix q = query(stash.latent, stash.q);
  rotate(pass, cos, sin, q, rope_part(stash.latent), false);
  stash.out = pass.push("activations/attention/out", heads_ * v_dim_);
  stash.lse = pass.push_f32("activations/attention/statistics", {pass.tokens(), heads_});
  ops::mla_attention_forward(pass.ctx, {.shape = shape(pass),
                                        .q = q,
                                        .kv = stash.kv,
                                        .k_rope = rope_part(stash.latent),
                                        .out = stash.out,
                                        .lse = stash.lse.vector<float>()});
  linear(pass, stash.out, o_proj_, y, true);
}

void MlaBlock::backward_input(const Pass& pass, ops::Vector<const float> cos,
                              ops::Vector<const float> sin, const MlaStash& stash,
                              ops::ConstMatrix dy, ops::Matrix dx, MlaGrad& grad) const {
  grad.dlatent = pass.push("transient/attention/latent", q_part_ + kv_rank_ + rope_dim_);
  if (!direct_query())
    grad.dq = pass.push("transient/attention/q", heads_ * (nope_dim_ + rope_dim_));
  grad.dkv = pass.push("transient/attention/kv", heads_ * (nope_dim_ + v_dim_));
  const tensor::Scope scope(pass.arena);

  const tensor::Tensor dout = pass.push("transient/attention/out", heads_ * v_dim_);
  linear_input_grad(pass, dy, o_proj_, dout);
  const ops::Matrix dq = query(grad.dlatent, grad.dq);
  pass.between_operations();
  ops::mla_attention_backward(pass.ctx, {.shape = shape(pass),
                                         .q = query(stash.latent, stash.q),
                                         .kv = stash.kv,
                                         .k_rope = rope_part(stash.latent),
                                         .out = stash.out,
                                         .lse = stash.lse.vector<float>(),
                                         .dout = dout,
                                         .dq = dq,
                                         .dkv = grad.dkv,
                                         .dk_rope = rope_part(grad.dlatent)});
  rotate(pass, cos, sin, dq, rope_part(grad.dlatent), true);

  const tensor::Tensor dkv_normed = pass.push("transient/attention/latent", kv_rank_);
  linear_input_grad(pass, grad.dkv, kv_b_proj_, dkv_normed);
  norm_backward(pass, kv_norm_, dkv_normed, kv_part(stash.latent), stash.kv_rstd,
                kv_part(grad.dlatent), false);
  if (!direct_query()) {
    const tensor::Tensor dq_normed = pass.push("transient/attention/latent", q_rank_);
    linear_input_grad(pass, grad.dq, q_b_proj_, dq_normed);
    norm_backward(pass, q_norm_, dq_normed, query_part(stash.latent), stash.q_rstd,
                  query_part(grad.dlatent), false);
  }
  linear_input_grad(pass, grad.dlatent, in_proj_, dx);
}

void MlaBlock::backward_weight(const Pass& pass, const MlaStash& stash, ops::ConstMatrix x,
                               ops::ConstMatrix dy, const MlaGrad& grad) const {
  linear_weight_grad(pass, dy, stash.out, o_proj_);
  linear_weight_grad(pass, grad.dkv, stash.kv_normed, kv_b_proj_);
  if (!direct_query()) linear_weight_grad(pass, grad.dq, stash.q_normed, q_b_proj_);
  linear_weight_grad(pass, grad.dlatent, x, in_proj_);
}

}  // namespace dsv3::model
