// The command line of `dsv3-worker train`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace dsv3::rank {

struct TrainWords {
  std::string spec;                    // a YAML file or a preset's name
  std::vector<std::string> overrides;  // "a.b=c"
  std::string plan;                    // plan.json; "": one rank, unplanned
  int64_t rank = 0;
  int64_t world = 1;
  std::string job = "local";
  int64_t attempt = 1;
  std::string submission;
  std::string job_dir;         // default place of checkpoints: <job_dir>/checkpoints
  std::string checkpoint_dir;  // wins over job_dir and over the spec's checkpoint.path
  std::string rendezvous;      // where the ranks meet (runtime/comm/cpu/mesh.h); "" with world 1
  std::string token;           // from DSV3_JOB_TOKEN: what the ranks know each other by
  int link_fd = -1;            // the agent's socket; -1: standalone
  int64_t saved_step = 0;      // the job has saved this step; 0: nothing yet, as far as is known
  bool resume = true;
};

// kInvalid names the fault. *help is set (and printed) when --help was asked.
Result<TrainWords> parse_train_words(const std::vector<std::string>& words, bool* help);

}  // namespace dsv3::rank
