// plan(): one job on one cluster → layout, predictions and ranks, or why not and what would.
//
// Law: PURE: no I/O, clock, thread or device; the same job and cluster give the same plan, byte for
// byte. `feasible` says that the memory model fits it; `runnable` says that today's runtime can run
// it (capability.h). Submitting needs both.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/device_model.h"
#include "cluster/plan/layout.h"
#include "cluster/plan/time_model.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// Of one step of the whole job; absent: not known yet.
struct Predicted {
  int64_t peak_memory_bytes = 0;  // of the worst rank
  std::optional<double> step_s;
  std::optional<double> tokens_per_s;
  std::optional<double> tokens_per_s_per_gpu;
  std::optional<double> mfu;
  std::optional<double> days;
  std::optional<double> cost_usd;
};

struct LedgerLine {
  std::string name;
  int64_t bytes = 0;
  bool operator==(const LedgerLine&) const = default;
};

struct RankPlacement {
  int64_t global_rank = 0;
  int64_t tp_rank = 0;
  int64_t cp_rank = 0;
  int64_t ep_rank = 0;
  int64_t dp_rank = 0;
  int64_t pp_stage = 0;
  std::string node;
  int64_t device_idx = 0;  // of its kind on the node
  bool operator==(const RankPlacement&) const = default;
};

// A layout that was not taken.
struct Rejected {
  Layout layout;
  std::string reason;  // "8 % slower: the expert exchange crosses nodes", "needs 91 GiB a rank, …"
  int64_t peak_memory_bytes = 0;  // 0: not computed
  std::optional<double> step_s;   // null: not computed
};

// Whose speed the times are predicted by.
struct TimedBy {
  std::string name;       // "h100", "AMD EPYC, 2 threads"
  std::string source;     // one line
  bool measured = false;  // by our own runtime on that device
  bool assumed = false;   // nobody named the card: one with as much memory was taken
  bool operator==(const TimedBy&) const = default;
};

// What a plan is asked beside the job and the cluster.
struct PlanOptions {
  // Null: the table's model of the cluster's GPU, for one without a name that of a usual card with
  // as much memory; on CPUs, and for names that are not known, times are predicted by a generic one
  // for ranking only and stay null in the plan.
  const DeviceModel* device = nullptr;
  int64_t tokens = 0;  // the budget that days and cost are of; 0: the job's own steps
  std::optional<double> usd_per_gpu_hour;  // null: the device model's
  // Take the fastest layout that today's runtime runs, where there is one.
  bool must_run = false;
};

struct Plan {
  bool feasible = false;
  bool runnable = false;
  std::string reason;                     // not feasible: one sentence with figures; "" otherwise
  std::vector<std::string> not_runnable;  // one sentence for each thing that today's runtime lacks
  DeviceKind device = DeviceKind::kCpu;   // what the ranks run on
  int64_t gpus = 0;                       // used; 0 for a job on CPUs
  int64_t memory_bytes = 0;      // usable, of the device of the worst rank; 0: there is none
  int64_t ranks_per_device = 1;  // that share this memory: more than one on CPUs only
  Layout layout;  // the chosen one; when not feasible the one that came closest, or, where none is
                  // legal, the first that is not: then nothing is predicted and the ledger is empty
  std::string why;  // one or two sentences: why this layout, and what it gave up
  Predicted predicted;
  std::vector<TimeLine> time;       // of a step; sums to predicted.step_s; empty when unknown
  std::optional<TimedBy> timed_by;  // whose times they are; absent when unknown
  std::vector<LedgerLine> ledger;   // of worst_rank; sums to predicted.peak_memory_bytes
  int64_t worst_rank = 0;
  // The same of every pipeline stage (its ranks are predicted alike); empty when not feasible.
  std::vector<std::vector<LedgerLine>> stage_ledgers;
  std::vector<RankPlacement> ranks;    // by global_rank; empty when not feasible
  std::optional<int64_t> gpus_needed;  // smallest number of equal GPUs that fits; null when
                                       // feasible, none up to 4096, or it isn't the number
                                       // that is wrong
  double gpu_label_gb = 80;            // the card that gpus_needed counts
  std::vector<Rejected> rejected;      // why others were not taken; at most 32
};

// Plans `job` (valid: spec::validate has no errors) on `cluster`. Sizes of −1 in job.parallel are
// chosen here; recompute and zero_stage may be raised, never lowered.
// job.cluster.devices says which kind of device; a cluster that has GPUs only (cluster_of_gpus) is
// planned on those.
Plan plan(const spec::JobSpec& job, const ClusterSpec& cluster, const PlanOptions& options = {});

// What is predicted of a rank of that stage: its stage's ledger, or the worst rank's in a plan that
// was written before there were such.
const std::vector<LedgerLine>& ledger_of_stage(const Plan& plan, int64_t pp_stage);

// The kind of device that plan() plans on: what the job says, GPUs where there is nothing else.
DeviceKind wanted_device(const spec::JobSpec& job, const ClusterSpec& cluster);
// Ranks that it takes a node to hold: its GPUs (8 where there are none yet), or on CPUs
// ranks_per_node and no fewer than the `ranks_per_device` that share one.
int64_t ranks_of_node(const spec::JobSpec& job, const ClusterSpec& cluster, DeviceKind device,
                      int64_t ranks_per_device);

// `job` with everything that the plan chose written into it: sizes, ZeRO, schedule, recompute,
// micro-batch, dtypes of moments and gradients, offload. What is submitted, and what `migrate`
// writes.
spec::JobSpec settled(spec::JobSpec job, const Plan& plan);

// The presets to name in a refusal, any order.
struct NamedJob {
  std::string name;
  spec::JobSpec job;
};

// Whether memory is what it fails by; false: the layout or the device is.
bool is_too_large(const Plan& plan);
// "4 × 80 GB GPUs", "no number of 80 GB GPUs up to 4,096", or for a job on CPUs "a machine
// with 30.1 GiB of memory"; "" when the plan is feasible, or more of it would not help.
std::string would_hold(const Plan& plan);

// Ok when the plan is feasible and runnable. Else kDoesNotFit: one sentence with figures (what is
// needed and its largest term, what this cluster has), and as hint what would do: would_hold(), the
// largest of `presets` that is no larger than the job, fits and runs here.
Status refusal(const Plan& plan, const spec::JobSpec& job, const ClusterSpec& cluster,
               const std::vector<NamedJob>& presets = {});

// The plan object of CLI.md with schema_version 1, one line. Absent predictions are null.
std::string plan_json(const Plan& plan);
// Only its LAYOUT object, one line.
std::string layout_json(const Layout& layout);
// Reads layout_json() back. kInvalid names what is missing or of a wrong type.
Result<Layout> parse_layout(const std::string& json);
// Reads plan_json() back. kInvalid names what is missing or of a wrong type; unknown fields are
// ignored.
Result<Plan> parse_plan(const std::string& json);

}  // namespace dsv3::plan
