// MoeRouter: which experts a token goes to, how much each weighs, and what balances them
// (DeepSeek-V2 §2.1, V3 §2.1.2).
//
// Laws: f32 from its input on; which expert is chosen follows the biased scores, how much it weighs
// the unbiased ones. The bias is no parameter: only Transformer::update_router_bias() changes it,
// from the exact counts of the global batch. A rank routes the tokens that it holds; what is a
// matter of a whole sequence (the balance loss, an expert's capacity) is decided from counts of the
// whole sequence, exact integers, so that it doesn't depend on how CP and TP cut the sequence. For
// them a rank sends 4·sequences·experts bytes to each of the other TP·CP − 1 ranks (twice that
// where CP alone cuts: its two parts), in training with a balance loss, and with a capacity.
#pragma once

#include <string>

#include "runtime/model/pass.h"
#include "runtime/model/step_state.h"

namespace dsv3::model {

// slots = tokens · top_k, one (token, choice) each; rows = the slots that aren't dropped, sorted by
// expert.
struct RouterStash {
  tensor::Tensor logits, scores;  // [tokens, experts] f32
  tensor::Tensor expert_idx;      // [tokens, top_k] i32
  tensor::Tensor weights;         // [tokens, top_k] f32
  tensor::Tensor fraction;        // [sequences, experts] f32: of the whole sequences
  tensor::Tensor offsets;         // [experts + 1] i32
  tensor::Tensor row_of_slot;     // [slots] i32, −1: dropped
  tensor::Tensor slot_of_row;     // [slots] i32, of which offsets[experts] are rows
};

class MoeRouter {
 public:
  // `prefix` is "model.layers.N.mlp"; bias [experts] f32 or empty (no bias).
  MoeRouter(const spec::ModelSpec& model, const ParamStore& params, const std::string& prefix,
            ops::Vector<float> bias);

  // Routes x [tokens, d_model] act. In training counts, both router losses and what a capacity
  // drops are added to `step` at moe_idx, unless the pass is made again.
  void forward(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
               RouterStash& stash) const;
  // dlogits [tokens, experts] f32 = from dweights [tokens, top_k] and the losses; dx += what they
  // give.
  void backward_input(const Pass& pass, const RouterStash& stash, const tensor::Tensor& dweights,
                      ops::Matrix dx, const tensor::Tensor& dlogits) const;
  void backward_weight(const Pass& pass, ops::ConstMatrix x, const tensor::Tensor& dlogits) const;

  int64_t experts() const { return experts_; }
  int64_t top_k() const { return top_k_; }
  // Rows that an expert takes of one sequence of that many tokens: ceil(capacity_factor · sequence
  // · top_k / experts); 0: all of them.
  int64_t capacity(int64_t sequence) const;

 private:
  // Choices of whole sequences, and of their tokens before each run of tokens that is here. Both
  // empty where what is here is all.
  struct SequenceCounts {
    ops::Vector<const int32_t> whole;   // [sequences, experts]
    ops::Vector<const int32_t> before;  // [runs, experts]
  };

  ops::RouterShape shape(const Pass& pass) const;
  // Tokens that follow each other in their sequence: all that are here, or its two parts.
  int64_t run(const Pass& pass) const;
  bool needs_sequence_counts(const Pass& pass) const;
  SequenceCounts exchange_counts(const Pass& pass, const tensor::Tensor& run_counts) const;
  void choose(const Pass& pass, StepState& step, int64_t moe_idx, const RouterStash& stash,
              const tensor::Tensor& run_counts) const;
  // x in f32: itself, or a copy pushed on the arena.
  ops::ConstMatrix as_f32(const Pass& pass, ops::ConstMatrix x) const;

  int64_t experts_, top_k_, groups_, top_groups_;
  ops::ScoreFunction score_;
  bool normalise_;
  float scaling_;
  double capacity_factor_;  // 0: dropless
  ops::Vector<const float> bias_;
  Weight gate_;  // f32
};

}  // namespace dsv3::model
