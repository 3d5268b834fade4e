// Experts, forward and backward; see moe.h.
#include "runtime/model/moe.h"

namespace dsv3::model {
namespace {

// A part of [rows, …] tensors of the experts that are here.
ops::Matrix rows_of(const ExpertPart& part, const tensor::Tensor& all) {
  return all.matrix().row_range(part.first_row, part.rows);
}
ops::Vector<float> values_of(const ExpertPart& part, const tensor::Tensor& all) {
  return {all.as<float>() + part.first_row, part.rows};
}
ops::ConstStack experts_of(const ExpertPart& part, const ops::ConstStack& all) {
  const int64_t first = part.first_expert * all.rows;
  const ops::ConstMatrix flat(all.data, all.dtype, all.groups * all.rows, all.cols);
  return {flat.row_range(first, part.experts * all.rows).data, all.dtype, part.experts, all.rows,
          all.cols};
}
ops::Vector<const int32_t> slots_of(const ExpertPart& part, const ExpertRoutes& routes) {
  return {routes.slot_of_sent.as<int32_t>() + part.first_sent, part.sent};
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

// out [the part's rows, d_model] = its experts of its rows, which are in the stash.
void MoeBlock::forward_part(const Pass& pass, const MoeStash& stash, const ExpertPart& part,
                            ops::Matrix out) const {
  const auto offsets = part.offsets.vector<const int32_t>();
  const ops::Matrix gate_up = rows_of(part, stash.gate_up);
  ops::grouped_gemm(pass.ctx, {.a = rows_of(part, stash.x),
                               .b = experts_of(part, gate_up_.value),
                               .c = gate_up,
                               .offsets = offsets,
                               .transpose_b = true});
  pass.between_operations();
  const tensor::Scope scope(pass.arena);
  const ops::Matrix hidden = stash.hidden.empty()
                                 ? pass.push_rows("transient/moe/hidden", part.rows, width_)
                                 : rows_of(part, stash.hidden);
  ops::swiglu_forward(
      pass.ctx, {.gate_up = gate_up, .row_scale = values_of(part, stash.row_weight), .y = hidden});
  ops::grouped_gemm(pass.ctx, {.a = hidden,
                               .b = experts_of(part, down_.value),
                               .c = out,
                               .offsets = offsets,
                               .transpose_b = true});
}

void MoeBlock::forward_here(const Pass& pass, ops::ConstMatrix x, ops::Matrix y,
                            const MoeStash& stash) const {
  const ExpertRoutes& routes = stash.routes;
  if (shared_) shared_->forward_pushed(pass, x, y, stash.shared);
  ops::permute_rows(pass.ctx, {.x = x,
                               .slot_of_row = routes.slot_of_sent.vector<const int32_t>(),
                               .top_k = router_.top_k(),
                               .y = stash.x,
                               .weights = stash.weights.vector<const float>(),
                               .row_weight = stash.row_weight.vector<float>()});
  const tensor::Tensor out = pass.push_rows("transient/moe/out", routes.rows, x.cols);
  forward_part(pass, stash, routes.parts[0], out);
  ops::unpermute_sum(pass.ctx, {.x = out,
                                .row_of_slot = routes.sent_of_slot.vector<const int32_t>(),
                                .top_k = router_.top_k(),
                                .y = y,
                                .accumulate = true});
}

void MoeBlock::forward_travelling(const Pass& pass, ops::ConstMatrix x, ops::Matrix y,
                                  const MoeStash& stash) const {
  const ExpertRoutes& routes = stash.routes;
  RoundTrip trip(pass, routes, {"experts/dispatch", "experts/combine"}, x.cols,
                 RoundTrip::Values::kOut);
  for (int64_t p = 0; p < routes.num_parts; ++p) {
    ops::permute_rows(pass.ctx, {.x = x,
                                 .slot_of_row = slots_of(routes.part(p), routes),
                                 .top_k = router_.top_k(),
                                 .y = trip.leaving(p),
                                 .weights = stash.weights.vector<const float>(),
                                 .row_weight = trip.leaving_values(p)});
    trip.start_out(p);
  }
  if (!pass.overlap_experts) trip.finish_out(0);
  const bool in_parts = shared_in_parts(pass, stash);
  if (in_parts) {
    shared_->forward_up(pass, x, stash.shared);
  } else if (shared_) {
    shared_->forward_pushed(pass, x, y, stash.shared);
  }
  pass.between_operations();
  for (int64_t p = 0; p < routes.num_parts; ++p) {
    const ExpertPart& part = routes.part(p);
    if (pass.overlap_experts) trip.finish_out(p);
    ops::permute_rows(pass.ctx, {.x = trip.arrived(p),
                                 .slot_of_row = part.arrival_of_row.vector<const int32_t>(),
                                 .top_k = 1,
                                 .y = rows_of(part, stash.x),
                                 .weights = trip.arrived_values(p),
                                 .row_weight = values_of(part, stash.row_weight)});
    const tensor::Scope scope(pass.arena);
    const tensor::Tensor out = pass.push_rows("transient/moe/out", part.rows, x.cols);
    forward_part(pass, stash, part, out);
    ops::permute_rows(pass.ctx, {.x = out,
                                 .slot_of_row = part.row_of_arrival.vector<const int32_t>(),
                                 .top_k = 1,
                                 .y = trip.arrived(p)});
    trip.start_back(p);
    pass.between_operations();
  }
  if (in_parts) shared_->forward_down(pass, y, stash.shared);
  pass.between_operations();
  trip.finish_back();
  ops::unpermute_sum(pass.ctx, {.x = trip.back(),
                                .row_of_slot = routes.sent_of_slot.vector<const int32_t>(),
                                .top_k = router_.top_k(),
                                .y = y,
                                .accumulate = true});
}

void MoeBlock::forward(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
                       ops::Matrix y, MoeStash& stash) const {
  router_.forward(pass, step, moe_idx, x, stash);
  stash.routes = plan_routes(pass, stash, experts_here_, router_.capacity(pass.sequence) > 0);
  const int64_t rows = stash.routes.rows;
  const bool keeps_hidden = pass.recompute != Recompute::kSelective;
  stash.row_weight = pass.push_f32("activations/moe/router", {rows});
  stash.x = pass.push_rows("activations/moe/x", rows, x.cols);
  stash.gate_up = pass.push_rows("activations/moe/gate_up", rows, 2 * width_);
  stash.hidden =
      keeps_hidden ? pass.push_rows("activations/moe/hidden", rows, width_) : tensor::Tensor();
  if (shared_) shared_->push_stash(pass, stash.shared);
  const tensor::Scope scope(pass.arena);
  if (experts_travel(pass)) return forward_travelling(pass, x, y, stash);
  forward_here(pass, x, y, stash);
}

// dx [the part's rows, d_model] and dweight [its rows] = from the gradients of its outputs,
// grad.dy.
void MoeBlock::backward_part(const Pass& pass, const MoeStash& stash, const MoeGrad& grad,
                             const ExpertPart& part, ops::Matrix dx,
                             ops::Vector<float> dweight) const {
  const auto offsets = part.offsets.vector<const int32_t>();
  const ops::Matrix dgate_up = rows_of(part, grad.dgate_up);
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor dhidden = pass.push_rows("transient/moe/hidden", part.rows, width_);
  ops::grouped_gemm(pass.ctx, {.a = rows_of(part, grad.dy),
                               .b = experts_of(part, down_.value),
                               .c = dhidden,
                               .offsets = offsets});
  pass.between_operations();
  ops::swiglu_backward(pass.ctx, {.dy = dhidden,
                                  .gate_up = rows_of(part, stash.gate_up),
                                  .row_scale = values_of(part, stash.row_weight),
                                  .dgate_up = dgate_up,
                                  .drow_scale = dweight});
  ops::grouped_gemm(
      pass.ctx,
      {.a = dgate_up, .b = experts_of(part, gate_up_.value), .c = dx, .offsets = offsets});
  pass.between_operations();
}

// dx = the shared experts' gradient of x, then += the rows' of each token; dweights [tokens, top_k]
// = those of its weights.
void MoeBlock::backward_here(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                             ops::Matrix dx, ops::Vector<float> dweights,
                             const MoeGrad& grad) const {
  const ExpertRoutes& routes = stash.routes;
  if (shared_) shared_->backward_input_pushed(pass, stash.shared, dy, dx, false, grad.shared);
  ops::permute_rows(pass.ctx, {.x = dy,
                               .slot_of_row = routes.slot_of_sent.vector<const int32_t>(),
                               .top_k = router_.top_k(),
                               .y = grad.dy});
  const tensor::Tensor drow_weight = pass.push_f32("transient/moe/router", {routes.rows});
  const tensor::Tensor drows = pass.push_rows("transient/moe/x", routes.rows, dy.cols);
  backward_part(pass, stash, grad, routes.parts[0], drows, drow_weight.vector<float>());
  ops::unpermute_sum(pass.ctx, {.x = drows,
                                .row_of_slot = routes.sent_of_slot.vector<const int32_t>(),
                                .top_k = router_.top_k(),
                                .y = dx,
                                .accumulate = shared_.has_value(),
                                .row_values = drow_weight.vector<const float>(),
                                .slot_values = dweights});
}

// The same. Weight gradients `meanwhile`, or null: nothing.
void MoeBlock::backward_travelling(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                                   ops::Matrix dx, ops::Vector<float> dweights,
                                   const WeightInputs* meanwhile, const MoeGrad& grad) const {
  const ExpertRoutes& routes = stash.routes;
  RoundTrip trip(pass, routes, {"experts/output gradients", "experts/input gradients"}, dy.cols,
                 RoundTrip::Values::kBack);
  for (int64_t p = 0; p < routes.num_parts; ++p) {
    ops::permute_rows(pass.ctx, {.x = dy,
                                 .slot_of_row = slots_of(routes.part(p), routes),
                                 .top_k = router_.top_k(),
                                 .y = trip.leaving(p)});
    trip.start_out(p);
  }
  if (!pass.overlap_experts) trip.finish_out(0);
  if (shared_) shared_->backward_input_pushed(pass, stash.shared, dy, dx, false, grad.shared);
  pass.between_operations();
  for (int64_t p = 0; p < routes.num_parts; ++p) {
    const ExpertPart& part = routes.part(p);
    if (pass.overlap_experts) trip.finish_out(p);
    ops::permute_rows(pass.ctx, {.x = trip.arrived(p),
                                 .slot_of_row = part.arrival_of_row.vector<const int32_t>(),
                                 .top_k = 1,
                                 .y = rows_of(part, grad.dy)});
    const tensor::Scope scope(pass.arena);
    const tensor::Tensor drow_weight = pass.push_f32("transient/moe/router", {part.rows});
    const tensor::Tensor drows = pass.push_rows("transient/moe/x", part.rows, dy.cols);
    backward_part(pass, stash, grad, part, drows, drow_weight.vector<float>());
    ops::permute_rows(pass.ctx, {.x = drows,
                                 .slot_of_row = part.row_of_arrival.vector<const int32_t>(),
                                 .top_k = 1,
                                 .y = trip.arrived(p),
                                 .weights = drow_weight.vector<const float>(),
                                 .row_weight = trip.arrived_values(p)});
    trip.start_back(p);
    pass.between_operations();
  }
  if (meanwhile) weights_meanwhile(pass, stash, *meanwhile, grad);
  trip.finish_back();
  ops::unpermute_sum(pass.ctx, {.x = trip.back(),
                                .row_of_slot = routes.sent_of_slot.vector<const int32_t>(),
                                .top_k = router_.top_k(),
                                .y = dx,
                                .accumulate = shared_.has_value(),
                                .row_values = trip.back_values(),
                                .slot_values = dweights});
}

void MoeBlock::input_gradients(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                               ops::Matrix dx, const WeightInputs* meanwhile, MoeGrad& grad) const {
  const int64_t tokens = pass.tokens(), rows = stash.routes.rows;
  grad.dy = pass.push_rows("transient/moe/y", rows, dy.cols);
  grad.dgate_up = pass.push_rows("transient/moe/gate_up", rows, 2 * width_);
  grad.dlogits = pass.push_f32("transient/moe/router", {tokens, router_.experts()});
  if (shared_) shared_->push_grad(pass, grad.shared, dy.cols);
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor dweights = pass.push_f32("transient/moe/router", {tokens, router_.top_k()});
  {
    const tensor::Scope rows_scope(pass.arena);
    if (experts_travel(pass)) {
      backward_travelling(pass, stash, dy, dx, dweights.vector<float>(), meanwhile, grad);
    } else {
      backward_here(pass, stash, dy, dx, dweights.vector<float>(), grad);
    }
  }
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
      ops::swiglu_forward(pass.ctx, {.gate_up = stash.gate_up,
                                     .row_scale = stash.row_weight.vector<const float>(),
                                     .y = hidden});
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
