// Search: of all legal layouts of a job on N devices the fastest that fits, and why others lost.
//
// Law: exact within search_space.h. Candidates are looked at by rising lower bound of their time
// (TimeModel::lower_bound), so the search may stop at the first bound above the best time found;
// a layout is left out early only by a lower bound of its time or of its memory (the static
// bytes). Same job, same answer. Lower precision and offloading only where nothing fits without.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/plan/memory.h"
#include "cluster/plan/search_space.h"
#include "cluster/plan/time_model.h"

namespace dsv3::plan {

// Predicted peaks up to this share of a device's memory are taken as fitting.
inline constexpr double kFitShare = 0.94;

struct SearchRequest {
  int64_t world = 1;              // ranks to use, exactly
  int64_t rank_memory_bytes = 0;  // usable by one rank
  bool fixed_sizes = true;        // keep the sizes that job.parallel gives; false: all are free
  bool runnable_only = false;     // only what today's runtime runs (capability.h)
  bool as_given = false;          // search() sets it: see SearchSpace
  int64_t host_memory_bytes = 0;  // of a node, for an offloaded optimizer; 0: unknown
};

struct Candidate {
  Layout layout;
  int64_t peak_bytes = 0;
  int64_t worst_stage = 0;
  double step_s = 0;  // by the time model given; 0: not computed
};

struct SearchResult {
  std::optional<Candidate> chosen;
  std::optional<Candidate> next;       // the fastest with other axes, if any fits
  std::optional<Candidate> closest;    // nothing fits: the one with the smallest peak
  std::optional<Candidate> unlowered;  // chosen has lower dtypes or offloads: the smallest peak
                                       // without that
  int64_t legal = 0;                   // layouts that were compared
  bool runnable_only = false;          // of those that run today
  bool as_given = false;               // the layout was given whole and taken as it stands
  std::vector<Rejected> rejected;      // most instructive first; at most kRejectedMax
};
inline constexpr size_t kRejectedMax = 32;

SearchResult search(const MemoryModel& memory, const TimeModel& time, const SearchRequest& request);

// The layout with the smallest peak under these dtypes, by memory alone; absent: none is legal.
// Takes the first that needs no more than `enough_bytes`.
std::optional<Candidate> smallest(const MemoryModel& memory, const SearchRequest& request,
                                  const StateChoice& state, int64_t enough_bytes = 0);

// The smallest number of devices up to kWorldMax on which something fits, with everything that the
// planner may lower, on nodes of memory.devices_per_node. The sizes that the job fixes are kept if
// any number fits with them, and are free otherwise where `free_otherwise`.
inline constexpr int64_t kWorldMax = 4096;
std::optional<int64_t> smallest_world(const MemoryModel& memory, int64_t rank_memory_bytes,
                                      bool free_otherwise = true);

// Whether the static bytes alone exceed it: a lower bound, of three stages that may hold most.
bool static_exceeds(const MemoryModel& memory, const Layout& layout, int64_t limit_bytes);

// Host memory that the optimizer's states take on a node when they are offloaded.
int64_t host_bytes_of_node(const MemoryModel& memory, const Layout& layout);

// What of a rank's memory may be filled.
int64_t fit_limit(int64_t rank_memory_bytes);

}  // namespace dsv3::plan
