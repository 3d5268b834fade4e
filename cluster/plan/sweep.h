// sweep(): one job over many numbers of equal GPUs, each with its best layout, and what failures
// make of it: planning past the machines at hand.
//
// Law: PURE. What is not known (a GPU without a model of its speed) is absent, never 0.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/plan/plan.h"
#include "cluster/plan/reliability.h"

namespace dsv3::plan {

struct SweepRequest {
  int64_t gpus_from = 1;  // 1 ≤ from ≤ to
  int64_t gpus_to = 1;
  double label_gb = 80;
  std::string gpu_name;  // "" when unknown
  int64_t gpus_per_node = 8;
  PlanOptions options;
  // checkpoint_s of it is what is asked for, or 0: what writing one takes (bytes /
  // storage_bytes_per_s), or with checkpoint.async what copying it to the hosts' memory does.
  FailureModel failures;
  double storage_bytes_per_s = 0;  // of all nodes together; 0: kStorageBytesPerSecondPerNode each
};

struct SweepRow {
  int64_t gpus = 0;
  int64_t nodes = 0;
  Plan plan;                         // without its ranks
  double checkpoint_s = 0;           // that training waits
  double checkpoint_write_s = 0;     // in the background; 0: nothing is
  double mtbf_s = 0;                 // of the job
  std::optional<double> interval_s;  // between checkpoints; absent: does not fit
  std::optional<int64_t> interval_steps;
  std::optional<double> effective_time_ratio;
  // With failures: days and cost divided by the ratio.
  std::optional<double> effective_days;
  std::optional<double> effective_cost_usd;
};

// Both ends, and between them the powers of two and three times a power of two: 2048..16384 →
// 2048 3072 4096 6144 8192 12288 16384.
std::vector<int64_t> sweep_sizes(int64_t from, int64_t to);

std::vector<SweepRow> sweep(const spec::JobSpec& job, const SweepRequest& request);

// "gpus,nodes,fits,layout,…" and one line a row; numbers read back exactly, what is unknown is
// empty.
std::string sweep_csv(const std::vector<SweepRow>& rows);

}  // namespace dsv3::plan
