// The SwiGLU feed-forward; see ffn.h.
#include "runtime/model/ffn.h"

namespace dsv3::model {

DenseFfn::DenseFfn(const ParamStore& params, const std::string& prefix)
    : gate_up_(params.weight(prefix + ".gate_up_proj")),
      down_(params.weight(prefix + ".down_proj")) {}

void DenseFfn::forward(const Pass& pass, ops::ConstMatrix x, ops::Matrix y, FfnStash& stash) const {
  stash.gate_up = pass.push("activations/ffn/gate_up", 2 * width());
  stash.hidden = pass.push("activations/ffn/hidden", width());
  linear(pass, x, gate_up_, stash.gate_up);
  ops::swiglu_forward(pass.ctx, {.gate_up = stash.gate_up, .y = stash.hidden});
  linear(pass, stash.hidden, down_, y, true);
}

void DenseFfn::backward_input(const Pass& pass, const FfnStash& stash, ops::ConstMatrix dy,
                              ops::Matrix dx, bool accumulate, FfnGrad& grad) const {
  grad.dgate_up = pass.push("transient/ffn/gate_up", 2 * width());
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor dhidden = pass.push("transient/ffn/hidden", width());
  linear_input_grad(pass, dy, down_, dhidden);
  ops::swiglu_backward(pass.ctx,
                       {.dy = dhidden, .gate_up = stash.gate_up, .dgate_up = grad.dgate_up});
  linear_input_grad(pass, grad.dgate_up, gate_up_, dx, accumulate);
}

void DenseFfn::backward_weight(const Pass& pass, const FfnStash& stash, ops::ConstMatrix x,
                               ops::ConstMatrix dy, const FfnGrad& grad) const {
  linear_weight_grad(pass, dy, stash.hidden, down_);
  linear_weight_grad(pass, grad.dgate_up, x, gate_up_);
}

}  // namespace dsv3::model
