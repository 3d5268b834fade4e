// Stage: what one rank of a pipeline computes: its chunks of the model's layers; with the first
// chunk of all the embedding, with the last one final norm, head, losses and MTP modules. A model
// that isn't cut into stages is one chunk with everything.
//
// Laws: forward and backward of a micro-batch on a chunk are whole pieces that a schedule may put
// in any order that its data allow; the gradients that they add are the same in each (to the order
// of micro-batches, which no schedule changes). Weight gradients that are made later have the bits
// of those made at once. Recomputation changes no bit and no count.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runtime/model/head.h"
#include "runtime/model/micro_batch.h"

namespace dsv3::model {

// When a backward computes the weight gradients of its chunk's layers.
enum class WeightGrad : uint8_t { kNow, kLater };

class Stage {
 public:
  // `params` is this rank's store; `router_bias` [all moe layers, experts] f32, or empty;
  // global_sequences as in TransformerOptions. Takes the rotation tables from `arena`. What it is
  // given outlives it.
  Stage(const spec::ModelSpec& model, int64_t sequence, int64_t global_sequences,
        const ParamStore& params, StepState& step, const tensor::Tensor& router_bias,
        tensor::Arena& arena);

  int64_t num_chunks() const { return static_cast<int64_t>(chunks_.size()); }
  // Whether the chunk is the model's first virtual stage, or its last one.
  bool is_first(int64_t chunk) const { return has_first_ && chunk == 0; }
  bool is_last(int64_t chunk) const { return has_last_ && chunk == num_chunks() - 1; }
  // Whether it reads ids or labels.
  bool reads_tokens(int64_t chunk) const { return is_first(chunk) || is_last(chunk); }

  // Memory for a micro-batch on any of the chunks.
  MicroBatch make_micro_batch() const;

  // Forward in training. tokens: of the micro-batch's samples, read where reads_tokens(). x: what
  // the stage before sent, copied (unused on the first virtual stage); y: written for the stage
  // after (unused on the last); both [tokens, d_model] act. The batch's memory stays on its stack,
  // above batch.mark, which is set here.
  void forward(const Pass& pass, int64_t chunk, std::span<const int32_t> tokens,
               const tensor::Tensor& x, const tensor::Tensor& y, MicroBatch& batch) const;
  // dh [tokens, d_model] act: the gradient of y on entry (anything on the last virtual stage), of x
  // on return. The observer hears head_done() and layer_done() of what is final after this, under
  // kLater of all but the chunk's own layers.
  void backward(const Pass& pass, int64_t chunk, const tensor::Tensor& dh, WeightGrad when,
                MicroBatch& batch) const;
  // After backward(kLater).
  void backward_weight(const Pass& pass, int64_t chunk, MicroBatch& batch) const;
  // Frees the batch's memory.
  void release(const Pass& pass, MicroBatch& batch) const;

  // Forward with nothing kept: gives the chunk's output, on the last virtual stage the final
  // norm's; [tokens, d_model] act on the arena's stack. x as above.
  tensor::Tensor forward_only(const Pass& pass, int64_t chunk, const tensor::Tensor& x,
                              MicroBatch& batch) const;
  // Uploads ids and labels of `tokens` where the chunk reads them.
  void begin(const Pass& pass, int64_t chunk, std::span<const int32_t> tokens,
             MicroBatch& batch) const;
  // Adds the main model's loss · scale of `normed` to the step's kLmLoss.
  void add_lm_loss(const Pass& pass, const tensor::Tensor& normed, double scale,
                   MicroBatch& batch) const;
  // MTP modules' forwards.
  void forward_mtp(const Pass& pass, MicroBatch& batch) const;

  const Weight& head() const { return head_; }
  // The first chunk's layers, and the MTP modules.
  std::span<const TransformerLayer> layers() const { return layers_; }
  std::span<const MtpModule> mtp() const { return mtp_; }

 private:
  struct Chunk {
    size_t first = 0, end = 0;  // of layers_
    int64_t layer = 0;          // Hugging Face's index of the first
  };
  double mtp_scale(int64_t depth) const;
  const tensor::Tensor& mtp_previous(int64_t depth, const MicroBatch& batch) const;
  ops::Vector<const float> cos() const { return cos_.vector<const float>(); }
  ops::Vector<const float> sin() const { return sin_.vector<const float>(); }
  void losses(const Pass& pass, MicroBatch& batch) const;
  void mtp_backward(const Pass& pass, MicroBatch& batch) const;
  void layer_backward(const Pass& pass, const Chunk& chunk, size_t i, const tensor::Tensor& dh,
                      bool last_chunk, MicroBatch& batch) const;

  spec::ModelSpec model_;
  double global_sequences_ = 1;
  int64_t sequence_;
  StepState& step_;
  std::vector<int64_t> positions_;
  tensor::Tensor cos_, sin_;
  bool has_first_, has_last_;
  Weight embedding_, head_;
  Gain norm_;
  std::vector<TransformerLayer> layers_;  // of all chunks
  std::vector<MtpModule> mtp_;
  std::vector<Chunk> chunks_;
};

}  // namespace dsv3::model
