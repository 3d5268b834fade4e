// From a job and a cluster to a Plan; see plan.h.
#include "cluster/plan/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "cluster/plan/capability.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/plan_choice.h"
#include "cluster/plan/rank_grid.h"
#include "cluster/plan/search.h"
#include "cluster/plan/stage_split.h"

namespace dsv3::plan {

DeviceKind wanted_device(const spec::JobSpec& job, const ClusterSpec& cluster) {
  const bool has_cpu = count_devices(cluster, DeviceKind::kCpu) > 0;
  if (!has_cpu && count_devices(cluster, DeviceKind::kCuda) > 0) return DeviceKind::kCuda;
  return job.cluster.devices == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
}

namespace {

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
  // Most sentences name the layout, and with it what was lowered.
  const bool lowered = one && plan.layout.moments_dtype != job.training.moments_dtype;
  return fmt::format("{} needs {} {}{} ({} is the largest part), {}",
                     job.model.name.empty() ? "the model" : job.model.name,
                     human_bytes(plan.predicted.peak_memory_bytes), where,
                     lowered ? " even with bf16 moments" : "", largest_term(plan.ledger),
                     describe_devices(cluster, plan.device));
}

void take(const MemoryModel& model, const Candidate& candidate, Plan* plan) {
  plan->layout = candidate.layout;
  plan->predicted.peak_memory_bytes = candidate.peak_bytes;
  plan->ledger = memory_ledger(model, candidate.layout, candidate.worst_stage);
  RankPosition worst;
  worst.pp_stage = candidate.worst_stage;
  plan->worst_rank = RankGrid(candidate.layout).global_rank(worst);
}

// A refusal still shows a layout: the closest, the first that isn't legal, or one rank when not
// even the axes match.
void explain_refusal(const MemoryModel& model, const ClusterSpec& cluster,
                     const SearchResult& found, int64_t world, Plan* plan) {
  if (found.closest) {
    take(model, *found.closest, plan);
    plan->reason = describe_refusal(*plan, model.job, cluster);
    return;
  }
  if (!plan->rejected.empty()) {  // memory is not what it fails by: no ledger
    plan->layout = plan->rejected.front().layout;
    plan->reason =
        fmt::format("no layout of {} ranks is valid: {}", world, plan->rejected.front().reason);
    return;
  }
  const Layout one{.recompute = model.job.parallel.recompute,
                   .micro_batch = std::max<int64_t>(1, model.job.training.micro_batch_size),
                   .moments_dtype = model.job.training.moments_dtype,
                   .grads_dtype = model.job.training.grads_dtype};
  take(model, {one, peak_bytes(model, one, 0), 0}, plan);
  if (world > 0 && plan->memory_bytes > 0) {
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
  return memory == 0 ? 80 : gpu_label_gb(memory);
}

}  // namespace

namespace {

// A cluster that has GPUs only decides for the job.
spec::JobSpec on_device(spec::JobSpec job, DeviceKind kind) {
  job.cluster.devices = device_kind_name(kind);
  return job;
}

// What a search needs, made once for a job on a cluster.
struct Planning {
  Planning(const spec::JobSpec& job_in, const ClusterSpec& cluster, const PlanOptions& options,
           const Plan& plan, int64_t per_node)
      : job(on_device(job_in, plan.device)),
        device(choose_device(job, cluster, plan.device, plan.ranks_per_device, options)),
        memory(job, plan.device, per_node, cpu_facts(cluster, plan.ranks_per_device)),
        time(job, device.model, per_node) {}
  Planning(const Planning&) = delete;

