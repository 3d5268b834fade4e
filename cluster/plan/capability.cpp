// The table; see capability.h.
#include "cluster/plan/capability.h"

#include "cluster/plan/given_layout.h"

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
    {{"zero3", "ZeRO-3 is not run yet (parallel.zero_stage must be 2 or less)"},
     [](const Request& r) { return r.layout.zero_stage > 2 && r.layout.dense_zero_group() > 1; }},
    {{"zero2_pipeline",
      "ZeRO-2 with pipeline stages is not run yet: gradients would be reduced again for every "
      "micro-batch (parallel.zero_stage must be 1 or less)"},
     [](const Request& r) {
       return r.layout.zero_stage == 2 && r.layout.pp > 1 && r.layout.dense_zero_group() > 1;
     }},
    {{"fp8", "training.dtype fp8 is not run yet (use bf16 or fp32)"},
     [](const Request& r) { return r.job.training.dtype == "fp8"; }},
    {{"bf16_gradients", "training.grads_dtype bf16 is not run yet (use fp32)"},
     [](const Request& r) { return r.layout.grads_dtype == "bf16"; }},
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
  const Layout layout = layout_as_given(job, 0);
  const DeviceKind device = job.cluster.devices == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
  std::string reasons;
  for (const Capability& capability : missing_capabilities(job, layout, device)) {
    reasons += (reasons.empty() ? "" : "; ") + std::string(capability.reason);
  }
  return reasons.empty() ? Status() : Status(Code::kInvalid, reasons);
}

}  // namespace dsv3::plan
