// MoeBlock: router, routed experts and shared experts of one MoE layer (DeepSeek-V3 §2.1.2).
//
// Laws: the router is f32 from its input on; which expert is chosen follows the biased scores, how
// much it weighs the unbiased ones; nothing is dropped; the routing weight is applied before the
// down projection. The bias is no parameter: only update_bias() changes it, from the exact counts
// of the global batch.
//
// Axis words: slots = tokens · top_k, one (token, choice) each; rows = the same slots, sorted by
// expert.
#pragma once

#include <optional>
#include <string>

#include "runtime/model/ffn.h"
#include "runtime/model/pass.h"
#include "runtime/model/step_state.h"

namespace dsv3::model {

struct MoeStash {
  tensor::Tensor logits, scores;            // [tokens, experts] f32
  tensor::Tensor expert_idx;                // [tokens, top_k] i32
  tensor::Tensor weights;                   // [tokens, top_k] f32
  tensor::Tensor fraction;                  // [sequences, experts] f32
  tensor::Tensor offsets;                   // [experts + 1] i32
  tensor::Tensor row_of_slot, slot_of_row;  // [slots] i32
  tensor::Tensor row_weight;                // [rows] f32
  tensor::Tensor x;                         // [rows, d_model] act: the input, permuted
  tensor::Tensor gate_up;                   // [rows, 2 · width] act
  tensor::Tensor hidden;                    // [rows, width] act, weighted
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
  // bias += rate · sign(mean − counts). Nothing without a bias.
  void update_bias(const Pass& pass, ops::Vector<const int64_t> counts) const;

 private:
  ops::RouterShape router_shape(const Pass& pass) const;
  // x in f32: itself, or a copy pushed on the arena.
  ops::ConstMatrix as_f32(const Pass& pass, ops::ConstMatrix x) const;
  void route(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
             MoeStash& stash) const;
  void router_backward_input(const Pass& pass, const MoeStash& stash,
                             const tensor::Tensor& dweights, ops::Matrix dx, MoeGrad& grad) const;

  int64_t experts_, top_k_, groups_, top_groups_, width_;
  ops::ScoreFunction score_;
  bool normalise_;
  float scaling_, bias_rate_;
  ops::Vector<float> bias_;
  Weight gate_;  // f32
  ExpertWeight gate_up_, down_;
  std::optional<DenseFfn> shared_;
};

}  // namespace dsv3::model
