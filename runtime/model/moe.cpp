// Router, dispatch and experts; see moe.h.
#include "runtime/model/moe.h"

namespace dsv3::model {

MoeBlock::MoeBlock(const spec::ModelSpec& model, const ParamStore& params,
                   const std::string& prefix, ops::Vector<float> bias)
    : experts_(model.moe.num_experts),
      top_k_(model.moe.num_experts_per_token),
      groups_(model.moe.n_group),
      top_groups_(model.moe.topk_group),
      width_(model.moe.expert_intermediate_size),
      score_(model.moe.score_function == "softmax" ? ops::ScoreFunction::kSoftmax
                                                   : ops::ScoreFunction::kSigmoid),
      normalise_(model.moe.norm_topk_prob),
      scaling_(static_cast<float>(model.moe.routed_scaling_factor)),
      bias_rate_(static_cast<float>(model.moe.bias_update_rate)),
      bias_(bias),
      gate_(params.f32_weight(prefix + ".gate")),
      gate_up_(params.experts(prefix + ".experts.gate_up_proj")),
      down_(params.experts(prefix + ".experts.down_proj")) {
  if (model.moe.num_shared_experts > 0) shared_.emplace(params, prefix + ".shared_experts");
}

ops::RouterShape MoeBlock::router_shape(const Pass& pass) const {
  return {.tokens = pass.tokens(),
          .sequence = pass.sequence,
          .experts = experts_,
          .top_k = top_k_,
          .groups = groups_,
          .top_groups = top_groups_,
          .score = score_,
          .normalise = normalise_,
          .scaling = scaling_};
}

ops::ConstMatrix MoeBlock::as_f32(const Pass& pass, ops::ConstMatrix x) const {
  if (x.dtype == DType::kF32) return x;
  const tensor::Tensor copy = pass.push_f32("activations/moe/router_input", {x.rows, x.cols});
  ops::cast(pass.ctx, {.x = x, .y = copy});
  return copy;
}

void MoeBlock::route(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
                     MoeStash& stash) const {
  const int64_t tokens = pass.tokens(), slots = tokens * top_k_;
  stash.logits = pass.push_f32("activations/moe/router", {tokens, experts_});
  stash.scores = pass.push_f32("activations/moe/router", {tokens, experts_});
  stash.weights = pass.push_f32("activations/moe/router", {tokens, top_k_});
  stash.fraction = pass.push_f32("activations/moe/router", {pass.sequences, experts_});
  stash.expert_idx = pass.push_i32("activations/moe/router", {tokens, top_k_});
  stash.offsets = pass.push_i32("activations/moe/router", {experts_ + 1});
  stash.row_of_slot = pass.push_i32("activations/moe/router", {slots});
  stash.slot_of_row = pass.push_i32("activations/moe/router", {slots});
  const tensor::Scope scope(pass.arena);

  linear(pass, as_f32(pass, x), gate_, stash.logits);
  // Evaluation counts into memory that nobody reads, so that it can't change the balance.
  const ops::Vector<int64_t> counts =
      pass.training
          ? step.counts(moe_idx)
          : pass.arena.push("activations/moe/router", DType::kI64, {experts_}).vector<int64_t>();
  if (!pass.training) {
    pass.ctx.backend->fill_zero(counts.data, static_cast<size_t>(counts.size) * sizeof(int64_t),
                                pass.ctx.stream);
  }
  ops::router_forward(pass.ctx, {.shape = router_shape(pass),
                                 .logits = stash.logits.vector<const float>(),
                                 .bias = bias_,
                                 .scores = stash.scores.vector<float>(),
                                 .expert_idx = stash.expert_idx.vector<int32_t>(),
                                 .weights = stash.weights.vector<float>(),
                                 .counts = counts});
  if (pass.training) {
    ops::router_loss(pass.ctx, {.shape = router_shape(pass),
                                .logits = stash.logits.vector<const float>(),
                                .scores = stash.scores.vector<const float>(),
                                .expert_idx = stash.expert_idx.vector<const int32_t>(),
                                .aux_weight = pass.scales.aux,
                                .z_weight = pass.scales.z,
                                .fraction = stash.fraction.vector<float>(),
                                .aux_loss = step.scalar(Scalar::kAuxLoss),
                                .z_loss = step.scalar(Scalar::kZLoss)});
  }
  ops::route_plan(pass.ctx, {.expert_idx = stash.expert_idx.vector<const int32_t>(),
                             .top_k = top_k_,
                             .experts = experts_,
                             .offsets = stash.offsets.vector<int32_t>(),
                             .row_of_slot = stash.row_of_slot.vector<int32_t>(),
                             .slot_of_row = stash.slot_of_row.vector<int32_t>()});
}

void MoeBlock::forward(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
                       ops::Matrix y, MoeStash& stash) const {
  route(pass, step, moe_idx, x, stash);
  const int64_t rows = pass.tokens() * top_k_;
  const auto offsets = stash.offsets.vector<const int32_t>();
  stash.row_weight = pass.push_f32("activations/moe/router", {rows});
  stash.x = pass.push_rows("activations/moe/x", rows, x.cols);
  stash.gate_up = pass.push_rows("activations/moe/gate_up", rows, 2 * width_);
  stash.hidden = pass.push_rows("activations/moe/hidden", rows, width_);
  if (shared_) shared_->forward(pass, x, y, stash.shared);
  const tensor::Scope scope(pass.arena);

  ops::permute_rows(pass.ctx, {.x = x,
                               .slot_of_row = stash.slot_of_row.vector<const int32_t>(),
                               .top_k = top_k_,
                               .y = stash.x,
                               .weights = stash.weights.vector<const float>(),
                               .row_weight = stash.row_weight.vector<float>()});
  ops::grouped_gemm(pass.ctx, {.a = stash.x,
                               .b = gate_up_.value,
                               .c = stash.gate_up,
                               .offsets = offsets,
                               .transpose_b = true});
  ops::swiglu_forward(pass.ctx, {.gate_up = stash.gate_up,
                                 .row_scale = stash.row_weight.vector<const float>(),
                                 .y = stash.hidden});
  const tensor::Tensor out = pass.push_rows("activations/moe/out", rows, x.cols);
  ops::grouped_gemm(
      pass.ctx,
      {.a = stash.hidden, .b = down_.value, .c = out, .offsets = offsets, .transpose_b = true});
  ops::unpermute_sum(pass.ctx, {.x = out,
                                .row_of_slot = stash.row_of_slot.vector<const int32_t>(),
                                .top_k = top_k_,
                                .y = y,
                                .accumulate = true});
}

void MoeBlock::backward_input(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                              ops::Matrix dx, MoeGrad& grad) const {
  const int64_t tokens = pass.tokens(), rows = tokens * top_k_;
  const auto offsets = stash.offsets.vector<const int32_t>();
  grad.dy = pass.push_rows("transient/moe/y", rows, dy.cols);
  grad.dgate_up = pass.push_rows("transient/moe/gate_up", rows, 2 * width_);
  grad.dlogits = pass.push_f32("transient/moe/router", {tokens, experts_});
  if (shared_) shared_->backward_input(pass, stash.shared, dy, dx, false, grad.shared);
  const tensor::Scope scope(pass.arena);

  ops::permute_rows(pass.ctx, {.x = dy,
                               .slot_of_row = stash.slot_of_row.vector<const int32_t>(),
                               .top_k = top_k_,
                               .y = grad.dy});
  const tensor::Tensor drow_weight = pass.push_f32("transient/moe/router", {rows});
  const tensor::Tensor dweights = pass.push_f32("transient/moe/router", {tokens, top_k_});
  const tensor::Tensor drows = pass.push_rows("transient/moe/x", rows, dy.cols);
  {
    const tensor::Scope hidden_scope(pass.arena);
    const tensor::Tensor dhidden = pass.push_rows("transient/moe/hidden", rows, width_);
    ops::grouped_gemm(pass.ctx, {.a = grad.dy, .b = down_.value, .c = dhidden, .offsets = offsets});
    pass.between_operations();
    ops::swiglu_backward(pass.ctx, {.dy = dhidden,
                                    .gate_up = stash.gate_up,
                                    .row_scale = stash.row_weight.vector<const float>(),
                                    .dgate_up = grad.dgate_up,
                                    .drow_scale = drow_weight.vector<float>()});
  }
  ops::grouped_gemm(pass.ctx,
                    {.a = grad.dgate_up, .b = gate_up_.value, .c = drows, .offsets = offsets});
  pass.between_operations();
  ops::unpermute_sum(pass.ctx, {.x = drows,
                                .row_of_slot = stash.row_of_slot.vector<const int32_t>(),
                                .top_k = top_k_,
                                .y = dx,
                                .accumulate = shared_.has_value(),
                                .row_values = drow_weight.vector<const float>(),
                                .slot_values = dweights.vector<float>()});
  router_backward_input(pass, stash, dweights, dx, grad);
}

void MoeBlock::router_backward_input(const Pass& pass, const MoeStash& stash,
                                     const tensor::Tensor& dweights, ops::Matrix dx,
                                     MoeGrad& grad) const {
  ops::router_backward(pass.ctx, {.shape = router_shape(pass),
                                  .logits = stash.logits.vector<const float>(),
                                  .scores = stash.scores.vector<const float>(),
                                  .expert_idx = stash.expert_idx.vector<const int32_t>(),
                                  .dweights = dweights.vector<const float>(),
                                  .fraction = stash.fraction.vector<const float>(),
                                  .aux_weight = pass.scales.aux,
                                  .z_weight = pass.scales.z,
                                  .dlogits = grad.dlogits.vector<float>()});
  if (dx.dtype == DType::kF32) {
    linear_input_grad(pass, grad.dlogits, gate_, dx, true);
    return;
  }
  const tensor::Tensor dx_f32 = pass.push_f32("transient/moe/router_input", {dx.rows, dx.cols});
  const tensor::Tensor dx_act = pass.push("transient/moe/router_input", dx.cols);
  linear_input_grad(pass, grad.dlogits, gate_, dx_f32);
  ops::cast(pass.ctx, {.x = dx_f32, .y = dx_act});
  ops::add(pass.ctx, {.x = dx_act, .y = dx});
}

void MoeBlock::backward_weight(const Pass& pass, const MoeStash& stash, ops::ConstMatrix x,
                               ops::ConstMatrix dy, const MoeGrad& grad) const {
  const auto offsets = stash.offsets.vector<const int32_t>();
  if (shared_) shared_->backward_weight(pass, stash.shared, x, dy, grad.shared);
  ops::grouped_gemm_weight_grad(
      pass.ctx,
      {.a = grad.dy, .b = stash.hidden, .c = down_.grad, .offsets = offsets, .accumulate = true});
  pass.between_operations();
  ops::grouped_gemm_weight_grad(pass.ctx, {.a = grad.dgate_up,
                                           .b = stash.x,
                                           .c = gate_up_.grad,
                                           .offsets = offsets,
                                           .accumulate = true});
  pass.between_operations();
  const tensor::Scope scope(pass.arena);
  linear_weight_grad(pass, grad.dlogits, as_f32(pass, x), gate_);
}

void MoeBlock::update_bias(const Pass& pass, ops::Vector<const int64_t> counts) const {
  if (bias_.empty()) return;
  ops::router_bias_update(pass.ctx, {.counts = counts, .bias = bias_, .rate = bias_rate_});
}

}  // namespace dsv3::model
