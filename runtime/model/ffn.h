// DenseFfn: the SwiGLU feed-forward of a dense layer, and the shared experts of an MoE layer (one
// FFN of their total width).
//
// Law: gate and up are one product; what is kept is their output and the hidden state.
//   y += (silu(x · Wgateᵀ) ∘ (x · Wupᵀ)) · Wdownᵀ
#pragma once

#include <string>

#include "runtime/model/pass.h"

namespace dsv3::model {

struct FfnStash {
  tensor::Tensor gate_up;  // [tokens, 2 · width] act
  tensor::Tensor hidden;   // [tokens, width] act
};
struct FfnGrad {
  tensor::Tensor dgate_up;  // [tokens, 2 · width] act
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
  void backward_weight(const Pass& pass, const FfnStash& stash, ops::ConstMatrix x,
                       ops::ConstMatrix dy, const FfnGrad& grad) const;

 private:
  int64_t width() const { return down_.value.cols; }
  Weight gate_up_, down_;
};

}  // namespace dsv3::model
