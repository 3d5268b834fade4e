// MoeBlock: router, routed experts and shared experts of one MoE layer (DeepSeek-V3 §2.1.2).
//
// Laws: without a capacity nothing is dropped; the routing weight is applied before the down
// projection. A rank routes its own tokens (moe_router.h), sends them to the ranks that hold their
// experts and takes back what comes out (expert_exchange.h). With Pass::overlap_experts the experts
// are computed in parts, one while the rows of others travel, and the shared experts meanwhile: up
// while the first rows leave, down while the last come back; in the backward their input's
// gradient, then the weights' gradients. The order of every sum is the same without overlap. Where
// all experts are here nothing is exchanged.
#pragma once

#include <optional>
#include <string>

#include "runtime/model/expert_exchange.h"
#include "runtime/model/ffn.h"
#include "runtime/model/moe_router.h"

namespace dsv3::model {

// rows: those of the experts that are here, sorted by expert, whoever sent them. width: of the
// experts, or of this rank's strip of them.
struct MoeStash : RouterStash {
  ExpertRoutes routes;
  tensor::Tensor row_weight;  // [rows] f32
  tensor::Tensor x;           // [rows, d_model] act: their input
  tensor::Tensor gate_up;     // [rows, 2 · width] act
  tensor::Tensor hidden;      // [rows, width] act, weighted; empty under selective recomputation
  FfnStash shared;
};
struct MoeGrad {
  tensor::Tensor dy;        // [rows, d_model] act: permuted
  tensor::Tensor dgate_up;  // [rows, 2 · width] act
  tensor::Tensor dlogits;   // [tokens, experts] f32
  FfnGrad shared;
};

class MoeBlock {
 public:
  // `prefix` is "model.layers.N.mlp"; bias [experts] f32 or empty (no bias).
  MoeBlock(const spec::ModelSpec& model, const ParamStore& params, const std::string& prefix,
           ops::Vector<float> bias);

  // y += block(x); x, y [tokens, d_model] act. In training the counts and both router losses are
  // added to `step` at moe_idx.
  void forward(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
               ops::Matrix y, MoeStash& stash) const;
  // dx = gradient of x.
  void backward_input(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy, ops::Matrix dx,
                      MoeGrad& grad) const;
  void backward_weight(const Pass& pass, const MoeStash& stash, ops::ConstMatrix x,
                       ops::ConstMatrix dy, const MoeGrad& grad) const;
  // Both, the weights' gradients while the rows' input gradients travel back where that needs no
  // more memory (nothing recomputed; shared experts only with TP 1). The same bits.
  void backward(const Pass& pass, const MoeStash& stash, ops::ConstMatrix x, ops::ConstMatrix dy,
                ops::Matrix dx, MoeGrad& grad) const;

 private:
  // Of the shared experts' weight gradients; [tokens, d_model] act.
  struct WeightInputs {
    ops::ConstMatrix x, dy;
  };
  void forward_here(const Pass& pass, ops::ConstMatrix x, ops::Matrix y,
                    const MoeStash& stash) const;
  void forward_travelling(const Pass& pass, ops::ConstMatrix x, ops::Matrix y,
                          const MoeStash& stash) const;
  void forward_part(const Pass& pass, const MoeStash& stash, const ExpertPart& part,
                    ops::Matrix out) const;
  void backward_here(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy, ops::Matrix dx,
                     ops::Vector<float> dweights, const MoeGrad& grad) const;
  void backward_travelling(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy,
                           ops::Matrix dx, ops::Vector<float> dweights,
                           const WeightInputs* meanwhile, const MoeGrad& grad) const;
  void backward_part(const Pass& pass, const MoeStash& stash, const MoeGrad& grad,
                     const ExpertPart& part, ops::Matrix dx, ops::Vector<float> dweight) const;
  void input_gradients(const Pass& pass, const MoeStash& stash, ops::ConstMatrix dy, ops::Matrix dx,
                       const WeightInputs* meanwhile, MoeGrad& grad) const;
  void expert_weights(const Pass& pass, const MoeStash& stash, const MoeGrad& grad) const;
  void weights_meanwhile(const Pass& pass, const MoeStash& stash, const WeightInputs& inputs,
                         const MoeGrad& grad) const;
  bool shared_in_parts(const Pass& pass, const MoeStash& stash) const;

  MoeRouter router_;
  ExpertWeight gate_up_, down_;  // of the experts that are here
  int64_t experts_here_, width_;
  std::optional<DenseFfn> shared_;
};

}  // namespace dsv3::model
