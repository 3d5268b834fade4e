// The layouts that a search looks at: all that are legal, by axes and by what varies on them.
//
// Law: complete within these limits, which are the search's definition: TP, CP, PP, EP and DP are
// divisors of the ranks; TP ≤ devices of a node, PP ≤ layers, CP ≤ 64 where it is free; ETP 1 or
// TP; micro-batches of 1, 2, 4, 8, 16, 32 sequences; every VPP that divides the layers; ZeRO from
// the job's stage to 3, with PP > 1 at most 1. A free schedule is 1f1b, interleaved or zero_bubble
// (afab takes as long as 1f1b and holds more).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

struct SearchSpace {
  const spec::JobSpec& job;
  DeviceKind device = DeviceKind::kCuda;
  int64_t devices_per_node = 8;
  int64_t world = 1;
  bool fixed_sizes = true;  // keep the sizes that job.parallel gives; false: all are free
};

// What gradients and moments are kept in, and where.
struct StateChoice {
  std::string moments_dtype = "fp32";
  std::string grads_dtype = "fp32";
  bool offload_optimizer = false;
};
// The job's own first; then bf16 moments, bf16 gradients too, and the same with the optimizer in
// host memory where the job allows it (or `offload` asks what that would do): each only where
// nothing fits with those before it.
std::vector<StateChoice> state_choices(const spec::JobSpec& job, DeviceKind device,
                                       bool offload = false);

// TP, CP, PP, EP, DP and ETP of every layout with that product, not yet checked. The rest is the
// job's.
std::vector<Layout> axes_of(const SearchSpace& space);

// Every variant of `axes` (micro-batch, schedule, recomputation, ZeRO) that may be legal; the
// dtypes are `state`'s. `least`: only the smallest micro-batch and the first schedule, which hold
// least.
std::vector<Layout> variants_of(const SearchSpace& space, const Layout& axes,
                                const StateChoice& state, bool least = false);

// none 0, selective 1, full 2.
int recompute_level(const std::string& recompute);

// Of equally fast layouts the one that this puts first: fewer TP, fewer PP, less recomputation,
// less ZeRO, ….
bool preferred(const Layout& a, const Layout& b);

}  // namespace dsv3::plan
