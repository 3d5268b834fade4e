// Search: the layouts of a job on N devices, in the order in which they are preferred, and the
// first that fits.
//
// Law: the order is the ladder of planner.md 3.7, written once in prefer(): stay in a node, don't
// recompute everything, little TP, little PP, low ZeRO, no recomputation, much EP. The first that
// fits is taken; a cost model replaces the order later, not this shape.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/plan/memory.h"

namespace dsv3::plan {

// Predicted peaks up to this share of a device's memory are taken as fitting.
inline constexpr double kFitShare = 0.94;

struct SearchRequest {
  int64_t world = 1;              // ranks to use, exactly
  int64_t rank_memory_bytes = 0;  // usable by one rank
  bool fixed_sizes = true;        // keep the sizes that job.parallel gives; false: all are free
};

struct Candidate {
  Layout layout;
  int64_t peak_bytes = 0;
  int64_t worst_stage = 0;
};

struct SearchResult {
  std::optional<Candidate> chosen;
  std::optional<Candidate> closest;  // of those that don't fit, the one with the smallest peak
  std::vector<Rejected> rejected;    // before the chosen one, best first; at most kRejectedMax
};
inline constexpr size_t kRejectedMax = 32;

// Layouts with TP·CP·PP·EP·DP = world that keep what job.parallel fixes (−1 is free), most
// preferred first; not yet checked.
std::vector<Layout> enumerate_layouts(const spec::JobSpec& job, const SearchRequest& request,
                                      int64_t devices_per_node,
                                      DeviceKind device = DeviceKind::kCuda);
SearchResult search(const MemoryModel& model, const SearchRequest& request);
// The smallest number of devices up to 4096 (of the usual cluster sizes) on which something fits.
// The sizes that the job fixes are kept if any number fits with them, and are free otherwise.
std::optional<int64_t> smallest_world(const MemoryModel& model, int64_t rank_memory_bytes);

}  // namespace dsv3::plan
