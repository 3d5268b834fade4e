// What a plan that can't be launched says, and what would help; see plan.h.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/text.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/search.h"
#include "configs/spec/counts.h"

namespace dsv3::plan {
namespace {

// The largest preset no larger than the job that would run here, as the command that runs it; ""
// when there is none.
std::string runnable_preset(const spec::JobSpec& wanted, const ClusterSpec& cluster,
                            const std::vector<NamedJob>& presets) {
  const int64_t largest = spec::count_params(wanted.model).total;
  std::string best;
  int64_t best_bytes = 0;
  for (const NamedJob& preset : presets) {
    spec::JobSpec job = preset.job;
    if (spec::count_params(job.model).total > largest) continue;
    std::string how;
    Plan tried = plan(job, cluster);
    if (!tried.runnable) {  // the preset may be written for GPUs: would it run on this CPU?
      job.cluster.devices = "cpu";
      job.parallel = spec::ParallelSpec{};
      tried = plan(job, cluster);
      how = " with --set cluster.devices=cpu";
    }
    if (!tried.runnable || tried.predicted.peak_memory_bytes <= best_bytes) continue;
    best_bytes = tried.predicted.peak_memory_bytes;
    best = fmt::format("'{}' runs here{} (needs {})", preset.name, how, human_bytes(best_bytes));
  }
  return best;
}

}  // namespace

bool is_too_large(const Plan& plan) {
  const double needed = static_cast<double>(plan.predicted.peak_memory_bytes) *
                        static_cast<double>(plan.ranks_per_device);
  return !plan.feasible && needed > kFitShare * static_cast<double>(plan.memory_bytes);
}

std::string would_hold(const Plan& plan) {
  if (plan.feasible) return {};
  if (plan.device == DeviceKind::kCuda) {
    if (!plan.gpus_needed) {
      return is_too_large(plan) ? fmt::format("no number of {:.0f} GB GPUs up to {}",
                                              plan.gpu_label_gb, with_commas(kWorldMax))
                                : "";
    }
    return fmt::format("{} × {:.0f} GB GPU{}", *plan.gpus_needed, plan.gpu_label_gb,
                       *plan.gpus_needed == 1 ? "" : "s");
  }
  if (!is_too_large(plan)) return {};
  return fmt::format(
      "a machine with {} of memory",
      human_bytes(static_cast<int64_t>(static_cast<double>(plan.predicted.peak_memory_bytes) *
                                       static_cast<double>(plan.ranks_per_device) / kFitShare)));
}

Status refusal(const Plan& plan, const spec::JobSpec& job, const ClusterSpec& cluster,
               const std::vector<NamedJob>& presets) {
  if (plan.feasible && plan.runnable) return {};
  std::string message = plan.reason;
  std::string hint;
  if (plan.feasible) {
    message = fmt::format("{} fits but can't be run yet: {}",
                          job.model.name.empty() ? "the job" : job.model.name,
                          fmt::join(plan.not_runnable, "; "));
  } else if (const std::string holder = would_hold(plan); !holder.empty()) {
    hint = holder + " would hold it";
  }
  // A smaller model helps against too little memory and missing GPUs, not against a wrong layout.
  const bool smaller_helps = is_too_large(plan) || (plan.device == DeviceKind::kCuda &&
                                                    plan.predicted.peak_memory_bytes > 0);
  const std::string preset = smaller_helps ? runnable_preset(job, cluster, presets) : "";
  if (!preset.empty()) hint += (hint.empty() ? "" : "; ") + preset;
  return Status(Code::kDoesNotFit, message, hint);
}

}  // namespace dsv3::plan
