// The ops of a training step with their shapes: what the runtime asks of a device, listed without
// one.
//
// Laws: PURE. Names, roles and shapes are those of the runtime's profile (kernels/ops/cost.h,
// `dsv3ctl profile`), and a test compares the two lists: same ops, same shapes, same calls, same
// FLOPs and bytes. FLOPs are those of matrix products, causal attention with the pairs that are
// seen; bytes are each argument once. Shapes are one rank's under the layout: tokens cut by CP
// (and by TP outside of attention and experts: sequence parallel), heads, widths and vocabulary by
// TP, experts by EP·TP (etp 1) or by EP and along their width (etp = TP).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "cluster/plan/layout.h"
#include "cluster/plan/shard_map.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// What a device's speed is told apart by.
enum class OpClass : uint8_t {
  kGemm,              // shape m, n, k
  kGroupedGemm,       // rows of all groups, n, k; groups
  kAttentionForward,  // shape sequences, tokens of each, heads
  kAttentionBackward,
  kMemory,     // everything that moves bytes: norms, SwiGLU, rope, permute, embedding, loss
  kOptimizer,  // AdamW and the norm: bytes, with arithmetic
};

// What an op of a routed layer is to the exchange of its experts' rows (expert_overlap.h).
enum class Beside : uint8_t {
  kNothing,  // computed before the rows leave, or when they are back
  kBefore,   // while the first come
  kExperts,  // on the rows that came
  kAfter,    // while the last go back
};

struct StepOp {
  std::string_view op;    // the back end's name: "gemm", "mla_attention_forward", "adamw"
  std::string_view role;  // of a product: "forward", "input grad", "weight grad"; else ""
  OpClass cls = OpClass::kMemory;
  DType dtype = DType::kF32;       // of what is multiplied or moved; fp8 jobs say bf16
  bool fp8 = false;                // of an fp8 job's product: computed in FP8, kept in bf16
  std::array<int64_t, 3> shape{};  // as in the profile (cost.h); see OpClass
  bool accumulate = false;         // of a product: added to what is there
  int64_t groups = 1;              // of a grouped product: experts of this rank
  int64_t qk_dim = 0;              // of attention: a head's query and key, nope and rope
  int64_t v_dim = 0;               // of attention: a head's value
  Beside beside = Beside::kNothing;
  double calls = 1;  // of this op in the list's unit (a layer, a stage's end, a step)
  double flops = 0;  // of one call
  double bytes = 0;  // of one call
};

enum class LayerKind : uint8_t { kDense, kMoe, kMtp };

// FP8 jobs compute the linear layers' products in FP8, as DeepSeek-V3 did (arXiv
// 2412.19437, 3.3.1); head, embedding, router and the core of attention stay as they are.
//
// One layer, one micro-batch. Recomputation is the layout's: backward() holds what is computed
// again too.
std::vector<StepOp> layer_forward_ops(const spec::JobSpec& job, const Layout& layout,
                                      LayerKind kind);
std::vector<StepOp> layer_backward_ops(const spec::JobSpec& job, const Layout& layout,
                                       LayerKind kind);
// The embedding on the first stage, and norm, head and loss on the last: one micro-batch, forward
// and backward apart.
std::vector<StepOp> embedding_ops(const spec::JobSpec& job, const Layout& layout, bool backward);
std::vector<StepOp> head_ops(const spec::JobSpec& job, const Layout& layout, bool backward);
// What optimizer_ops() takes from the list of a model's tensors. Slow to count beside the ops:
// count once for many layouts.
struct UpdateCounts {
  int64_t gains = 0;   // elements without weight decay (norms), which are updated apart
  int64_t router = 0;  // decayed but always read in f32: apart too where there is a compute copy
  int64_t moe_layers = 0;
};
UpdateCounts update_counts(const spec::ModelSpec& model);
// Once a step: gradient norm, clipping, AdamW, casts of the master for the share of the parameters
// that this rank updates under layout.zero_stage. `counts` are those of job.model.
std::vector<StepOp> optimizer_ops(const spec::JobSpec& job, const Layout& layout,
                                  const LocalParams& local, const UpdateCounts& counts);
std::vector<StepOp> optimizer_ops(const spec::JobSpec& job, const Layout& layout,
                                  const LocalParams& local);

// A whole step of one rank of a layout without pipeline: every list above with its calls, equal ops
// joined. What `dsv3ctl profile` shows, less the place.
std::vector<StepOp> step_ops(const spec::JobSpec& job, const Layout& layout);

}  // namespace dsv3::plan
