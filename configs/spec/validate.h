// What a configuration means: mathematics (errors) and advice (warnings), each with a code that is
// never renamed.
//
// Law: a rule looks at a JobSpec and the machine it is asked about, at nothing else (no file, clock
// or device); every message names both values, every hint what would work. Form (types, ranges,
// unknown keys) is parse.h's business.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "configs/spec/diagnostic.h"
#include "configs/spec/job_spec.h"

namespace dsv3::spec {

struct ValidateOptions {
  int64_t gpus = 0;      // devices the job would run on; 0: not asked, TP·CP·PP·EP·DP is free
  std::string gpu_name;  // "h100", "a100-80", "NVIDIA H100 80GB HBM3"; "": not asked
  int64_t gpus_per_node = 8;  // for EP_CROSSES_NODE and TP_CROSSES_NODE
  bool for_submit =
      false;  // also require what a run needs: max_steps, global_batch_size, seq_length, data.path
  const Origins* origins = nullptr;  // from Parsed, for `where`; not owned; may be null
};

// Every fault of `job` at once, errors and warnings, in the order of the rules. Parallel sizes of
// −1 are the planner's choice and satisfy any rule that some value satisfies.
std::vector<Diagnostic> validate(const JobSpec& job, const ValidateOptions& options = {});

// The data-parallel size that −1 stands for on `gpus` devices: gpus / (TP·CP·PP·EP), other −1 taken
// as 1. 0 when it doesn't divide. With an explicit data_parallel_size, that.
int64_t resolved_data_parallel_size(const ParallelSpec& parallel, int64_t gpus);

}  // namespace dsv3::spec
