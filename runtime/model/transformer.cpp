// The whole model; see transformer.h.
#include "runtime/model/transformer.h"

#include <fmt/core.h>

#include <algorithm>

#include "runtime/model/norm.h"
#include "runtime/model/rope_tables.h"

namespace dsv3::model {
namespace {

std::vector<int64_t> moe_layers_of(const spec::ModelSpec& model) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < model.num_layers + model.mtp_layers; ++layer) {
    if (model.is_moe_layer(layer)) layers.push_back(layer);
  }
  return layers;
}

tensor::Tensor upload_table(tensor::Arena& arena, const std::vector<float>& values) {
  const tensor::Tensor table =
      arena.persistent("runtime/rope", DType::kF32, {static_cast<int64_t>(values.size())});
  arena.device().backend().copy_to_device(table.data, values.data(), values.size() * sizeof(float),
                                          arena.device().stream());
  arena.device().synchronize();
  return table;
}

}  // namespace

DType compute_dtype(const spec::TrainingSpec& training, const device::Device& device) {
  return training.dtype == "fp32" ? DType::kF32 : device.backend().matmul_dtype();
}

Transformer::Transformer(const spec::ModelSpec& model, const TransformerOptions& options,
                         tensor::Arena& arena)
    : model_(model),
      options_(options),
      arena_(arena),
      params_(model, arena, options.compute, options.gradients),
      moe_layers_(moe_layers_of(model)),
      step_(arena, num_moe_layers(), model.moe.num_experts),
      embedding_(params_.weight("model.embed_tokens")),
      head_(model.tie_embeddings ? embedding_ : params_.weight("lm_head")),
      norm_(params_.gain("model.norm")) {
  const bool biased = model.moe.use_aux_loss_free;
  router_bias_ = arena.persistent("weights/router_bias", DType::kF32,
                                  {biased ? num_moe_layers() : 0, model.moe.num_experts});
  const RopeTables tables = rope_tables(model.mla, options.sequence);
  cos_ = upload_table(arena, tables.cos);
  sin_ = upload_table(arena, tables.sin);
  int64_t moe_idx = 0;
  for (int64_t layer = 0; layer < model.num_layers + model.mtp_layers; ++layer) {
    ops::Vector<float> bias;
    if (biased && model.is_moe_layer(layer)) {
      bias = {router_bias_.as<float>() + moe_idx * model.moe.num_experts, model.moe.num_experts};
    }
    if (layer < model.num_layers) {
      layers_.emplace_back(model, params_, layer, moe_idx, bias);
    } else {
      mtp_.emplace_back(model, params_, layer, moe_idx, bias);
    }
    if (model.is_moe_layer(layer)) ++moe_idx;
  }
  const auto depths = static_cast<size_t>(model.mtp_layers);
  inputs_.mtp_ids.resize(depths);
  inputs_.mtp_labels.resize(depths);
  hidden_.resize(layers_.size() + 1);
  stashes_.resize(layers_.size());
  marks_.resize(layers_.size());
  mtp_stashes_.resize(depths);
  dnormed_.resize(depths + 1);
  last_expert_idx_.resize(moe_layers_.size());
}

std::string Transformer::router_bias_name(int64_t moe_idx) const {
  return fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", moe_layer(moe_idx));
}

Pass Transformer::make_pass(int64_t num_tokens, bool training) {
  const int64_t row = options_.sequence + 1;
  DSV3_CHECK(num_tokens > 0 && num_tokens % row == 0, "whole samples of sequence + 1 tokens");
  const double sequences = static_cast<double>(options_.global_sequences);
  const double token = 1.0 / (sequences * static_cast<double>(options_.sequence));
  return {.arena = arena_,
          .ctx = arena_.context(),
          .act = options_.compute,
          .sequences = num_tokens / row,
          .sequence = options_.sequence,
          .training = training,
          .scales = {.token = token,
                     .aux = static_cast<float>(model_.moe.router_aux_loss_weight / sequences),
                     .z = static_cast<float>(model_.moe.router_z_loss_weight * token)}};
}

