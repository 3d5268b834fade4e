// A rehearsal: a planned job made so small that this machine's cores train it, with everything that
// its layout does still in it.
//
// Laws: (1) widths shrink, structure stays: which axes there are, every kind of layer, the dense
// ones first, MTP, expert groups, shared experts, query latents, the schedule and its chunks,
// recomputation, ZeRO. (2) What could not be kept is said, one sentence each, and nothing else is
// changed. (3) The second layout trains the same job (same batch, same model) cut differently.
// PURE.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

struct RehearseOptions {
  int64_t ranks_max = 16;  // processes at a time; at least 1
  int64_t steps = 3;       // of each of the two runs; at least 1
};

struct Rehearsal {
  // The small job: on CPUs, in fp32, `steps` steps long. Its vocabulary is at least
  // kRehearsalTokens; data and checkpoints are the caller's to name.
  spec::JobSpec job;
  Layout planned;                    // of the whole job
  Layout first;                      // what is rehearsed: `planned` folded onto ranks_max
  Layout second;                     // what resumes
  Layout alone;                      // one rank: what both are compared with
  std::vector<std::string> folded;   // "EP 64 is rehearsed as 4"
  std::vector<std::string> changed;  // "training.dtype fp8 as fp32: …"
};

// Byte values and the end of a text: what the rehearsal's tokens are below.
inline constexpr int64_t kRehearsalTokens = 257;

// `planned` folded onto at most ranks_max ranks: data ranks give way first (micro-batches stand for
// them), then the largest axis is halved, and an axis that is there stays at 2 or more while
// ranks_max allows. Data ranks come back where there is room. Example, 16 ranks: PP16 EP64 DP2 →
// PP4 EP4.
Layout fold_layout(const Layout& planned, int64_t ranks_max);

// The rehearsal of `job` as `planned` lays it out. `planned` is legal for the job (check_layout()).
// kInvalid when the small job can't be cut (a fault of this file), with its sentence.
Result<Rehearsal> make_rehearsal(const spec::JobSpec& job, const Layout& planned,
                                 const RehearseOptions& options = {});

// Another cut of `job` over as many ranks as `first` has, or half of them (two for one): of those
// that are legal the one that differs on most axes.
Layout other_layout(const spec::JobSpec& job, const Layout& first);

}  // namespace dsv3::plan
