// Which layers a pipeline's stages get so that none of them is slower than it must be.
//
// Law: PURE. Layers keep their order and every stage has at least one. The first stage has the
// embedding beside its layers, the last the norm, the head and the MTP modules. Counts alone
// (split_layers()) are as good where layers cost the same and the ends little.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/plan/layer_time.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// Of one micro-batch forward and backward, in any unit.
struct LayerCosts {
  std::vector<double> layers;
  double first = 0;  // beside the first stage's layers
  double last = 0;   // beside the last one's
};

// The layers of each of `stages` (virtual stages: PP·VPP) whose costliest stage costs least, and of
// those splits the most even one (least sum of squares); of equals the one whose early stages have
// fewer layers. Work: stages · layers². Requires 1 ≤ stages ≤ layers.
// Example: eight layers of 1 and a head of 1.5 over four stages: 2 2 3 1, the costliest 3; by
// counts it would be 3.5.
std::vector<int64_t> split_by_cost(const LayerCosts& costs, int64_t stages);

// The planner moves layers away from split_layers()'s counts only where the step gains this much:
// predictions of ops are not so exact that less would be real, and equal stages are easier to read.
inline constexpr double kBalanceGain = 0.01;

// What one micro-batch of `job` takes on its layers and ends, by the predicted passes.
LayerCosts layer_costs(const spec::ModelSpec& model, const ModelTimes& times);

}  // namespace dsv3::plan
