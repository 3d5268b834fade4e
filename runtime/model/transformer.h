// Transformer: the whole DeepSeek-V3 model on one device: embedding, layers, final norm, head, MTP
// modules.
//
// Laws: a micro-batch adds its share of the GLOBAL batch's loss and gradients, so any split into
// micro-batches gives the same step (to rounding). Definitions of the losses:
// tests/golden/README.md. What is measured on validation text changes nothing: no count, bias or
// gradient.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "configs/spec/job_spec.h"
#include "runtime/model/head.h"
#include "runtime/model/mtp.h"
#include "runtime/model/step_state.h"

namespace dsv3::model {

struct TransformerOptions {
  int64_t sequence = 0;          // tokens of a sequence
  int64_t global_sequences = 1;  // sequences of a global batch: what losses are means over
  DType compute = DType::kF32;   // of activations and matrix products
  bool gradients = true;         // false: forward only, in half the memory
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
  // The routers' biases [moe layers, experts] f32; no elements when they are not used.
  const tensor::Tensor& router_bias() const { return router_bias_; }
  int64_t num_moe_layers() const { return static_cast<int64_t>(moe_layers_.size()); }
  // Hugging Face layer of MoE layer moe_idx.
  int64_t moe_layer(int64_t moe_idx) const { return moe_layers_[static_cast<size_t>(moe_idx)]; }
  // "model.layers.N.mlp.gate.e_score_correction_bias".
  std::string router_bias_name(int64_t moe_idx) const;

  // Forward and backward of `tokens` [sequences, sequence + 1] (host; inputs and labels overlap):
  // adds to the gradients, and to step()'s losses and counts. Leaves the arena's stack as it was.
  // `observer` (may be null) is told how far the backward pass is.
  void train_micro_batch(std::span<const int32_t> tokens, BackwardObserver* observer = nullptr);
  // Adds lm_loss · scale, summed over all tokens, to step()'s kLmLoss; touches nothing else.
  void evaluate(std::span<const int32_t> tokens, double scale);
  // Logits [tokens, vocabulary] f32 of the main model, left on the arena's stack: the caller
  // releases it. Nothing else is kept, so one layer's activations is all the memory beside it.
  tensor::Tensor score(std::span<const int32_t> tokens);
  // Logits [tokens, vocabulary] f32 of the main model (depth 0) or an MTP depth, left on the
  // arena's stack: the caller releases it. `tokens` as above.
  tensor::Tensor logits(std::span<const int32_t> tokens, int64_t depth = 0);
  // Chosen experts [tokens, top_k] of a MoE layer of the last logits() call, on the arena's stack
  // below its release.
  const tensor::Tensor& last_expert_idx(int64_t moe_idx) const {
    return last_expert_idx_[static_cast<size_t>(moe_idx)];
  }
  // Moves every router's bias by step()'s counts, which must be those of the whole global batch.
  void update_router_bias();

 private:
  // Ids and labels of one micro-batch on the device.
  struct Inputs {
    ops::Vector<const int32_t> ids, labels;                       // [tokens]
    std::vector<ops::Vector<const int32_t>> mtp_ids, mtp_labels;  // by depth − 1
  };
  Pass make_pass(int64_t num_tokens, bool training);
  Inputs upload(const Pass& pass, std::span<const int32_t> tokens);
  // Embedding, layers, final norm with every stash kept; gives h⁰. hidden_[l] is the input of
  // layer l.
  void forward_main(const Pass& pass, const Inputs& inputs);
  // The final norm's output [tokens, d_model], on the arena's stack; no stash is kept.
  tensor::Tensor forward_only(const Pass& pass, const Inputs& inputs);
  void forward_mtp(const Pass& pass, const Inputs& inputs);
  double mtp_scale(int64_t depth) const;
  const tensor::Tensor& mtp_previous(int64_t depth) const;

  spec::ModelSpec model_;
  TransformerOptions options_;
  tensor::Arena& arena_;
  ParamStore params_;
  std::vector<int64_t> moe_layers_;
  StepState step_;
  tensor::Tensor router_bias_, cos_, sin_;
  Weight embedding_, head_;
  Gain norm_;
  std::vector<TransformerLayer> layers_;
  std::vector<MtpModule> mtp_;

  // Scratch of one micro-batch, kept so that a step allocates nothing.
  Inputs inputs_;
  std::vector<int32_t> host_ids_;
  std::vector<tensor::Tensor> hidden_;
  std::vector<LayerStash> stashes_;
  std::vector<size_t> marks_;
  tensor::Tensor normed_, normed_rstd_;
  std::vector<MtpStash> mtp_stashes_;
  std::vector<tensor::Tensor> dnormed_;  // by depth, 0 first
  std::vector<tensor::Tensor> last_expert_idx_;
};

}  // namespace dsv3::model