// Device layout of the upload: ids, labels, then ids and labels of each MTP depth, [tokens] each.
Transformer::Inputs Transformer::upload(const Pass& pass, std::span<const int32_t> tokens) {
  const int64_t s = pass.sequence, total = pass.tokens(), depths = model_.mtp_layers;
  host_ids_.resize(static_cast<size_t>(2 * (1 + depths) * total));
  for (int64_t depth = 0; depth <= depths; ++depth) {
    int32_t* ids = host_ids_.data() + 2 * depth * total;
    int32_t* labels = ids + total;
    for (int64_t t = 0; t < total; ++t) {
      const int32_t* sample = tokens.data() + t / s * (s + 1);
      const int64_t at = t % s + depth;
      ids[t] = at <= s ? sample[at] : 0;
      labels[t] = at + 1 <= s ? sample[at + 1] : -1;
    }
  }
  const tensor::Tensor device_ids =
      pass.push_i32("activations/inputs", {static_cast<int64_t>(host_ids_.size())});
  arena_.device().backend().copy_to_device(device_ids.data, host_ids_.data(),
                                           host_ids_.size() * sizeof(int32_t), pass.ctx.stream);
  const int32_t* base = device_ids.as<int32_t>();
  inputs_.ids = {base, total};
  inputs_.labels = {base + total, total};
  for (int64_t depth = 1; depth <= depths; ++depth) {
    inputs_.mtp_ids[static_cast<size_t>(depth - 1)] = {base + 2 * depth * total, total};
    inputs_.mtp_labels[static_cast<size_t>(depth - 1)] = {base + (2 * depth + 1) * total, total};
  }
  return inputs_;
}

void Transformer::forward_main(const Pass& pass, const Inputs& inputs) {
  const int64_t d_model = model_.d_model;
  normed_ = pass.push("activations/norm", d_model);
  normed_rstd_ = pass.push_f32("activations/norm/statistics", {pass.tokens()});
  hidden_[0] = pass.push("activations/residual", d_model);
  ops::embedding_forward(pass.ctx, {.table = embedding_.value, .ids = inputs.ids, .y = hidden_[0]});
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    hidden_[layer + 1] = pass.push("activations/residual", d_model);
    marks_[layer] = arena_.mark();
    layers_[layer].forward(pass, step_, cos_.vector<const float>(), sin_.vector<const float>(),
                           hidden_[layer], hidden_[layer + 1], stashes_[layer]);
  }
  norm_forward(pass, norm_, static_cast<float>(model_.rms_norm_eps), hidden_.back(), normed_,
               normed_rstd_);
}

const tensor::Tensor& Transformer::mtp_previous(int64_t depth) const {
  return depth == 1 ? normed_ : mtp_stashes_[static_cast<size_t>(depth - 2)].hidden;
}

void Transformer::forward_mtp(const Pass& pass, const Inputs& inputs) {
  for (size_t i = 0; i < mtp_.size(); ++i) {
    mtp_[i].forward(pass, step_, cos_.vector<const float>(), sin_.vector<const float>(),
                    inputs.mtp_ids[i], mtp_previous(static_cast<int64_t>(i) + 1), mtp_stashes_[i]);
  }
}

// 1 / (depths · labelled positions of the global batch): the mean over depths of each depth's mean.
double Transformer::mtp_scale(int64_t depth) const {
  const int64_t labelled =
      options_.global_sequences * std::max<int64_t>(options_.sequence - depth, 0);
  return labelled == 0
             ? 0.0
             : 1.0 / (static_cast<double>(model_.mtp_layers) * static_cast<double>(labelled));
}

void Transformer::train_micro_batch(std::span<const int32_t> tokens, BackwardObserver* observer) {
  DSV3_CHECK(options_.gradients, "a model without gradients only runs forward");
  const tensor::Scope scope(arena_);
  Pass pass = make_pass(static_cast<int64_t>(tokens.size()), true);
  pass.observer = observer;
  const auto cos = cos_.vector<const float>(), sin = sin_.vector<const float>();
  const int64_t depths = model_.mtp_layers;
  const Inputs& inputs = upload(pass, tokens);
  const tensor::Tensor dh = pass.push("transient/residual", model_.d_model);
  forward_main(pass, inputs);
  for (tensor::Tensor& dnormed : dnormed_)
    dnormed = pass.push("transient/residual", model_.d_model);
  head_loss(pass, head_,
            {.x = normed_,
             .labels = inputs.labels,
             .loss_scale = pass.scales.token,
             .grad_scale = pass.scales.token,
             .loss = step_.scalar(Scalar::kLmLoss),
             .dx = dnormed_[0]});
  forward_mtp(pass, inputs);
  for (int64_t depth = 1; depth <= depths; ++depth) {
    const auto i = static_cast<size_t>(depth);
    head_loss(pass, head_,
              {.x = mtp_stashes_[i - 1].normed,
               .labels = inputs.mtp_labels[i - 1],
               .loss_scale = mtp_scale(depth),
               .grad_scale = mtp_scale(depth) * model_.mtp_loss_weight,
               .loss = step_.scalar(Scalar::kMtpLoss),
               .dx = dnormed_[i]});
  }
  if (observer) observer->head_done();
  if (depths > 0) {
    // Two buffers take turns as gradient of h^depth and of h^{depth−1}; the last goes into the
    // main model's.
    const tensor::Scope mtp_scope(arena_);
    tensor::Tensor own = pass.push("transient/residual", model_.d_model);
    tensor::Tensor next = pass.push("transient/residual", model_.d_model);
    for (int64_t depth = depths; depth >= 1; --depth) {
      const auto i = static_cast<size_t>(depth);
      mtp_[i - 1].backward(pass, cos, sin, inputs.mtp_ids[i - 1], mtp_stashes_[i - 1], dnormed_[i],
                           own, depth < depths, depth == 1 ? dnormed_[0] : next, depth == 1);
      std::swap(own, next);
      if (observer) observer->layer_done(model_.num_layers + depth - 1);
    }
  }
  norm_backward(pass, norm_, dnormed_[0], hidden_.back(), normed_rstd_, dh, false);
  for (size_t layer = layers_.size(); layer-- > 0;) {
    layers_[layer].backward(pass, cos, sin, stashes_[layer], dh);
    arena_.release(marks_[layer]);
    if (observer) observer->layer_done(static_cast<int64_t>(layer));
  }
  ops::embedding_backward(pass.ctx, {.dy = dh, .ids = inputs.ids, .dtable = embedding_.grad});
}

