// Every tensor of a model: name, shape, part, initialisation. The one home of shapes.
//
// Law: names are Hugging Face's (so checkpoints need no renaming), shapes are [out, in] as there.
// Counts and FLOPs (counts.h), the shard map, the checkpoint and the model all derive from this
// list; nobody else writes a shape down. MTP modules are Hugging Face's layers num_layers,
// num_layers + 1, …; embedding and head are shared with the main model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "configs/spec/job_spec.h"

namespace dsv3::spec {

enum class Part {
  kEmbedding,
  kAttention,
  kDenseFfn,
  kRoutedExperts,
  kSharedExperts,
  kRouter,
  kNorms,
  kHead,
  kMtp,  // eh_proj; the other tensors of an MTP module keep their own part and have in_mtp set
};
inline constexpr int kNumParts = 9;

// "embedding", "attention", "dense_ffn", "routed_experts", "shared_experts", "router", "norms",
// "head", "mtp".
const char* part_name(Part part);

// Which data-parallel width a gradient is reduced over: CP·EP·DP for dense, CP·DP for expert
// tensors.
enum class ParamGroup { kDense, kExpert };

// kNormal: normal(0, model.init_std), the same flat deviation for every matrix (DeepSeek's way:
// residual-output projections o_proj and down_proj are not scaled by depth). kOnes: norms' weights.
// kZeros: the router's bias buffer.
enum class InitRule { kNormal, kOnes, kZeros };

struct TensorInfo {
  std::string name;            // "model.layers.3.mlp.experts.7.gate_proj.weight"
  std::vector<int64_t> shape;  // [out, in] for matrices, [n] for vectors
  Part part = Part::kEmbedding;
  ParamGroup group = ParamGroup::kDense;
  InitRule init = InitRule::kNormal;
  bool weight_decay = true;  // false for norms and buffers
  bool in_mtp = false;
  int64_t layer = -1;  // Hugging Face layer index (MTP: num_layers + depth); −1 outside the layers
  int64_t expert = -1;  // routed expert's index; −1 otherwise

  int64_t num_elements() const;
};

// All trained tensors in model order (embedding, layers, norm, head, then MTP). With tie_embeddings
// there is no lm_head.weight. Requires what validate() checks (positive sizes). 671b: 46 thousand
// entries, some 20 ms.
std::vector<TensorInfo> model_tensors(const ModelSpec& model);

// Untrained state kept in checkpoints: mlp.gate.e_score_correction_bias [num_experts] f32 of every
// MoE layer (MTP's too), when use_aux_loss_free.
std::vector<TensorInfo> model_buffers(const ModelSpec& model);

// One tensor standing for `copies` equal ones (a layer's routed experts): expert is 0 and copies is
// num_experts.
struct TensorFamily {
  TensorInfo tensor;
  int64_t copies = 1;
};

// model_tensors() with the routed experts of a layer folded into families: what counting needs,
// small for any model.
std::vector<TensorFamily> model_tensor_families(const ModelSpec& model);

// Tensors of one layer (0 … num_layers + mtp_layers − 1), routed experts expanded; the MTP layer
// includes its own enorm, hnorm, eh_proj and shared_head.norm.
std::vector<TensorInfo> layer_tensors(const ModelSpec& model, int64_t layer);

}  // namespace dsv3::spec
