// MicroBatch: everything that one micro-batch on its way through one chunk of the model holds: its
// ids and labels, what the forward left for the backward, and what the backward of the inputs left
// for that of the weights.
//
// Law: all of it lies on one stack of the arena, the micro-batch's own, and goes when that is
// released; the vectors here are sized once, so a step allocates nothing. Which tokens are here:
// pass.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/model/mtp.h"

namespace dsv3::model {

// Ids and labels on the device, [gathered_tokens] each; labels are −1 where nothing is predicted.
struct Inputs {
  ops::Vector<const int32_t> ids, labels;
  std::vector<ops::Vector<const int32_t>> mtp_ids, mtp_labels;  // by depth − 1
};

struct MicroBatch {
  // For chunks of at most `layers` layers.
  MicroBatch(int64_t layers, int64_t mtp_layers);

  size_t stack = tensor::Arena::kMain;  // of the arena
  size_t mark = 0;                      // its height below this micro-batch
  int64_t sequences = 0;
  Inputs inputs;  // on the first and the last virtual stage
  // hidden[l] [tokens, d_model] act: the input of the chunk's l-th layer; behind the last, the
  // chunk's output.
  std::vector<tensor::Tensor> hidden;
  std::vector<LayerStash> stashes;
  std::vector<size_t> marks;  // below each layer's stash
  // Of the last virtual stage.
  tensor::Tensor normed, normed_rstd;  // [tokens, d_model] act, [tokens] f32
  std::vector<MtpStash> mtp;
  std::vector<tensor::Tensor> dnormed;  // [tokens, d_model] act by depth, 0 first
  // Of a backward whose weight gradients come later.
  std::vector<LayerGrad> grads;
  bool deferred = false;

  std::vector<int32_t> host;  // ids and labels, for the upload
};

// Puts ids and labels of `tokens` [sequences, sequence + 1] (host) on the arena's stack:
// gathered_tokens() each, those that this rank's CP part holds, for the main model and each MTP
// depth d (ids t_{i+d}, labels t_{i+d+1}). A token of −1 is none: id 0, and nobody's label.
// `positions`: token_positions().
void upload(const Pass& pass, std::span<const int32_t> tokens, std::span<const int64_t> positions,
            MicroBatch* batch);

}  // namespace dsv3::model
