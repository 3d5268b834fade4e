// Layout: how a job is cut over devices. world = TP·CP·PP·EP·DP.
//
// Law: dense parameters are replicated over EP·DP (times CP for their gradients), experts are
// sharded over EP·TP (etp 1) or cut along their width (etp = TP) and replicated over DP. Megatron's
// data-parallel size is our EP·DP, its expert-parallel size with ETP 1 our EP·TP, its
// expert-data-parallel size our DP (PLAN.md, Layout).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/spec/job_spec.h"

namespace dsv3::plan {

struct Layout {
  int64_t tp = 1;
  int64_t cp = 1;
  int64_t pp = 1;
  int64_t ep = 1;
  int64_t dp = 1;
  int64_t etp =
      1;  // 1: a TP group's ranks hold different experts; tp: each expert is cut along its width
  int64_t zero_stage = 1;
  std::string schedule = "1f1b";
  std::string recompute = "none";      // none | selective | full
  int64_t micro_batch = 1;             // sequences
  int64_t grad_accumulation = 1;       // micro-batches of a data rank per step
  int64_t virtual_stages = 1;          // model chunks of a rank under "interleaved" (VPP)
  std::string moments_dtype = "fp32";  // of AdamW's two moments: fp32 | bf16
  std::string grads_dtype = "fp32";    // fp32 | bf16
  bool offload_optimizer = false;      // master weights and moments in host memory
  // Layers of each of PP·VPP virtual stages, in the layers' order; empty: split_layers()'s
  // (shard_map.h). Mostly empty, so that copies of a layout allocate nothing.
  std::vector<int64_t> pipeline_layers;

  int64_t world_size() const { return tp * cp * pp * ep * dp; }
  int64_t dense_dp() const { return ep * dp; }
  int64_t expert_dp() const { return dp; }
  // Ranks over which ZeRO cuts the state of dense and of expert parameters.
  int64_t dense_zero_group() const { return cp * ep * dp; }
  int64_t expert_zero_group() const { return cp * dp; }
  bool operator==(const Layout&) const = default;
};

// "TP2 PP4 EP8 ZeRO-1 recompute selective": axes of size 1 are left out, but never all; behind it
// what is not usual: "zero_bubble", "interleaved VPP2", "MBS4", "moments bf16", "gradients bf16",
// "offload", "stages 3/4/4/3" (pipeline_layers).
std::string to_string(const Layout& layout);

// none 0, selective 1, full 2.
int recompute_level(const std::string& recompute);

// Whether weight gradients are put off: zero bubble, unless inputs only are kept. Those of the head
// and of MTP modules never are (runtime/model/stage.h).
bool defers_weights(const Layout& layout);

// "" when `job` can be cut like this on nodes of `devices_per_node`, else one sentence with both
// values: TP within a node, heads, vocabulary, widths, experts, layers, sequence and batch against
// the axes (a sequence by 2·CP where CP > 1, and by CP·TP: sequence parallelism), virtual stages
// against layers and micro-batches.
std::string check_layout(const spec::JobSpec& job, const Layout& layout, int64_t devices_per_node);

}  // namespace dsv3::plan
