// The table; see capability.h.
#include "cluster/plan/capability.h"

#include <algorithm>

namespace dsv3::plan {
namespace {

struct Request {
  const spec::JobSpec& job;
  const Layout& layout;
  DeviceKind device;
};

struct Row {
  Capability capability;
  bool (*needed)(const Request&);
};

constexpr Row kMissing[] = {
    {{"cuda", "jobs on GPUs are not run yet (use cluster.devices: cpu)"},
     [](const Request& r) { return r.device == DeviceKind::kCuda; }},
    {{"tensor_parallel", "tensor parallelism is not run yet (tensor_parallel_size must be 1)"},
     [](const Request& r) { return r.layout.tp > 1; }},
    {{"context_parallel", "context parallelism is not run yet (context_parallel_size must be 1)"},
     [](const Request& r) { return r.layout.cp > 1; }},
    {{"pipeline_parallel",
      "pipeline parallelism is not run yet (pipeline_parallel_size must be 1)"},
     [](const Request& r) { return r.layout.pp > 1; }},
    {{"pipeline_schedules",
      "pipeline schedules are not run yet (parallel.pipeline_schedule must be 1f1b)"},
     [](const Request& r) { return r.layout.pp > 1 && r.layout.schedule != "1f1b"; }},
    {{"expert_parallel", "expert parallelism is not run yet (expert_parallel_size must be 1)"},
     [](const Request& r) { return r.layout.ep > 1; }},
    {{"zero",
      "ZeRO is not run yet: with several data ranks each holds the whole optimizer state "
      "(parallel.zero_stage must be 0)"},
     [](const Request& r) { return r.layout.zero_stage > 0 && r.layout.dense_zero_group() > 1; }},
    {{"recompute", "recomputation is not run yet (parallel.recompute must be none)"},
     [](const Request& r) { return r.layout.recompute != "none"; }},
    {{"offload_optimizer", "parallel.offload_optimizer is not run yet"},
     [](const Request& r) { return r.layout.offload_optimizer; }},
    {{"fp8", "training.dtype fp8 is not run yet (use bf16 or fp32)"},
     [](const Request& r) { return r.job.training.dtype == "fp8"; }},
    {{"bf16_gradients", "training.grads_dtype bf16 is not run yet (use fp32)"},
     [](const Request& r) { return r.layout.grads_dtype == "bf16"; }},
    {{"capacity_factor", "moe.capacity_factor is not run yet (null: dropless)"},
     [](const Request& r) { return r.job.model.moe.capacity_factor.has_value(); }},
    {{"flash_mla", "mla.use_flash_mla is not run yet (attention is blocked without it)"},
     [](const Request& r) { return r.job.model.mla.use_flash_mla; }},
    {{"deep_ep", "moe.use_deep_ep is not run yet"},
     [](const Request& r) { return r.job.model.moe.use_deep_ep; }},
    {{"nodes", "jobs on several nodes are not run yet (cluster.nodes must be 1)"},
     [](const Request& r) { return r.device == DeviceKind::kCpu && r.job.cluster.nodes > 1; }},
    {{"remote_launchers", "cluster.launcher must be local: ssh and slurm are not run yet"},
     [](const Request& r) { return r.job.cluster.launcher != "local"; }},
};

}  // namespace

int64_t lowest_zero_stage(const spec::JobSpec& job, DeviceKind device) {
  const int64_t stage = job.parallel.zero_stage;
  return device == DeviceKind::kCpu && stage <= 1 ? 0 : stage;
}

std::vector<Capability> missing_capabilities(const spec::JobSpec& job, const Layout& layout,
                                             DeviceKind device) {
  const Request request{job, layout, device};
  std::vector<Capability> missing;
  for (const Row& row : kMissing) {
    if (row.needed(request)) missing.push_back(row.capability);
  }
  return missing;
}

Status check_runnable(const spec::JobSpec& job) {
  const spec::ParallelSpec& parallel = job.parallel;
  Layout layout;
  layout.tp = std::max<int64_t>(1, parallel.tensor_parallel_size);
  layout.cp = std::max<int64_t>(1, parallel.context_parallel_size);
  layout.pp = std::max<int64_t>(1, parallel.pipeline_parallel_size);
  layout.ep = std::max<int64_t>(1, parallel.expert_parallel_size);
  layout.dp = std::max<int64_t>(1, parallel.data_parallel_size);
  layout.recompute = parallel.recompute;
  if (parallel.pipeline_schedule != "auto") layout.schedule = parallel.pipeline_schedule;
  layout.grads_dtype = job.training.grads_dtype;
  layout.moments_dtype = job.training.moments_dtype;
  // The planner takes offloading only where nothing else fits; a job taken as it stands asks for
  // it.
  layout.offload_optimizer = parallel.offload_optimizer;
  const DeviceKind device = job.cluster.devices == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
  layout.zero_stage = lowest_zero_stage(job, device);
  std::string reasons;
  for (const Capability& capability : missing_capabilities(job, layout, device)) {
    reasons += (reasons.empty() ? "" : "; ") + std::string(capability.reason);
  }
  return reasons.empty() ? Status() : Status(Code::kInvalid, reasons);
}

}  // namespace dsv3::plan
