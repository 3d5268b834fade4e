// From a job and a cluster to a Plan; see plan.h.
#include "cluster/plan/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/text.h"
#include "cluster/plan/capability.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/rank_grid.h"
#include "cluster/plan/search.h"
#include "configs/spec/counts.h"

namespace dsv3::plan {
namespace {

DeviceKind wanted_device(const spec::JobSpec& job, const ClusterSpec& cluster) {
  const bool has_cpu = count_devices(cluster, DeviceKind::kCpu) > 0;
  if (!has_cpu && count_devices(cluster, DeviceKind::kCuda) > 0) return DeviceKind::kCuda;
  return job.cluster.devices == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
}

// Slots for ranks: a GPU each, or ranks_per_node of a node's cores.
int64_t slots_per_node(const spec::JobSpec& job, const ClusterSpec& cluster, DeviceKind device) {
  if (device == DeviceKind::kCpu) return std::max<int64_t>(1, job.cluster.ranks_per_node);
  int64_t most = 0;
  for (const Node& node : cluster.nodes) {
    const auto gpus = std::count_if(node.devices.begin(), node.devices.end(),
                                    [](const Device& d) { return d.kind == DeviceKind::kCuda; });
    most = std::max<int64_t>(most, gpus);
  }
  return most;
}

// Ranks on CPUs share their node's memory: how many, on the fullest node.
int64_t ranks_of_a_node(const ClusterSpec& cluster, int64_t slots, int64_t world) {
  const auto nodes = std::max<int64_t>(1, static_cast<int64_t>(cluster.nodes.size()));
  return std::max(std::min(slots, world), (world + nodes - 1) / nodes);
}

// TP·CP·PP·EP·DP with free sizes as 1; *free says whether there are any.
int64_t fixed_product(const spec::ParallelSpec& parallel, bool* free) {
  int64_t product = 1;
  *free = false;
  for (const int64_t size : {parallel.tensor_parallel_size, parallel.context_parallel_size,
                             parallel.pipeline_parallel_size, parallel.expert_parallel_size,
                             parallel.data_parallel_size}) {
    if (size < 1) *free = true;
    product *= std::max<int64_t>(1, size);
  }
  return product;
}

int64_t choose_world(const spec::JobSpec& job, const ClusterSpec& cluster, DeviceKind device) {
  bool free = false;
  const int64_t product = fixed_product(job.parallel, &free);
  if (!free) return product;
  if (device == DeviceKind::kCuda) return count_devices(cluster, device);
  return std::max(product, job.cluster.ranks_per_node * job.cluster.nodes);
}

void place_ranks(const spec::JobSpec& job, const ClusterSpec& cluster, Plan* plan) {
  const RankGrid grid(plan->layout);
  int64_t rank = 0;
  const int64_t slots = slots_per_node(job, cluster, plan->device);
  // CPU ranks beyond ranks_per_node go to the last node: a node without GPUs may hold more ranks
  // than cores.
  for (size_t n = 0; n < cluster.nodes.size(); ++n) {
    const bool last = n + 1 == cluster.nodes.size();
    for (int64_t slot = 0; rank < grid.world_size(); ++slot) {
      const bool full = slot >= slots && !(last && plan->device == DeviceKind::kCpu);
      if (full) break;
      const RankPosition at = grid.position(rank);
      plan->ranks.push_back({rank, at.tp_rank, at.cp_rank, at.ep_rank, at.dp_rank, at.pp_stage,
                             cluster.nodes[n].name, slot});
      ++rank;
    }
  }
}

std::string largest_term(const std::vector<LedgerLine>& ledger) {
  const auto largest =
      std::max_element(ledger.begin(), ledger.end(),
                       [](const LedgerLine& a, const LedgerLine& b) { return a.bytes < b.bytes; });
  return largest == ledger.end() ? "nothing"
                                 : fmt::format("{} {}", largest->name, human_bytes(largest->bytes));
}

std::string describe_devices(const ClusterSpec& cluster, DeviceKind device) {
  const int64_t memory = smallest_memory_bytes(cluster, device);
  const int64_t ram = smallest_memory_bytes(cluster, DeviceKind::kCpu);
  if (device == DeviceKind::kCpu) {
    return fmt::format("this machine has {} of memory", human_bytes(memory));
  }
  const int64_t gpus = count_devices(cluster, device);
  if (gpus == 0 && ram == 0) return "there is no GPU";
  if (gpus == 0) {
    return fmt::format("this machine has no GPU and {} of memory", human_bytes(ram));
  }
  return fmt::format("there {} {} GPU{} of {}", gpus == 1 ? "is" : "are", gpus,
                     gpus == 1 ? "" : "s", human_bytes(memory));
}

std::string describe_refusal(const Plan& plan, const spec::JobSpec& job,
                             const ClusterSpec& cluster) {
  const bool cuda = plan.device == DeviceKind::kCuda;
  const bool one = plan.layout.world_size() == 1;
  const std::string where =
      one ? (cuda ? "on one GPU" : "of memory")
          : fmt::format("on each {} with {}", cuda ? "GPU" : "CPU rank", to_string(plan.layout));
  return fmt::format("{} needs {} {} ({} is the largest part), {}",
                     job.model.name.empty() ? "the model" : job.model.name,
                     human_bytes(plan.predicted.peak_memory_bytes), where,
                     largest_term(plan.ledger), describe_devices(cluster, plan.device));
}

void take(const MemoryModel& model, const Candidate& candidate, Plan* plan) {
  plan->layout = candidate.layout;
  plan->predicted.peak_memory_bytes = candidate.peak_bytes;
  plan->ledger = memory_ledger(model, candidate.layout, candidate.worst_stage);
  RankPosition worst;
  worst.pp_stage = candidate.worst_stage;
  plan->worst_rank = RankGrid(candidate.layout).global_rank(worst);
}

// A refusal still shows a layout: the closest, or one rank when not even the axes match.
void explain_refusal(const MemoryModel& model, const ClusterSpec& cluster,
                     const SearchResult& found, int64_t world, Plan* plan) {
  if (found.closest) {
    take(model, *found.closest, plan);
    plan->reason = describe_refusal(*plan, model.job, cluster);
    return;
  }
  const Layout one{.schedule = model.job.parallel.pipeline_schedule,
                   .recompute = model.job.parallel.recompute,
                   .micro_batch = model.job.training.micro_batch_size};
  take(model, {one, sum_bytes(memory_ledger(model, one, 0)), 0}, plan);
  if (!found.rejected.empty()) {
    plan->reason =
        fmt::format("no layout of {} ranks is valid: {}", world, found.rejected.front().reason);
  } else if (world > 0 && plan->memory_bytes > 0) {
    plan->reason = fmt::format(
        "{} ranks can't be cut into the sizes that the configuration fixes "
        "(TP {} CP {} PP {} EP {} DP {}; -1 is free)",
        world, model.job.parallel.tensor_parallel_size, model.job.parallel.context_parallel_size,
        model.job.parallel.pipeline_parallel_size, model.job.parallel.expert_parallel_size,
        model.job.parallel.data_parallel_size);
  } else {
    plan->reason = describe_refusal(*plan, model.job, cluster);
  }
}

// The card that gpus_needed counts: the cluster's own, or 80 GB ones.
double card_label_gb(const ClusterSpec& cluster) {
  const int64_t memory = smallest_memory_bytes(cluster, DeviceKind::kCuda);
  if (memory == 0) return 80;
  constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
  return static_cast<double>(memory) / (0.98 * kGib);
}

}  // namespace

Plan plan(const spec::JobSpec& job, const ClusterSpec& cluster, const PlanOptions& /*options*/) {
  Plan plan;
  plan.device = wanted_device(job, cluster);
  const bool cuda = plan.device == DeviceKind::kCuda;
  const int64_t slots = slots_per_node(job, cluster, plan.device);
  const int64_t world = choose_world(job, cluster, plan.device);
  const int64_t sharing = cuda ? 1 : ranks_of_a_node(cluster, slots, world);
  // A node without GPUs takes as many ranks as there are.
  const int64_t per_node = cuda ? slots : std::max(slots, sharing);
  const MemoryModel model(job, plan.device, per_node > 0 ? per_node : 8);
  plan.memory_bytes = smallest_memory_bytes(cluster, plan.device);
  plan.gpu_label_gb = card_label_gb(cluster);

  SearchResult found;
  const bool enough = !cuda || (world >= 1 && world <= count_devices(cluster, plan.device));
  if (enough) found = search(model, {world, plan.memory_bytes / sharing});
  plan.ranks_per_device = sharing;
  plan.rejected = found.rejected;
  if (found.chosen) {
    plan.feasible = true;
    take(model, *found.chosen, &plan);
    place_ranks(job, cluster, &plan);
    plan.gpus = cuda ? world : 0;
  } else {
    explain_refusal(model, cluster, found, world, &plan);
    if (!enough && count_devices(cluster, plan.device) > 0) {
      plan.reason = fmt::format("the configuration fixes {} ranks, {}", world,
                                describe_devices(cluster, plan.device));
    }
    const MemoryModel gpu_model(job, DeviceKind::kCuda, 8);
    plan.gpus_needed = smallest_world(gpu_model, usable_gpu_bytes(plan.gpu_label_gb));
  }
  for (const Capability& missing : missing_capabilities(job, plan.layout, plan.device)) {
    plan.not_runnable.emplace_back(missing.reason);
  }
  plan.runnable = plan.feasible && plan.not_runnable.empty();
  return plan;
}

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
    if (!plan.gpus_needed) return {};
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
  const bool smaller_helps = is_too_large(plan) || plan.device == DeviceKind::kCuda;
  const std::string preset = smaller_helps ? runnable_preset(job, cluster, presets) : "";
  if (!preset.empty()) hint += (hint.empty() ? "" : "; ") + preset;
  return Status(Code::kDoesNotFit, message, hint);
}

}  // namespace dsv3::plan