tensor::Tensor Transformer::forward_only(const Pass& pass, const Inputs& inputs) {
  tensor::Tensor x = pass.push("activations/residual", model_.d_model);
  tensor::Tensor y = pass.push("activations/residual", model_.d_model);
  ops::embedding_forward(pass.ctx, {.table = embedding_.value, .ids = inputs.ids, .y = x});
  for (const TransformerLayer& layer : layers_) {
    const tensor::Scope layer_scope(arena_);
    LayerStash stash;
    layer.forward(pass, step_, cos_.vector<const float>(), sin_.vector<const float>(), x, y, stash);
    std::swap(x, y);
  }
  const tensor::Tensor rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});
  norm_forward(pass, norm_, static_cast<float>(model_.rms_norm_eps), x, y, rstd);
  return y;
}

void Transformer::evaluate(std::span<const int32_t> tokens, double scale) {
  const tensor::Scope scope(arena_);
  const Pass pass = make_pass(static_cast<int64_t>(tokens.size()), false);
  const Inputs& inputs = upload(pass, tokens);
  head_loss(pass, head_,
            {.x = forward_only(pass, inputs),
             .labels = inputs.labels,
             .loss_scale = scale,
             .loss = step_.scalar(Scalar::kLmLoss)});
}

tensor::Tensor Transformer::score(std::span<const int32_t> tokens) {
  const Pass pass = make_pass(static_cast<int64_t>(tokens.size()), false);
  const tensor::Tensor result =
      pass.push_f32("transient/logits", {pass.tokens(), model_.vocab_size});
  const tensor::Scope scope(arena_);
  const Inputs& inputs = upload(pass, tokens);
  head_logits(pass, head_, forward_only(pass, inputs), result);
  return result;
}

tensor::Tensor Transformer::logits(std::span<const int32_t> tokens, int64_t depth) {
  DSV3_CHECK(depth >= 0 && depth <= model_.mtp_layers);
  const Pass pass = make_pass(static_cast<int64_t>(tokens.size()), false);
  const tensor::Tensor result =
      pass.push_f32("transient/logits", {pass.tokens(), model_.vocab_size});
  const Inputs& inputs = upload(pass, tokens);
  forward_main(pass, inputs);
  if (depth > 0) forward_mtp(pass, inputs);
  head_logits(pass, head_,
              depth == 0 ? normed_ : mtp_stashes_[static_cast<size_t>(depth - 1)].normed, result);
  size_t moe_idx = 0;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    if (layers_[layer].is_moe()) last_expert_idx_[moe_idx++] = stashes_[layer].moe.expert_idx;
  }
  for (size_t i = 0; depth > 0 && i < mtp_.size(); ++i) {
    if (mtp_[i].layer().is_moe())
      last_expert_idx_[moe_idx++] = mtp_stashes_[i].layer.moe.expert_idx;
  }
  return result;
}

void Transformer::update_router_bias() {
  const Pass pass = make_pass(options_.sequence + 1, true);
  for (const TransformerLayer& layer : layers_) layer.update_bias(pass, step_);
  for (const MtpModule& mtp : mtp_) mtp.layer().update_bias(pass, step_);
}

}  // namespace dsv3::model
