// Where every parameter lies: Hugging Face's tensors gathered into blocks, blocks laid end to end
// in one flat buffer.
//
// Laws: a Hugging Face tensor is one contiguous slice of its block, so reading or writing it needs
// no copy of anything else (gate_proj and up_proj of an expert are the halves of that expert's [2F,
// D]; q_a_proj and kv_a_proj_with_mqa are rows of one projection, because both multiply the same
// input). Names, shapes and what a rank holds of them come from cluster/plan/shard_map.h; a tensor
// of that list which no block takes, or the other way round, aborts. Order in the buffer: what is
// multiplied in the compute dtype (replicated, dense, expert), what is decayed but always read in
// f32 (the router), what is not decayed; so that compute copy, optimizer and the sums of each class
// (cluster/plan/shard_map.h) work on contiguous ranges.
// Gradients have the same places, but under ZeRO 2 (gradients_in_windows()) the layers' matrices
// take turns in two windows, layer l in window l mod 2, behind those of everything else: a layer's
// gradients are summed and taken away after every micro-batch, before the next layer but one
// begins.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/plan/shard_map.h"
#include "configs/spec/model_tensors.h"

namespace dsv3::model {

// The flat elements [begin, end) of the parameters' buffers.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// What this rank holds of one Hugging Face tensor, in the flat buffer: its box, row-major,
// contiguous. Offsets in elements.
struct ParamSlice {
  spec::TensorInfo info;  // the whole tensor
  plan::Box box;          // the part that is here
  plan::ParamClass cls = plan::ParamClass::kDense;
  int64_t offset = 0;
};

// One fused matrix, stack or vector. Vectors have rows 1.
struct ParamBlock {
  std::string name;    // "model.layers.3.mlp.experts.gate_up_proj"
  int64_t offset = 0;  // a multiple of 16 elements
  int64_t groups = 1;  // experts
  int64_t rows = 0;    // per group
  int64_t cols = 0;
  int64_t layer = -1;  // Hugging Face's; −1 outside the layers
  plan::ParamClass cls = plan::ParamClass::kDense;
  int64_t grad_offset = 0;  // in the buffer of gradients
  bool windowed = false;    // its gradients lie there for one micro-batch only
  int64_t num_elements() const { return groups * rows * cols; }
};

struct ParamLayout {
  std::vector<ParamBlock> blocks;  // by offset
  std::vector<ParamSlice> slices;  // in model_tensors() order
  int64_t compute_elements = 0;    // [0, compute_elements) is read in the compute dtype
  int64_t decay_elements = 0;      // [0, decay_elements) has weight decay
  int64_t elements = 0;            // with the zeros that align blocks
  int64_t parameters = 0;          // of this rank, without them
  int64_t grad_elements = 0;       // of the buffer of gradients: `elements`, or less with windows
  // How the model is cut, and which rank this is.
  plan::Layout cut;
  plan::RankPosition position;
};

// Whether a layout's gradients are summed after every micro-batch and kept in pieces: ZeRO 2 of
// more than one data rank, without a pipeline (whose micro-batches overlap).
bool gradients_in_windows(const plan::Layout& cut);

// Block names are the layer's prefix and: self_attn.in_proj, self_attn.{q_b_proj, kv_b_proj,
// o_proj}, mlp.{gate_up_proj, down_proj}, mlp.gate, mlp.experts.{gate_up_proj, down_proj},
// mlp.shared_experts.{gate_up_proj, down_proj}; all others keep Hugging Face's name without
// ".weight".
// Where TP > 1 and the query is direct, its rows (cut by heads) are a block of their own,
// self_attn.q_proj, and in_proj is kv_a_proj_with_mqa alone.
ParamLayout param_layout(const spec::ModelSpec& model, const plan::Layout& cut = {},
                         const plan::RankPosition& position = {});

}  // namespace dsv3::model
