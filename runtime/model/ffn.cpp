// The SwiGLU feed-forward; see ffn.h.
#include "runtime/model/ffn.h"

#include "runtime/model/tokens.h"

namespace dsv3::model {

DenseFfn::DenseFfn(const ParamStore& params, const std::string& prefix)
    : gate_up_(params.weight(prefix + ".gate_up_proj")),
      down_(params.weight(prefix + ".down_proj")) {}

void DenseFfn::forward(const Pass& pass, ops::ConstMatrix x, ops::Matrix y, FfnStash& stash) const {
  push_stash(pass, stash);
  forward_pushed(pass, x, y, stash);
}

void DenseFfn::backward_input(const Pass& pass, const FfnStash& stash, ops::ConstMatrix dy,
                              ops::Matrix dx, bool accumulate, FfnGrad& grad) const {
  push_grad(pass, grad, dy.cols);
  backward_input_pushed(pass, stash, dy, dx, accumulate, grad);
}

void DenseFfn::push_stash(const Pass& pass, FfnStash& stash) const {
  const bool keeps = pass.recompute != Recompute::kSelective;
  stash.gate_up = pass.push_rows("activations/ffn/gate_up", pass.gathered_tokens(), 2 * width());
  stash.hidden = keeps ? push_hidden(pass, "activations/ffn/hidden") : tensor::Tensor{};
}

void DenseFfn::push_grad(const Pass& pass, FfnGrad& grad, int64_t d_model) const {
  const int64_t tokens = pass.gathered_tokens();
  grad.dgate_up = pass.push_rows("transient/ffn/gate_up", tokens, 2 * width());
  grad.dy = pass.tp() > 1 ? pass.push_rows("transient/ffn/out", tokens, d_model) : tensor::Tensor{};
}

void DenseFfn::up(const Pass& pass, ops::ConstMatrix x, const FfnStash& stash,
                  ops::Matrix hidden) const {
  const tensor::Scope scope(pass.arena);
  if (pass.tp() > 1) x = gather_tokens(pass, "ffn inputs", "transient/ffn/inputs", x);
  linear(pass, x, gate_up_, stash.gate_up);
  pass.between_operations();
  ops::swiglu_forward(pass.ctx, {.gate_up = stash.gate_up, .y = hidden});
}

void DenseFfn::down(const Pass& pass, ops::ConstMatrix hidden, ops::Matrix y) const {
  if (pass.tp() == 1) return linear(pass, hidden, down_, y, true);
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor partial =
      pass.push_rows("transient/ffn/out", pass.gathered_tokens(), y.cols);
  linear(pass, hidden, down_, partial);
  add_scattered_tokens(pass, "ffn out", partial, y);
}

void DenseFfn::forward_pushed(const Pass& pass, ops::ConstMatrix x, ops::Matrix y,
                              const FfnStash& stash) const {
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor hidden =
      stash.hidden.empty() ? push_hidden(pass, "transient/ffn/hidden") : stash.hidden;
  up(pass, x, stash, hidden);
  down(pass, hidden, y);
}

void DenseFfn::forward_up(const Pass& pass, ops::ConstMatrix x, const FfnStash& stash) const {
  up(pass, x, stash, stash.hidden);
}

void DenseFfn::forward_down(const Pass& pass, ops::Matrix y, const FfnStash& stash) const {
  down(pass, stash.hidden, y);
}

void DenseFfn::backward_input_pushed(const Pass& pass, const FfnStash& stash, ops::ConstMatrix dy,
                                     ops::Matrix dx, bool accumulate, const FfnGrad& grad) const {
  const bool cut = pass.tp() > 1;
  if (cut) {
    start_gather_tokens(pass, "ffn out gradient", dy, grad.dy).wait();
    dy = grad.dy;
  }
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor dhidden = push_hidden(pass, "transient/ffn/hidden");
  linear_input_grad(pass, dy, down_, dhidden);
  ops::swiglu_backward(pass.ctx,
                       {.dy = dhidden, .gate_up = stash.gate_up, .dgate_up = grad.dgate_up});
  if (!cut) return linear_input_grad(pass, grad.dgate_up, gate_up_, dx, accumulate);
  const tensor::Tensor partial =
      pass.push_rows("transient/ffn/inputs", pass.gathered_tokens(), dx.cols);
  linear_input_grad(pass, grad.dgate_up, gate_up_, partial);
  if (accumulate) return add_scattered_tokens(pass, "ffn inputs gradient", partial, dx);
  start_scatter_tokens(pass, "ffn inputs gradient", partial, dx).wait();
}

void DenseFfn::backward_weight(const Pass& pass, const FfnStash& stash, ops::ConstMatrix x,
                               ops::ConstMatrix dy, const FfnGrad& grad) const {
  const bool cut = pass.tp() > 1;
  const tensor::Scope scope(pass.arena);
  TokenMove move;
  if (cut) {  // on its way while down's gradient is computed
    const tensor::Tensor all =
        pass.push_rows("transient/ffn/inputs", pass.gathered_tokens(), x.cols);
    move = start_gather_tokens(pass, "ffn inputs", x, all);
    x = all, dy = grad.dy;
  }
  tensor::Tensor hidden = stash.hidden;
  if (hidden.empty()) {
    hidden = push_hidden(pass, "transient/ffn/hidden");
    ops::swiglu_forward(pass.ctx, {.gate_up = stash.gate_up, .y = hidden});
  }
  linear_weight_grad(pass, dy, hidden, down_);
  move.wait();
  linear_weight_grad(pass, grad.dgate_up, x, gate_up_);
}

}  // namespace dsv3::model
