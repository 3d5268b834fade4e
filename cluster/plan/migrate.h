// migrate(): from one configuration to another, on a given cluster: what changes and why, what can
// be kept, what has to be done again, and the configuration to run.
//
// Laws: PURE. The job that comes out is the target's with the planner's choice for the cluster
// written into it; nothing changes without a line that says why.
#pragma once

#include <string>
#include <vector>

#include "cluster/plan/plan.h"

namespace dsv3::plan {

struct Change {
  std::string key;   // canonical: "training.learning_rate"
  std::string from;  // as YAML writes it; small fractions both with an exponent: "3e-04"
  std::string to;
  std::string why;  // one sentence
};

// What a list of keys doesn't say.
struct Advice {
  std::string topic;  // data | checkpoints | learning_rate | batch | tokens | context | experts |
                      // memory | gpus
  std::string text;   // one or two sentences with figures
};

struct Migration {
  spec::JobSpec job;  // the target, settled for the cluster; as it came where it doesn't fit
  Plan plan;          // of the target on the cluster
  std::vector<Change> changes;  // from → job, in the field table's order
  std::vector<Advice> advice;
  bool checkpoints_carry_over = false;
  bool same = false;  // FROM and TO say the same: `changes` are what the planner settled
};

// Both jobs are valid. The target's data stay as they are, but where it has none of its own
// ("@demo" or nothing) and the vocabulary is the same, the source's are taken.
Migration migrate(const spec::JobSpec& from, const spec::JobSpec& to, const ClusterSpec& cluster,
                  const PlanOptions& options = {});

// The rate and the tokens of a batch that suit `compute_ratio` times the compute of a training,
// from those that suited it: η ∝ C^−0.125, B ∝ C^0.3271 (DeepSeek LLM, arXiv 2401.02954, eq. 1).
double scaled_learning_rate(double learning_rate, double compute_ratio);
double scaled_batch_tokens(double batch_tokens, double compute_ratio);

}  // namespace dsv3::plan
