// DenseFfn: the SwiGLU feed-forward of a dense layer, and the shared experts of an MoE layer (one
// FFN of their total width).
//
// Law: gate and up are one product; what is kept is their output and the hidden state, which
// selective recomputation drops and makes again for the weight's gradient. width: this rank's.
// Under TP a rank has a strip of the width: its own tokens are gathered, the partial outputs
// scattered; what was gathered is not kept.
//   y += (silu(x · Wgateᵀ) ∘ (x · Wupᵀ)) · Wdownᵀ
#pragma once

#include <string>

#include "runtime/model/pass.h"

namespace dsv3::model {

struct FfnStash {
  tensor::Tensor gate_up;  // [gathered_tokens, 2 · width] act
  tensor::Tensor hidden;   // [gathered_tokens, width] act; empty under selective recomputation
};
struct FfnGrad {
  tensor::Tensor dgate_up;  // [gathered_tokens, 2 · width] act
  tensor::Tensor dy;        // [gathered_tokens, d_model] act; empty with TP 1
};

class DenseFfn {
 public:
  // `prefix` is "model.layers.N.mlp" or "….mlp.shared_experts".
  DenseFfn(const ParamStore& params, const std::string& prefix);

  // y += ffn(x); x, y [tokens, d_model] act.
  void forward(const Pass& pass, ops::ConstMatrix x, ops::Matrix y, FfnStash& stash) const;
  // dx (+)= gradient of x. Pushes grad's tensor.
  void backward_input(const Pass& pass, const FfnStash& stash, ops::ConstMatrix dy, ops::Matrix dx,
                      bool accumulate, FfnGrad& grad) const;
  // Both in two steps, for a caller that pushes what is released before the stash is: first what
  // they push and keep, then the rest.
  void push_stash(const Pass& pass, FfnStash& stash) const;
  void forward_pushed(const Pass& pass, ops::ConstMatrix x, ops::Matrix y,
                      const FfnStash& stash) const;
  // forward_pushed() in two parts, between which the caller may do something else. Requires a
  // stash that keeps `hidden`.
  void forward_up(const Pass& pass, ops::ConstMatrix x, const FfnStash& stash) const;
  void forward_down(const Pass& pass, ops::Matrix y, const FfnStash& stash) const;
  void push_grad(const Pass& pass, FfnGrad& grad, int64_t d_model) const;
  void backward_input_pushed(const Pass& pass, const FfnStash& stash, ops::ConstMatrix dy,
                             ops::Matrix dx, bool accumulate, const FfnGrad& grad) const;
  void backward_weight(const Pass& pass, const FfnStash& stash, ops::ConstMatrix x,
                       ops::ConstMatrix dy, const FfnGrad& grad) const;

 private:
  void up(const Pass& pass, ops::ConstMatrix x, const FfnStash& stash, ops::Matrix hidden) const;
  void down(const Pass& pass, ops::ConstMatrix hidden, ops::Matrix y) const;
  int64_t width() const { return down_.value.cols; }
  tensor::Tensor push_hidden(const Pass& pass, std::string_view name) const {
    return pass.push_rows(name, pass.gathered_tokens(), width());
  }
  Weight gate_up_, down_;
};

}  // namespace dsv3::model
