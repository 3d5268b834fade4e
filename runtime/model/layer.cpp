// One transformer layer, forward and backward; see layer.h.
#include "runtime/model/layer.h"

#include <fmt/core.h>

#include "runtime/model/norm.h"

namespace dsv3::model {

TransformerLayer::TransformerLayer(const spec::ModelSpec& model, const ParamStore& params,
                                   int64_t layer, int64_t moe_idx, ops::Vector<float> bias)
    : d_model_(model.d_model),
      moe_idx_(moe_idx),
      eps_(static_cast<float>(model.rms_norm_eps)),
      attention_norm_(params.gain(fmt::format("model.layers.{}.input_layernorm", layer))),
      ffn_norm_(params.gain(fmt::format("model.layers.{}.post_attention_layernorm", layer))),
      attention_(model, params, fmt::format("model.layers.{}.self_attn", layer)) {
  const std::string mlp = fmt::format("model.layers.{}.mlp", layer);
  if (model.is_moe_layer(layer)) {
    moe_.emplace(model, params, mlp, bias);
  } else {
    dense_.emplace(params, mlp);
  }
}

tensor::Tensor TransformerLayer::push_normed(const Pass& pass) const {
  if (!pass.drops_norms()) return pass.push("activations/norm", d_model_);
  const tensor::OnStack aside(pass.arena, tensor::Arena::kAside);
  return pass.push("transient/norm", d_model_);
}

tensor::Tensor TransformerLayer::normed_again(const Pass& pass, const Gain& gain,
                                              const tensor::Tensor& kept, const tensor::Tensor& x,
                                              const tensor::Tensor& rstd) const {
  if (!pass.drops_norms()) return kept;
  const tensor::OnStack aside(pass.arena, tensor::Arena::kAside);
  const tensor::Tensor normed = pass.push("transient/norm", d_model_);
  norm_forward(pass, gain, eps_, x, normed, rstd);  // writes the same rstd once more
  return normed;
}

void TransformerLayer::forward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
                               ops::Vector<const float> sin, const tensor::Tensor& x,
                               const tensor::Tensor& y, LayerStash& stash) const {
  const tensor::AsideScope aside(pass.arena);
  stash.x = x;
  stash.attention_in = push_normed(pass);
  stash.attention_rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});
  stash.x_mid = pass.push("activations/residual", d_model_);
  // One buffer takes turns where both are dropped.
  stash.ffn_in = pass.drops_norms() ? stash.attention_in : push_normed(pass);
  stash.ffn_rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});

  norm_forward(pass, attention_norm_, eps_, x, stash.attention_in, stash.attention_rstd);
  ops::cast(pass.ctx, {.x = x, .y = stash.x_mid});  // the same dtype: a copy
  attention_.forward(pass, cos, sin, stash.attention_in, stash.x_mid, stash.attention);

  norm_forward(pass, ffn_norm_, eps_, stash.x_mid, stash.ffn_in, stash.ffn_rstd);
  ops::cast(pass.ctx, {.x = stash.x_mid, .y = y});
  if (moe_) {
    moe_->forward(pass, step, moe_idx_, stash.ffn_in, y, stash.moe);
  } else {
    dense_->forward(pass, stash.ffn_in, y, stash.dense);
  }
}

void TransformerLayer::ffn_backward_input(const Pass& pass, const LayerStash& stash,
                                          ops::ConstMatrix dy, ops::Matrix dx,
                                          LayerGrad& grad) const {
  if (moe_) {
    moe_->backward_input(pass, stash.moe, dy, dx, grad.moe);
  } else {
    dense_->backward_input(pass, stash.dense, dy, dx, false, grad.dense);
  }
}

void TransformerLayer::ffn_backward_weight(const Pass& pass, const LayerStash& stash,
                                           ops::ConstMatrix dy, const LayerGrad& grad) const {
  const tensor::AsideScope aside(pass.arena);
  const tensor::Tensor ffn_in =
      normed_again(pass, ffn_norm_, stash.ffn_in, stash.x_mid, stash.ffn_rstd);
  if (moe_) {
    moe_->backward_weight(pass, stash.moe, ffn_in, dy, grad.moe);
  } else {
    dense_->backward_weight(pass, stash.dense, ffn_in, dy, grad.dense);
  }
}

void TransformerLayer::attention_backward_weight(const Pass& pass, const LayerStash& stash,
                                                 ops::ConstMatrix dy, const LayerGrad& grad) const {
  const tensor::AsideScope aside(pass.arena);
  const tensor::Tensor attention_in =
      normed_again(pass, attention_norm_, stash.attention_in, stash.x, stash.attention_rstd);
  attention_.backward_weight(pass, stash.attention, attention_in, dy, grad.attention);
}

void TransformerLayer::backward(const Pass& pass, ops::Vector<const float> cos,
                                ops::Vector<const float> sin, const LayerStash& stash,
                                ops::Matrix dh) const {
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor dnormed = pass.push("transient/norm", d_model_);
  LayerGrad grad;
  {
    const tensor::Scope half(pass.arena);
    if (moe_ && !pass.drops_norms()) {
      moe_->backward(pass, stash.moe, stash.ffn_in, dh, dnormed, grad.moe);
    } else {
      ffn_backward_input(pass, stash, dh, dnormed, grad);
      ffn_backward_weight(pass, stash, dh, grad);
    }
    norm_backward(pass, ffn_norm_, dnormed, stash.x_mid, stash.ffn_rstd, dh, true);
  }
  attention_.backward_input(pass, cos, sin, stash.attention, dh, dnormed, grad.attention);
  attention_backward_weight(pass, stash, dh, grad);
  norm_backward(pass, attention_norm_, dnormed, stash.x, stash.attention_rstd, dh, true);
}

void TransformerLayer::backward_input(const Pass& pass, ops::Vector<const float> cos,
                                      ops::Vector<const float> sin, const LayerStash& stash,
                                      ops::Matrix dh, LayerGrad& grad) const {
  const tensor::Tensor dnormed = pass.push("transient/norm", d_model_);
  grad.dffn_out = pass.push("transient/residual", d_model_);
  grad.dattention_out = pass.push("transient/residual", d_model_);

  ops::cast(pass.ctx, {.x = dh, .y = grad.dffn_out});
  ffn_backward_input(pass, stash, grad.dffn_out, dnormed, grad);
  norm_backward(pass, ffn_norm_, dnormed, stash.x_mid, stash.ffn_rstd, dh, true);

  ops::cast(pass.ctx, {.x = dh, .y = grad.dattention_out});
  attention_.backward_input(pass, cos, sin, stash.attention, grad.dattention_out, dnormed,
                            grad.attention);
  norm_backward(pass, attention_norm_, dnormed, stash.x, stash.attention_rstd, dh, true);
}

void TransformerLayer::backward_weight(const Pass& pass, const LayerStash& stash,
                                       const LayerGrad& grad) const {
  ffn_backward_weight(pass, stash, grad.dffn_out, grad);
  attention_backward_weight(pass, stash, grad.dattention_out, grad);
}

}  // namespace dsv3::model
