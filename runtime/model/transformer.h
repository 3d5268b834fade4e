// Transformer: the DeepSeek-V3 model of one rank: its parameters, the step's numbers, the routers'
// biases, and its stage of the pipeline, which is the whole model where there is none.
//
// Laws: a micro-batch adds its share of the GLOBAL batch's loss and gradients, so any split into
// micro-batches and over ranks gives the same step (to rounding). Definitions of the losses:
// tests/golden/README.md. What is measured on validation text changes nothing: no count, bias or
// gradient. The step's counts and the biases are of ALL layers of the model, on every rank.
#pragma once

#include <span>
#include <vector>

#include "configs/spec/job_spec.h"
#include "runtime/model/stage.h"
#include "runtime/model/step_state.h"

namespace dsv3::model {

struct TransformerOptions {
  int64_t sequence = 0;          // tokens of a sequence
  int64_t global_sequences = 1;  // sequences of a global batch: what losses are means over
  DType compute = DType::kF32;   // of activations and matrix products
  bool gradients = true;         // false: forward only, in half the memory
  // The ranks that hold the model between them; outlive it.
  const comm::Groups* groups = &comm::Groups::alone();
  Recompute recompute = Recompute::kNone;
  bool overlap_experts = true;  // Pass's
  std::vector<Range> master;    // the store's: flat elements whose f32 master is here; none: all
};

// The dtype to compute in for training.dtype on this device: bf16 only where asked for and where
// it is faster.
DType compute_dtype(const spec::TrainingSpec& training, const device::Device& device);

class Transformer {
 public:
  // Takes all persistent memory from `arena`, which must outlive the model. Weights are zero until
  // params().initialise() or a load.
  Transformer(const spec::ModelSpec& model, const TransformerOptions& options,
              tensor::Arena& arena);
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  ParamStore& params() { return params_; }
  StepState& step() { return step_; }
  Stage& stage() { return stage_; }
  tensor::Arena& arena() { return arena_; }
  const comm::Groups& groups() const { return *options_.groups; }
  int64_t d_model() const { return model_.d_model; }
  // The routers' biases [moe layers, experts] f32; no elements when they are not used.
  const tensor::Tensor& router_bias() const { return router_bias_; }
  int64_t num_moe_layers() const { return static_cast<int64_t>(moe_layers_.size()); }
  // Hugging Face layer of MoE layer moe_idx.
  int64_t moe_layer(int64_t moe_idx) const { return moe_layers_[static_cast<size_t>(moe_idx)]; }
  // "model.layers.N.mlp.gate.e_score_correction_bias".
  std::string router_bias_name(int64_t moe_idx) const;

  // What modules are told about a micro-batch of `sequences`.
  Pass make_pass(int64_t sequences, bool training);

  // The following are for a model that isn't cut into stages; with TP, CP or EP every rank calls
  // them at once with the samples of its data rank. parallel/pipeline.h trains any model.

  // Forward and backward of `tokens` [sequences, sequence + 1] (host; inputs and labels overlap):
  // adds to the gradients, and to step()'s losses and counts. Leaves the arena's stack as it was.
  // `observer` (may be null) is told how far the backward pass is.
  void train_micro_batch(std::span<const int32_t> tokens, BackwardObserver* observer = nullptr);
  // Adds lm_loss · scale, summed over all tokens, to step()'s kLmLoss; touches nothing else.
  void evaluate(std::span<const int32_t> tokens, double scale);
  // Logits [tokens, vocabulary] f32 of the main model, left on the arena's stack: the caller
  // releases it. Nothing else is kept, so one layer's activations is all the memory beside it. One
  // rank only.
  tensor::Tensor score(std::span<const int32_t> tokens);
  // Logits [tokens, vocabulary] f32 of the main model (depth 0) or an MTP depth, left on the
  // arena's stack: the caller releases it. `tokens` as above. One rank only.
  tensor::Tensor logits(std::span<const int32_t> tokens, int64_t depth = 0);
  // Chosen experts [tokens, top_k] of a MoE layer of the last logits() call, on the arena's stack
  // below its release.
  const tensor::Tensor& last_expert_idx(int64_t moe_idx) const {
    return last_expert_idx_[static_cast<size_t>(moe_idx)];
  }

  // Moves every router's bias, those of other stages' layers too, by step()'s counts, which must be
  // those of the whole global batch: bias += rate · sign(mean − counts).
  void update_router_bias();

 private:
  int64_t sequences_of(std::span<const int32_t> tokens) const;

  spec::ModelSpec model_;
  TransformerOptions options_;
  tensor::Arena& arena_;
  ParamStore params_;
  std::vector<int64_t> moe_layers_;
  StepState step_;
  tensor::Tensor router_bias_;
  Stage stage_;
  MicroBatch batch_;  // of the calls above, kept so that a step allocates nothing
  std::vector<tensor::Tensor> last_expert_idx_;
};

}  // namespace dsv3::model
