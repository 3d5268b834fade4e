// The layouts that a search looks at: all that are legal, by axes and by what varies on them.
//
// Law: complete within these limits, which are the search's definition: TP, CP, PP, EP and DP are
// divisors of the ranks; TP ≤ devices of a node, PP ≤ layers, CP ≤ 64 where it is free; ETP 1 or
// TP, where it is given that; micro-batches of 1, 2, 4, 8, 16, 32 sequences; every VPP that divides
// the layers; ZeRO from the job's stage to 3, with PP > 1 at most 1. A free schedule is 1f1b,
// interleaved or zero_bubble (afab takes as long as 1f1b and holds more). A layout that the job
// gives whole is taken as it stands where that fits: a free micro-batch is 1 then, a free schedule
// 1f1b.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

inline constexpr int64_t kFreeContextMax = 64;

struct SearchSpace {
  const spec::JobSpec& job;
  DeviceKind device = DeviceKind::kCuda;
  int64_t devices_per_node = 8;
  int64_t world = 1;
  bool fixed_sizes = true;  // keep the sizes that job.parallel gives; false: all are free
  bool as_given = false;    // of a layout that is given whole: only as it stands
};

// Whether the job itself says every size: those that it gives (one of them more than 1) make up the
// ranks, or all but one of TP, PP, EP and DP are given and that one follows.
bool is_given_whole(const SearchSpace& space);

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

// What ETP may be beside a TP: 1 or TP; a size that the job gives is kept, also where it can't be
// (check_layout() says so).
std::vector<int64_t> expert_tensor_sizes(const SearchSpace& space, int64_t tp);

// Every variant of `axes` (micro-batch, schedule, recomputation, ZeRO) that may be legal; the
// dtypes are `state`'s. `least`: only the smallest micro-batch, which holds least; which schedule
// does depends on where a pipeline's tables and dense layers come to lie.
std::vector<Layout> variants_of(const SearchSpace& space, const Layout& axes,
                                const StateChoice& state, bool least = false);

// A pipeline of interleaved chunks of one layer sends after every layer, and its gain rests on each
// of them taking as long as predicted: it must be this much faster than anything else to be taken.
inline constexpr double kSingleLayerChunksGain = 0.02;
// What a layout's predicted seconds count as beside those of others: 1, and for interleaved chunks
// of one layer 1/(1 − kSingleLayerChunksGain).
double time_weight(const spec::ModelSpec& model, const Layout& layout);

// Of equally fast layouts the one that this puts first: fewer TP, fewer PP, less recomputation,
// less ZeRO, ….
bool preferred(const Layout& a, const Layout& b);

}  // namespace dsv3::plan
