// How evenly a layer's experts are used: the one home of these formulas (CLI, dashboard, demo's
// summary). Counts are the router's choices, whether or not a capacity dropped them afterwards.
//
// Law: every figure and the verdict mean the same at 8 experts and at 256. With counts c_i, i = 0 …
// E−1, N = Σ c_i, mean = N / E:
//   usage_i       = c_i / N                      usage_mean = 1/E by definition
//   usage_std     = sqrt(Σ (usage_i − 1/E)² / E)   (of the population)
//   entropy       = −Σ usage_i ln usage_i / ln E   in [0, 1]; 1 is even use (E = 1: 1)
//   max_violation = max c_i / mean − 1             0 is even use
//   cv            = usage_std · E                  standard deviation over mean
//   dead          = experts with c_i < mean / 10
// Verdict, first that holds: "idle" (N = 0) · "dead experts" (any dead) · "excellent" (cv < 0.08) ·
// "good" (entropy > 0.962) · "imbalanced". The two thresholds are the usual "std < 0.01" and
// "entropy > 2.0", which were meant for 8 experts, divided by that case's mean (0.01 · 8) and by ln
// 8 (2.0 / 2.0794). Worked example, counts {30, 10, 20, 20}: N = 80, mean 20; usage {.375, .125,
// .25, .25}; usage_std = sqrt((.125² + .125²) / 4) = 0.088388; entropy = 1.320888 / 1.386294 =
// 0.952820; max_violation = 30/20 − 1 = 0.5; cv = 0.353553; dead none; verdict "imbalanced".
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace dsv3::core {

struct ExpertStats {
  uint64_t total = 0;  // N
  double usage_mean = 0;
  double usage_std = 0;
  double usage_min = 0;
  double usage_max = 0;
  double entropy = 0;
  double max_violation = 0;
  double cv = 0;
  std::vector<int32_t> dead;  // expert indices, ascending
  std::string_view verdict;   // a string constant
};

// Of one layer: `tokens` is [num_experts] u64, at least one expert. With no tokens at all every
// figure but usage_mean is 0.
ExpertStats expert_stats(std::span<const uint64_t> tokens);

// dropped / choices: of a step's choices (N summed over its layers) the share that a capacity
// dropped. 0 without choices.
double dropped_share(int64_t dropped, uint64_t choices);

}  // namespace dsv3::core
