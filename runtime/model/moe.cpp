// Experts, forward and backward; see moe.h.
#include "runtime/model/moe.h"

#include <algorithm>

namespace dsv3::model {
namespace {

// The slots that this rank's rows come from: as many as were not dropped.
ops::Vector<const int32_t> sent_slots(const MoeStash& stash) {
  return {stash.slot_of_row.as<int32_t>(), stash.routes.sent};
}

// What goes back to the tokens is made where it then comes back.
int64_t room(const MoeStash& stash) {
  return std::max(stash.routes.rows, stash.routes.sent);
}
ops::Matrix filled_rows(const MoeStash& stash, const tensor::Tensor& in_room) {
  return in_room.matrix().row_range(0, stash.routes.rows);
}

}  // namespace

MoeBlock::MoeBlock(const spec::ModelSpec& model, const ParamStore& params,
                   const std::string& prefix, ops::Vector<float> bias)
    : router_(model, params, prefix, bias),
      gate_up_(params.experts(prefix + ".experts.gate_up_proj")),
      down_(params.experts(prefix + ".experts.down_proj")),
      experts_here_(down_.value.groups),
      width_(down_.value.cols) {
  if (model.moe.num_shared_experts > 0) shared_.emplace(params, prefix + ".shared_experts");
}

// Whether the shared experts' down projection waits for the rows' way back.
bool MoeBlock::shared_in_parts(const Pass& pass, const MoeStash& stash) const {
  return shared_ && pass.overlap_experts && pass.tp() == 1 && !stash.shared.hidden.empty() &&
         experts_travel(pass);
}

// stash.x and row_weight = the rows of the experts here; y += the shared experts, meanwhile, or
// their first part is computed.
void MoeBlock::bring_rows(const Pass& pass, ops::ConstMatrix x, ops::Matrix y,
                          const MoeStash& stash) const {
  const ExpertRoutes& routes = stash.routes;
  const ops::PermuteRows leave{.x = x,
                               .slot_of_row = sent_slots(stash),
                               .top_k = router_.top_k(),
                               .y = stash.x,
                               .weights = stash.weights.vector<const float>(),
                               .row_weight = stash.row_weight.vector<float>()};
  if (!experts_travel(pass)) {
    if (shared_) shared_->forward_pushed(pass, x, y, stash.shared);
    ops::permute_rows(pass.ctx, leave);
    return;
  }
  const tensor::Scope scope(pass.arena);
  Dispatch dispatch(pass, routes, "experts/dispatch", x.cols, true);
  ops::PermuteRows out = leave;
  out.y = dispatch.out();
  out.row_weight = dispatch.out_values();
  ops::permute_rows(pass.ctx, out);
  dispatch.start();
  if (!pass.overlap_experts) dispatch.finish();
  if (shared_in_parts(pass, stash)) {
    shared_->forward_up(pass, x, stash.shared);
  } else if (shared_) {
    shared_->forward_pushed(pass, x, y, stash.shared);
  }
  pass.between_operations();
  if (pass.overlap_experts) dispatch.finish();
  ops::permute_rows(pass.ctx, {.x = dispatch.arrivals(),
                               .slot_of_row = routes.arrival_of_row.vector<const int32_t>(),
                               .top_k = 1,
                               .y = stash.x,
                               .weights = dispatch.arrived_values(),
                               .row_weight = stash.row_weight.vector<float>()});
}

// y += the shared experts' second part, meanwhile, and the experts' outputs of each token; out
// [room(), d_model], of which `rows` are filled.
void MoeBlock::return_rows(const Pass& pass, const MoeStash& stash, const tensor::Tensor& out,
                           ops::Matrix y) const {
  ops::UnpermuteSum sum{.x = filled_rows(stash, out),
                        .row_of_slot = stash.row_of_slot.vector<const int32_t>(),
                        .top_k = router_.top_k(),
                        .y = y,
                        .accumulate = true};
  if (!experts_travel(pass)) return ops::unpermute_sum(pass.ctx, sum);
  const ExpertRoutes& routes = stash.routes;
  Combine combine(pass, routes, "experts/combine", out, false);
  ops::permute_rows(pass.ctx, {.x = filled_rows(stash, out),
                               .slot_of_row = routes.row_of_arrival.vector<const int32_t>(),
                               .top_k = 1,
                               .y = combine.in()});
  combine.start();
  if (shared_in_parts(pass, stash)) shared_->forward_down(pass, y, stash.shared);
  pass.between_operations();
  combine.finish();
  sum.x = combine.back();
  ops::unpermute_sum(pass.ctx, sum);
}

void MoeBlock::weigh_hidden(const Pass& pass, const MoeStash& stash, ops::Matrix hidden) const {
  ops::swiglu_forward(
      pass.ctx,
      {.gate_up = stash.gate_up, .row_scale = stash.row_weight.vector<const float>(), .y = hidden});
}

void MoeBlock::forward(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
                       ops::Matrix y, MoeStash& stash) const {
  router_.forward(pass, step, moe_idx, x, stash);
  stash.routes = plan_routes(pass, stash.offsets, experts_here_, pass.tokens() * router_.top_k(),
                             router_.capacity(pass.sequence) > 0);
  const int64_t rows = stash.routes.rows;
  const bool keeps_hidden = pass.recompute != Recompute::kSelective;
  const auto offsets = stash.routes.offsets.vector<const int32_t>();
  stash.row_weight = pass.push_f32("activations/moe/router", {rows});
  stash.x = pass.push_rows("activations/moe/x", rows, x.cols);
  stash.gate_up = pass.push_rows("activations/moe/gate_up", rows, 2 * width_);
  stash.hidden =
      keeps_hidden ? pass.push_rows("activations/moe/hidden", rows, width_) : tensor::Tensor();
  if (shared_) shared_->push_stash(pass, stash.shared);
  const tensor::Scope scope(pass.arena);

  bring_rows(pass, x, y, stash);
  ops::grouped_gemm(pass.ctx, {.a = stash.x,
                               .b = gate_up_.value,
                               .c = stash.gate_up,
                               .offsets = offsets,
                               .transpose_b = true});
  const tensor::Tensor hidden =
      keeps_hidden ? stash.hidden : pass.push_rows("transient/moe/hidden", rows, width_);
  weigh_hidden(pass, stash, hidden);
  const tensor::Tensor out = pass.push_rows("activations/moe/out", room(stash), x.cols);
  ops::grouped_gemm(pass.ctx, {.a = hidden,
                               .b = down_.value,
                               .c = filled_rows(stash, out),
                               .offsets = offsets,
                               .transpose_b = true});
  return_rows(pass, stash, out, y);
}

// grad.dy = the gradients of the rows' outputs; dx = the shared experts' part, meanwhile.
void MoeBlock::bring_gradients(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                               ops::Matrix dx, const MoeGrad& grad) const {
  const ops::PermuteRows leave{
      .x = dy, .slot_of_row = sent_slots(stash), .top_k = router_.top_k(), .y = grad.dy};
  if (!experts_travel(pass)) {
    if (shared_) shared_->backward_input_pushed(pass, stash.shared, dy, dx, false, grad.shared);
    ops::permute_rows(pass.ctx, leave);
    return;
  }
  const tensor::Scope scope(pass.arena);
  const ExpertRoutes& routes = stash.routes;
  Dispatch dispatch(pass, routes, "experts/output gradients", dy.cols, false);
  ops::PermuteRows out = leave;
  out.y = dispatch.out();
  ops::permute_rows(pass.ctx, out);
  dispatch.start();
  if (!pass.overlap_experts) dispatch.finish();
  if (shared_) shared_->backward_input_pushed(pass, stash.shared, dy, dx, false, grad.shared);
  pass.between_operations();
  if (pass.overlap_experts) dispatch.finish();
  ops::permute_rows(pass.ctx, {.x = dispatch.arrivals(),
                               .slot_of_row = routes.arrival_of_row.vector<const int32_t>(),
                               .top_k = 1,
                               .y = grad.dy});
}

// dx (+)= the rows' gradients of each token, drows as in return_rows(); dweights [tokens, top_k] =
// those of its weights. Weight gradients `meanwhile`, or null: nothing.
void MoeBlock::return_gradients(const Pass& pass, const MoeStash& stash,
                                const tensor::Tensor& drows, ops::Vector<const float> drow_weight,
                                ops::Matrix dx, ops::Vector<float> dweights,
                                const WeightInputs* meanwhile, const MoeGrad& grad) const {
  ops::UnpermuteSum sum{.x = filled_rows(stash, drows),
                        .row_of_slot = stash.row_of_slot.vector<const int32_t>(),
                        .top_k = router_.top_k(),
                        .y = dx,
                        .accumulate = shared_.has_value(),
                        .row_values = drow_weight,
                        .slot_values = dweights};
  if (!experts_travel(pass)) return ops::unpermute_sum(pass.ctx, sum);
  const tensor::Scope scope(pass.arena);
  const ExpertRoutes& routes = stash.routes;
  Combine combine(pass, routes, "experts/input gradients", drows, true);
  ops::permute_rows(pass.ctx, {.x = filled_rows(stash, drows),
                               .slot_of_row = routes.row_of_arrival.vector<const int32_t>(),
                               .top_k = 1,
                               .y = combine.in(),
                               .weights = drow_weight,
                               .row_weight = combine.in_values()});
  combine.start();
  if (meanwhile) weights_meanwhile(pass, stash, *meanwhile, grad);
  pass.between_operations();
  combine.finish();
  sum.x = combine.back();
  sum.row_values = combine.back_values();
  ops::unpermute_sum(pass.ctx, sum);
}

void MoeBlock::input_gradients(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                               ops::Matrix dx, const WeightInputs* meanwhile, MoeGrad& grad) const {
  const int64_t tokens = pass.tokens(), rows = stash.routes.rows;
  const auto offsets = stash.routes.offsets.vector<const int32_t>();
  grad.dy = pass.push_rows("transient/moe/y", rows, dy.cols);
  grad.dgate_up = pass.push_rows("transient/moe/gate_up", rows, 2 * width_);
  grad.dlogits = pass.push_f32("transient/moe/router", {tokens, router_.experts()});
  if (shared_) shared_->push_grad(pass, grad.shared, dy.cols);
  const tensor::Scope scope(pass.arena);

  bring_gradients(pass, stash, dy, dx, grad);
  const tensor::Tensor drow_weight = pass.push_f32("transient/moe/router", {rows});
  const tensor::Tensor dweights = pass.push_f32("transient/moe/router", {tokens, router_.top_k()});
  const tensor::Tensor drows = pass.push_rows("transient/moe/x", room(stash), dy.cols);
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
  ops::grouped_gemm(pass.ctx, {.a = grad.dgate_up,
                               .b = gate_up_.value,
                               .c = filled_rows(stash, drows),
                               .offsets = offsets});
  pass.between_operations();
  return_gradients(pass, stash, drows, drow_weight.vector<const float>(), dx,
                   dweights.vector<float>(), meanwhile, grad);
  router_.backward_input(pass, stash, dweights, dx, grad.dlogits);
}

void MoeBlock::backward_input(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                              ops::Matrix dx, MoeGrad& grad) const {
  input_gradients(pass, stash, dy, dx, nullptr, grad);
}

void MoeBlock::backward_weight(const Pass& pass, const MoeStash& stash, ops::ConstMatrix x,
                               ops::ConstMatrix dy, const MoeGrad& grad) const {
  if (shared_) shared_->backward_weight(pass, stash.shared, x, dy, grad.shared);
  expert_weights(pass, stash, grad);
  router_.backward_weight(pass, x, grad.dlogits);
}

void MoeBlock::backward(const Pass& pass, const MoeStash& stash, ops::ConstMatrix x,
                        ops::ConstMatrix dy, ops::Matrix dx, MoeGrad& grad) const {
  if (!pass.overlap_experts || !experts_travel(pass) || stash.hidden.empty()) {
    input_gradients(pass, stash, dy, dx, nullptr, grad);
    return backward_weight(pass, stash, x, dy, grad);
  }
  const WeightInputs meanwhile{x, dy};
  input_gradients(pass, stash, dy, dx, &meanwhile, grad);
  if (shared_ && pass.tp() > 1) shared_->backward_weight(pass, stash.shared, x, dy, grad.shared);
  router_.backward_weight(pass, x, grad.dlogits);
}

// Pushes nothing.
void MoeBlock::weights_meanwhile(const Pass& pass, const MoeStash& stash,
                                 const WeightInputs& inputs, const MoeGrad& grad) const {
  pass.between_operations();
  if (shared_ && pass.tp() == 1)
    shared_->backward_weight(pass, stash.shared, inputs.x, inputs.dy, grad.shared);
  expert_weights(pass, stash, grad);
}

void MoeBlock::expert_weights(const Pass& pass, const MoeStash& stash, const MoeGrad& grad) const {
  const auto offsets = stash.routes.offsets.vector<const int32_t>();
  {
    const tensor::Scope scope(pass.arena);
    tensor::Tensor hidden = stash.hidden;
    if (hidden.empty()) {
      hidden = pass.push_rows("transient/moe/hidden", stash.routes.rows, width_);
      weigh_hidden(pass, stash, hidden);
    }
    ops::grouped_gemm_weight_grad(
        pass.ctx,
        {.a = grad.dy, .b = hidden, .c = down_.grad, .offsets = offsets, .accumulate = true});
    pass.between_operations();
  }
  ops::grouped_gemm_weight_grad(pass.ctx, {.a = grad.dgate_up,
                                           .b = stash.x,
                                           .c = gate_up_.grad,
                                           .offsets = offsets,
                                           .accumulate = true});
  pass.between_operations();
}

}  // namespace dsv3::model
