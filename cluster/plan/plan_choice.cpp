// The device, the sentence and the figures of a choice; see plan_choice.h.
#include "cluster/plan/plan_choice.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "cluster/plan/capability.h"
#include "cluster/plan/search_reasons.h"
#include "configs/spec/counts.h"

namespace dsv3::plan {
namespace {

// Ranks layouts for GPUs that are not in the table.
constexpr const char* kStandIn = "h100";

// The card that is usually meant by a size of memory alone.
const char* usual_card(int64_t memory_bytes) {
  struct Usual {
    double label_gb;  // at least
    const char* name;
  };
  constexpr Usual kUsual[] = {{170, "b200"}, {130, "h200"},   {70, "h100"}, {45, "l40s"},
                              {38, "a100"},  {20, "rtx4090"}, {0, "t4"}};
  for (const Usual& usual : kUsual) {
    if (memory_bytes >= usable_gpu_bytes(usual.label_gb)) return usual.name;
  }
  return kStandIn;
}

const Device* first_device(const ClusterSpec& cluster, DeviceKind kind) {
  for (const Node& node : cluster.nodes) {
    for (const Device& device : node.devices) {
      if (device.kind == kind) return &device;
    }
  }
  return nullptr;
}

// What was lowered because nothing fitted otherwise.
std::string given_up(const MemoryModel& memory, const Candidate& chosen,
                     const std::optional<Candidate>& unlowered, int64_t limit) {
  if (!unlowered) return "";
  const spec::TrainingSpec& training = memory.job.training;
  std::string what;
  const auto name = [&what](bool is, const char* words) {
    if (is) what += (what.empty() ? "" : ", ") + std::string(words);
  };
  name(chosen.layout.moments_dtype != training.moments_dtype, "bf16 moments");
  name(chosen.layout.grads_dtype != training.grads_dtype, "bf16 gradients");
  name(chosen.layout.offload_optimizer, "the optimizer in host memory");
  return fmt::format(
      " It takes {}: without, no layout needs less than {} a rank, and {} can be "
      "used.",
      what, human_bytes(unlowered->peak_bytes), human_bytes(limit));
}

// On CPUs: what today's runtime doesn't run and would be faster.
std::string not_run_yet(const MemoryModel& memory, const TimeModel& time,
                        const SearchRequest& request, const Candidate& chosen) {
  if (memory.device != DeviceKind::kCpu || request.world == 1) return "";
  if (!missing_capabilities(memory.job, chosen.layout, memory.device).empty()) return "";
  const SearchResult all = search(memory, time, request);
  if (!all.chosen || all.chosen->step_s >= 0.98 * chosen.step_s) return "";
  const auto missing = missing_capabilities(memory.job, all.chosen->layout, memory.device);
  if (missing.empty()) return "";
  return fmt::format(" {} would be faster, but {}.", to_string(all.chosen->layout),
                     missing.front().reason);
}

}  // namespace

ChosenDevice choose_device(const spec::JobSpec& job, const ClusterSpec& cluster, DeviceKind kind,
                           int64_t ranks_per_device, const PlanOptions& options) {
  if (options.device != nullptr) {
    return {
        kind == DeviceKind::kCpu ? options.device->shared_by(ranks_per_device) : *options.device,
        true};
  }
  const Device* device = first_device(cluster, kind);
  if (kind == DeviceKind::kCpu) {
    const int64_t cores = device == nullptr ? 1 : std::max(1, device->cores);
    return {generic_cpu_model(static_cast<int>(cores / std::max<int64_t>(1, ranks_per_device))),
            false};
  }
  if (device != nullptr) {
    const bool assumed = device->name.empty();
    const std::string name = assumed ? usual_card(device->memory_bytes) : device->name;
    if (std::optional<DeviceModel> model = gpu_device_model(name, job.training.dtype)) {
      return {*model, true, assumed};
    }
  }
  return {gpu_device_model(kStandIn, job.training.dtype).value_or(DeviceModel{}), false};
}

std::string explain_choice(const MemoryModel& memory, const TimeModel& time,
                           const SearchRequest& request, const SearchResult& found) {
  const Candidate& chosen = *found.chosen;
  const int64_t limit = fit_limit(request.rank_memory_bytes);
  const std::string fits =
      fmt::format("{} on the fullest rank, of {} that can be used ({:.0f} % of {})",
                  human_bytes(chosen.peak_bytes), human_bytes(limit), 100 * kFitShare,
                  human_bytes(request.rank_memory_bytes));
  std::string why;
  if (found.legal == 1) {
    why = fmt::format("The only {}: {}.",
                      found.runnable_only ? "layout that runs today" : "legal layout", fits);
  } else {
    why = fmt::format("The fastest of {} {} that fits: {}", with_commas(found.legal),
                      found.runnable_only ? "layouts that run today" : "legal layouts", fits);
  }
  if (found.legal > 1) {
    why += found.next ? fmt::format("; next is {}, {}.", to_string(found.next->layout),
                                    slower_reason(time, chosen, *found.next))
                      : ".";
  }
  return why + given_up(memory, chosen, found.unlowered, limit) +
         not_run_yet(memory, time, request, chosen);
}

void predict_run(const spec::JobSpec& job, const PlanOptions& options, const DeviceModel& device,
                 double step_s, Plan* plan) {
  if (step_s <= 0) return;
  Predicted& predicted = plan->predicted;
  const double sequence = static_cast<double>(job.training.seq_length);
  const double step_tokens = static_cast<double>(sequences_per_step(plan->layout)) * sequence;
  const double devices = static_cast<double>(plan->layout.world_size());
  predicted.step_s = step_s;
  predicted.tokens_per_s = step_tokens / step_s;
  if (plan->gpus > 0) predicted.tokens_per_s_per_gpu = *predicted.tokens_per_s / devices;
  const double flops = spec::flops_per_token(job.model, job.training.seq_length).total_with_mtp;
  if (device.peak_flops_per_s > 0) {
    predicted.mfu = *predicted.tokens_per_s * flops / (devices * device.peak_flops_per_s);
  }
  const double tokens = options.tokens > 0
                            ? static_cast<double>(options.tokens)
                            : static_cast<double>(job.training.max_steps) * step_tokens;
  if (tokens <= 0) return;
  const double hours = tokens / *predicted.tokens_per_s / 3600;
  predicted.days = hours / 24;
  const std::optional<double> price =
      options.usd_per_gpu_hour ? options.usd_per_gpu_hour : device.usd_per_hour;
  if (price && plan->gpus > 0) predicted.cost_usd = hours * devices * *price;
}

}  // namespace dsv3::plan