  spec::JobSpec job;
  ChosenDevice device;
  MemoryModel memory;
  TimeModel time;
};

// On CPUs what is planned is what is launched: the fastest layout that runs, where one does; and
// where nothing fits, what one that runs would need.
SearchResult choose(const Planning& planning, const SearchRequest& request, bool must_run) {
  if (!must_run) return search(planning.memory, planning.time, request);
  SearchRequest those_that_run = request;
  those_that_run.runnable_only = true;
  SearchResult runnable = search(planning.memory, planning.time, those_that_run);
  if (runnable.chosen) return runnable;
  SearchResult any = search(planning.memory, planning.time, request);
  return any.chosen || !runnable.closest ? any : runnable;
}

// Moves layers between the stages of the chosen pipeline where that is worth it (kBalanceGain) and
// still fits. A layout that the job gives whole stays as it stands.
void balance(const Planning& planning, const SearchRequest& request, SearchResult* found) {
  Candidate* chosen = &*found->chosen;
  const Layout& layout = chosen->layout;
  if (found->as_given || !planning.device.known || layout.pp == 1 ||
      !layout.pipeline_layers.empty())
    return;
  const MemoryModel& memory = planning.memory;
  const ModelTimes times =
      model_times(planning.job, layout, planning.device.model, memory.devices_per_node);
  Candidate other{.layout = layout};
  other.layout.pipeline_layers =
      split_by_cost(layer_costs(planning.job.model, times), layout.pp * layout.virtual_stages);
  other.step_s = planning.time.step_seconds(other.layout);
  if (other.step_s > (1 - kBalanceGain) * chosen->step_s) return;
  other.worst_stage = worst_stage(memory, other.layout);
  other.peak_bytes = peak_bytes(memory, other.layout, other.worst_stage);
  if (other.peak_bytes <= fit_limit(request.rank_memory_bytes)) *chosen = other;
}

void accept(const spec::JobSpec& job, const ClusterSpec& cluster, const PlanOptions& options,
            const Planning& planning, const SearchRequest& request, const SearchResult& found,
            Plan* plan) {
  plan->feasible = true;
  take(planning.memory, *found.chosen, plan);
  for (int64_t stage = 0; stage < plan->layout.pp; ++stage)
    plan->stage_ledgers.push_back(memory_ledger(planning.memory, plan->layout, stage));
  place_ranks(job, cluster, plan);
  plan->gpus = plan->device == DeviceKind::kCuda ? request.world : 0;
  plan->why = explain_choice(planning.memory, planning.time, request, found);
  if (planning.device.known) {
    const StepTime step = planning.time.predict(plan->layout);
    plan->time = step.lines;
    predict_run(job, options, planning.device.model, step.step_s, plan);
    const DeviceModel& model = planning.device.model;
    plan->timed_by = {model.name, model.source, model.measured, planning.device.assumed};
  } else {
    for (Rejected& other : plan->rejected) other.step_s.reset();
  }
}

// What moving the optimizer to the host would change for a job on GPUs that doesn't fit; "":
// nothing.
std::string offload_hint(const spec::JobSpec& job, const Planning& planning,
                         const SearchRequest& request) {
  const StateChoice offload = state_choices(job, DeviceKind::kCuda, /*offload=*/true).back();
  const int64_t limit = fit_limit(request.rank_memory_bytes);
  SearchRequest any_host = request;
  any_host.host_memory_bytes = 0;
  const std::optional<Candidate> least = smallest(planning.memory, any_host, offload, limit);
  if (!least || least->peak_bytes > limit) return "";
  const int64_t host = host_bytes_of_node(planning.memory, least->layout);
  if (request.host_memory_bytes > 0 && host > request.host_memory_bytes) {
    return fmt::format("; the optimizer in host memory would take {} of a node that has {}",
                       human_bytes(host), human_bytes(request.host_memory_bytes));
  }
  if (job.parallel.offload_optimizer) return "";
  return fmt::format(
      "; with the optimizer in host memory (parallel.offload_optimizer: true, {} a node) {} would "
      "fit",
      human_bytes(host), human_bytes(least->peak_bytes));
}

void refuse(const spec::JobSpec& job, const ClusterSpec& cluster, const Planning& planning,
            const SearchRequest& request, const SearchResult& found, bool enough, Plan* plan) {
  explain_refusal(planning.memory, cluster, found, request.world, plan);
  if (!enough && count_devices(cluster, plan->device) > 0) {
    plan->reason = fmt::format("the configuration fixes {} ranks, {}", request.world,
                               describe_devices(cluster, plan->device));
  } else if (enough && found.closest && plan->device == DeviceKind::kCuda) {
    plan->reason += offload_hint(job, planning, request);
  }
  const bool illegal = plan->predicted.peak_memory_bytes == 0;  // then freeing sizes is no answer
  const int64_t per_node = plan->device == DeviceKind::kCuda ? planning.memory.devices_per_node : 8;
  const MemoryModel gpu_model(job, DeviceKind::kCuda, per_node);
  plan->gpus_needed = smallest_world(gpu_model, usable_gpu_bytes(plan->gpu_label_gb), !illegal);
}

}  // namespace

int64_t ranks_of_node(const spec::JobSpec& job, const ClusterSpec& cluster, DeviceKind device,
                      int64_t ranks_per_device) {
  const int64_t slots = slots_per_node(job, cluster, device);
  // A node without GPUs takes as many ranks as there are.
  const int64_t ranks = device == DeviceKind::kCuda ? slots : std::max(slots, ranks_per_device);
  return ranks > 0 ? ranks : 8;
}

Plan plan(const spec::JobSpec& job, const ClusterSpec& cluster, const PlanOptions& options) {
  Plan plan;
  plan.device = wanted_device(job, cluster);
  const bool cuda = plan.device == DeviceKind::kCuda;
  const int64_t slots = slots_per_node(job, cluster, plan.device);
  const int64_t world = choose_world(job, cluster, plan.device);
  plan.ranks_per_device = cuda ? 1 : ranks_of_a_node(cluster, slots, world);
  const int64_t per_node = ranks_of_node(job, cluster, plan.device, plan.ranks_per_device);
  plan.memory_bytes = smallest_memory_bytes(cluster, plan.device);
  plan.gpu_label_gb = card_label_gb(cluster);
  const Planning planning(job, cluster, options, plan, per_node);
  const SearchRequest request{
      .world = world,
      .rank_memory_bytes = plan.memory_bytes / plan.ranks_per_device,
      .host_memory_bytes = cuda ? smallest_memory_bytes(cluster, DeviceKind::kCpu) : 0};

  SearchResult found;
  const bool enough = !cuda || (world >= 1 && world <= count_devices(cluster, plan.device));
  if (enough) found = choose(planning, request, options.must_run || !cuda);
  plan.rejected = std::move(found.rejected);
  if (found.chosen) {
    balance(planning, request, &found);
    accept(job, cluster, options, planning, request, found, &plan);
  } else {
    refuse(job, cluster, planning, request, found, enough, &plan);
  }
  for (const Capability& missing : missing_capabilities(job, plan.layout, plan.device)) {
    plan.not_runnable.emplace_back(missing.reason);
  }
  plan.runnable = plan.feasible && plan.not_runnable.empty();
  return plan;
}

const std::vector<LedgerLine>& ledger_of_stage(const Plan& plan, int64_t pp_stage) {
  const auto stage = static_cast<size_t>(pp_stage);
  return stage < plan.stage_ledgers.size() ? plan.stage_ledgers[stage] : plan.ledger;
}

spec::JobSpec settled(spec::JobSpec job, const Plan& plan) {
  const Layout& layout = plan.layout;
  job.parallel.tensor_parallel_size = layout.tp;
  job.parallel.context_parallel_size = layout.cp;
  job.parallel.pipeline_parallel_size = layout.pp;
  job.parallel.expert_parallel_size = layout.ep;
  job.parallel.data_parallel_size = layout.dp;
  job.parallel.expert_tensor_parallel_size = layout.etp;
  job.parallel.zero_stage = layout.zero_stage;
  job.parallel.pipeline_schedule = layout.schedule;
  job.parallel.pipeline_layers = layout.pipeline_layers;
  job.parallel.recompute = layout.recompute;
  job.parallel.offload_optimizer = layout.offload_optimizer;
  job.training.micro_batch_size = layout.micro_batch;
  job.training.moments_dtype = layout.moments_dtype;
  job.training.grads_dtype = layout.grads_dtype;
  return job;
}

}  // namespace dsv3::plan
