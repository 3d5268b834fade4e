// The device, the sentence and the figures of a choice; see plan_choice.h.
#include "cluster/plan/plan_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

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
  const std::string host = fmt::format("the optimizer in host memory ({} a node)",
                                       human_bytes(host_bytes_of_node(memory, chosen.layout)));
  name(chosen.layout.offload_optimizer, host.c_str());
  return fmt::format(
      " It takes {}: without, no layout needs less than {} a rank, and {} can be "
      "used.",
      what, human_bytes(unlowered->peak_bytes), human_bytes(limit));
}

// What was left to the planner in a layout that the job gives whole.
std::string taken_whole(const spec::JobSpec& job, const SearchResult& found) {
  const bool batch = job.training.micro_batch_size < 1;
  const bool schedule = job.parallel.pipeline_schedule == "auto" && found.chosen->layout.pp > 1;
  if (!found.as_given || (!batch && !schedule)) return "";
  return fmt::format(" The sizes are given and taken as they stand, with {}{}{}.",
                     batch ? "micro-batches of 1" : "", batch && schedule ? " and " : "",
                     schedule ? "1f1b" : "");
}

// What the configuration's recompute and ZeRO stage were raised to, and whether that had to be.
std::string raised(const MemoryModel& memory, const Candidate& chosen, int64_t limit) {
  const spec::ParallelSpec& asked = memory.job.parallel;
  const Layout& layout = chosen.layout;
  std::string what;
  bool needed = true;  // none with less of what was raised fits
  const auto try_less = [&](const std::string& words, const Layout& less) {
    what += (what.empty() ? "" : ", ") + words;
    if (peak_bytes(memory, less, worst_stage(memory, less)) <= limit) needed = false;
  };
  const int level = recompute_level(layout.recompute);
  if (level > recompute_level(asked.recompute)) {
    Layout less = layout;
    less.recompute = level == 1 ? "none" : "selective";
    try_less(fmt::format("recompute raised from {} to {}", asked.recompute, layout.recompute),
             less);
  }
  if (layout.zero_stage > asked.zero_stage) {
    Layout less = layout;
    less.zero_stage = layout.zero_stage - 1;
    try_less(fmt::format("ZeRO{} from {} to {}", what.empty() ? " raised" : "", asked.zero_stage,
                         layout.zero_stage),
             less);
  }
  if (what.empty()) return "";
  what[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(what[0])));
  return fmt::format(" {}: {}.", what,
                     needed ? "with these sizes nothing less fits" : "that is faster");
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
  const bool of_cpu = options.device != nullptr && options.device->cores > 0;
  if (options.device != nullptr && (kind == DeviceKind::kCpu || !of_cpu)) {
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
    why += found.next
               ? fmt::format("; next of those tried is {}, {}.", to_string(found.next->layout),
                             slower_reason(time, chosen, *found.next))
               : ".";
  }
  return why + taken_whole(memory.job, found) + raised(memory, chosen, limit) +
         given_up(memory, chosen, found.unlowered, limit) +
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
