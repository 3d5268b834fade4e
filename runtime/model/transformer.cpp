// A rank's model; see transformer.h.
#include "runtime/model/transformer.h"

#include <fmt/core.h>

namespace dsv3::model {
namespace {

std::vector<int64_t> moe_layers_of(const spec::ModelSpec& model) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < model.num_layers + model.mtp_layers; ++layer) {
    if (model.is_moe_layer(layer)) layers.push_back(layer);
  }
  return layers;
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
      params_(model, arena,
              {.compute = options.compute,
               .gradients = options.gradients,
               .cut = options.groups->layout,
               .position = options.groups->position,
               .master = options.master}),
      moe_layers_(moe_layers_of(model)),
      step_(arena, num_moe_layers(), model.moe.num_experts),
      router_bias_(arena.persistent(
          "weights/router_bias", DType::kF32,
          {model.moe.use_aux_loss_free ? num_moe_layers() : 0, model.moe.num_experts})),
      stage_(model, options.sequence, options.global_sequences, params_, step_, router_bias_,
             arena),
      batch_(stage_.make_micro_batch()),
      last_expert_idx_(moe_layers_.size()) {}

std::string Transformer::router_bias_name(int64_t moe_idx) const {
  return fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", moe_layer(moe_idx));
}

int64_t Transformer::sequences_of(std::span<const int32_t> tokens) const {
  const auto size = static_cast<int64_t>(tokens.size());
  const int64_t row = options_.sequence + 1;
  DSV3_CHECK(size > 0 && size % row == 0, "whole samples of sequence + 1 tokens");
  return size / row;
}

Pass Transformer::make_pass(int64_t num_sequences, bool training) {
  const double sequences = static_cast<double>(options_.global_sequences);
  const double token = 1.0 / (sequences * static_cast<double>(options_.sequence));
  return {.arena = arena_,
          .ctx = arena_.context(),
          .act = options_.compute,
          .sequences = num_sequences,
          .sequence = options_.sequence,
          .training = training,
          .scales = {.token = token,
                     .aux = static_cast<float>(model_.moe.router_aux_loss_weight / sequences),
                     .z = static_cast<float>(model_.moe.router_z_loss_weight * token)},
          .groups = options_.groups,
          .recompute = options_.recompute,
          .overlap_experts = options_.overlap_experts};
}

void Transformer::train_micro_batch(std::span<const int32_t> tokens, BackwardObserver* observer) {
  DSV3_CHECK(options_.gradients, "a model without gradients only runs forward");
  const tensor::Scope scope(arena_);
  Pass pass = make_pass(sequences_of(tokens), true);
  pass.observer = observer;
  const tensor::Tensor dh = pass.push("transient/residual", model_.d_model);
  stage_.forward(pass, 0, tokens, {}, {}, batch_);
  stage_.backward(pass, 0, dh, WeightGrad::kNow, batch_);
}

void Transformer::evaluate(std::span<const int32_t> tokens, double scale) {
  const tensor::Scope scope(arena_);
  const Pass pass = make_pass(sequences_of(tokens), false);
  stage_.begin(pass, 0, tokens, batch_);
  stage_.add_lm_loss(pass, stage_.forward_only(pass, 0, {}, batch_), scale, batch_);
}

tensor::Tensor Transformer::score(std::span<const int32_t> tokens) {
  const Pass pass = make_pass(sequences_of(tokens), false);
  const tensor::Tensor result =
      pass.push_f32("transient/logits", {pass.tokens(), model_.vocab_size});
  const tensor::Scope scope(arena_);
  stage_.begin(pass, 0, tokens, batch_);
  head_logits(pass, stage_.head(), stage_.forward_only(pass, 0, {}, batch_), result);
  return result;
}

tensor::Tensor Transformer::logits(std::span<const int32_t> tokens, int64_t depth) {
  DSV3_CHECK(depth >= 0 && depth <= model_.mtp_layers);
  const Pass pass = make_pass(sequences_of(tokens), false);
  const tensor::Tensor result =
      pass.push_f32("transient/logits", {pass.tokens(), model_.vocab_size});
  stage_.forward(pass, 0, tokens, {}, {}, batch_);
  if (depth > 0) stage_.forward_mtp(pass, batch_);
  head_logits(pass, stage_.head(),
              depth == 0 ? batch_.normed : batch_.mtp[static_cast<size_t>(depth - 1)].normed,
              result);
  size_t moe_idx = 0;
  for (size_t i = 0; i < stage_.layers().size(); ++i) {
    if (stage_.layers()[i].is_moe()) last_expert_idx_[moe_idx++] = batch_.stashes[i].moe.expert_idx;
  }
  for (size_t i = 0; depth > 0 && i < stage_.mtp().size(); ++i) {
    if (stage_.mtp()[i].layer().is_moe())
      last_expert_idx_[moe_idx++] = batch_.mtp[i].layer.moe.expert_idx;
  }
  return result;
}

void Transformer::update_router_bias() {
  if (router_bias_.num_elements() == 0) return;
  const int64_t experts = model_.moe.num_experts;
  for (int64_t i = 0; i < num_moe_layers(); ++i) {
    ops::router_bias_update(arena_.context(),
                            {.counts = step_.counts(i),
                             .bias = {router_bias_.as<float>() + i * experts, experts},
                             .rate = static_cast<float>(model_.moe.bias_update_rate)});
  }
}

}  // namespace dsv3::model
