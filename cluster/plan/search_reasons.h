// Why layouts were not taken, one sentence each with figures: slower and by what, too large and by
// which part, not legal.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/plan/memory.h"
#include "cluster/plan/search.h"
#include "cluster/plan/time_model.h"

namespace dsv3::plan {

// "the expert exchange", for a line of StepTime.
std::string time_line_words(const std::string& name);

// "8 % slower: the pipeline's bubble takes 0.21 s more", "0.2 % slower: the tensor-parallel
// exchange +18.0 s, the backward pass −16.9 s" where the difference is what two large ones leave,
// "as fast …" and, for what time_weight() holds back, "1.2 % faster, but …": `other` beside
// `chosen`, both a step of as many sequences.
std::string slower_reason(const TimeModel& time, const Candidate& chosen, const Candidate& other);

// "needs 91.0 GiB a rank, 73.7 GiB can be used (activations 60.1 GiB is the largest part)".
std::string too_large_reason(const MemoryModel& memory, const Candidate& candidate,
                             int64_t limit_bytes);

// Runners-up and those that would be faster if they fitted, taking turns, fastest first.
std::vector<Rejected> explain_losers(const MemoryModel& memory, const TimeModel& time,
                                     const Candidate& chosen, const std::vector<Candidate>& slower,
                                     const std::vector<Candidate>& too_large, int64_t limit_bytes);

// Where nothing fits: the smallest peaks, then the faults of what is not legal.
std::vector<Rejected> explain_refused(const MemoryModel& memory, const SearchRequest& request,
                                      const std::vector<Candidate>& smallest, int64_t limit_bytes);

}  // namespace dsv3::plan
