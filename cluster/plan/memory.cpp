// The lines of the ledger and their sums; see memory.h. What parameters take: memory_state.cpp;
// what comes and goes within a step: memory_step.cpp.
#include "cluster/plan/memory.h"

#include <algorithm>

namespace dsv3::plan {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
// Measured by others on GPUs (PLAN.md).
constexpr double kCudaContextGib = 0.6;
constexpr double kCommunicatorGib = 0.4;
constexpr double kPipelineCommunicatorGib = 0.1;
constexpr double kAllToAllPeerGib = 0.375;  // 32 channels × 12 MiB
constexpr double kCrossNodeGib = 0.5;
constexpr double kFragmentation = 0.04;  // of what is allocated and freed within a step
// The CPU runtime: the process with oneDNN, OpenMP, its code and the data that it maps; what the
// arena's stack leaves unused at the ends of the chunks in which it grows in the first step, as a
// share of it. Fitted to what nine runs kept beside the arena: 41 to 77 MiB, and 133 over a stack
// of 639.
constexpr int64_t kCpuProcessBytes = int64_t{44} << 20;
// Segments under way from every peer, sockets' lists: 6 to 25 MiB more were seen with 2 and 4
// ranks.
constexpr int64_t kCpuCommunicationBytes = int64_t{10} << 20;
constexpr int64_t kCpuStackShare = 8;

// Far above any machine, so that absurd layouts (--compare takes any) still add up.
constexpr double kBytesMax = static_cast<double>(int64_t{1} << 58);

int64_t to_bytes(double bytes) {
  return static_cast<int64_t>(std::min(bytes, kBytesMax));
}

struct Lines {
  int64_t weights = 0, gradients = 0, optimizer = 0, activations = 0, transient = 0, exchange = 0;
  int64_t workspace = 0, runtime = 0, process = 0, checkpoint = 0, communication = 0;
  int64_t fragmentation = 0;

  int64_t sum() const {
    return weights + gradients + optimizer + activations + transient + exchange + workspace +
           runtime + process + checkpoint + communication + fragmentation;
  }
};

Lines lines_of(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const bool cuda = model.device == DeviceKind::kCuda;
  Lines lines;
  const HeldState held = booked_as_kept(model, static_state(model, layout, stage));
  lines.weights = held.weights;
  lines.gradients = held.gradients;
  lines.optimizer = held.optimizer;
  lines.activations = activations_bytes(model, layout, stage);
  lines.transient = transient_bytes(model, layout, stage);
  lines.exchange = exchange_bytes(model, layout, stage);
  lines.workspace = workspace_bytes(model, layout);
  lines.runtime = runtime_bytes(model, layout);
  lines.process = process_bytes(model, lines.activations + lines.transient);
  lines.checkpoint = checkpoint_bytes(model, layout, stage);
  lines.communication = communication_bytes(model, layout);
  if (cuda)
    lines.fragmentation =
        to_bytes(kFragmentation * static_cast<double>(lines.activations + lines.transient));
  return lines;
}

}  // namespace

CpuFacts cpu_facts(const ClusterSpec& cluster, int64_t ranks_per_node) {
  for (const Node& node : cluster.nodes) {
    for (const Device& device : node.devices) {
      if (device.kind != DeviceKind::kCpu) continue;
      const int64_t ranks = std::max<int64_t>(1, ranks_per_node);
      return {device.multiplies_in_bf16, std::max<int64_t>(1, device.cores / ranks)};
    }
  }
  return {};
}

MemoryModel::MemoryModel(const spec::JobSpec& job_in, DeviceKind device_in,
                         int64_t devices_per_node_in, CpuFacts cpu_in)
    : job(job_in),
      device(device_in),
      devices_per_node(devices_per_node_in),
      cpu(cpu_in),
      computes_in_fp32(job_in.training.dtype == "fp32" ||
                       (device_in == DeviceKind::kCpu && !cpu_in.multiplies_in_bf16)),
      counts(job_in.model) {
  activation.element_bytes = computes_in_fp32 ? 4 : 2;
  activation.own_runtime = device == DeviceKind::kCpu;
  activation.fp8_inputs = job.training.dtype == "fp8" && device == DeviceKind::kCuda;
}

int64_t process_bytes(const MemoryModel& model, int64_t stack_bytes) {
  return model.device == DeviceKind::kCpu ? kCpuProcessBytes + stack_bytes / kCpuStackShare
                                          : to_bytes(kCudaContextGib * kGib);
}

int64_t runtime_bytes(const MemoryModel& model, const Layout& layout) {
  if (!model.activation.own_runtime) return 0;
  const spec::ModelSpec& spec = model.job.model;
  const int64_t routed =
      spec.moe.num_experts == 0 ? 0 : spec.num_layers - spec.moe.first_k_dense + spec.mtp_layers;
  constexpr int64_t kStepScalars = 8;
  // Tables of a CP rank's positions; counters of all MoE layers on every stage.
  const int64_t tables = 4 * model.job.training.seq_length / layout.cp * spec.mla.qk_rope_head_dim;
  return tables + 8 * (kStepScalars + routed * spec.moe.num_experts);
}

int64_t communication_bytes(const MemoryModel& model, const Layout& layout) {
  if (layout.world_size() == 1) return 0;
  if (model.device == DeviceKind::kCpu) return kCpuCommunicationBytes;
  double gib = 0;
  for (const int64_t size : {layout.tp, layout.cp, layout.ep, layout.dp}) {
    if (size > 1) gib += kCommunicatorGib;
  }
  if (layout.ep > 1 && layout.dp > 1) gib += kCommunicatorGib;  // the dense group EP·DP
  if (layout.pp > 1) gib += kPipelineCommunicatorGib;
  if (layout.ep > 1) {
    const int64_t width = layout.ep * (layout.etp == 1 ? layout.tp : 1);
    gib += kAllToAllPeerGib * static_cast<double>(std::min(width, model.devices_per_node) - 1);
  }
  if (layout.world_size() > model.devices_per_node) gib += kCrossNodeGib;
  return to_bytes(gib * kGib);
}

std::vector<LedgerLine> memory_ledger(const MemoryModel& model, const Layout& layout,
                                      int64_t stage) {
  const Lines lines = lines_of(model, layout, stage);
  const bool cuda = model.device == DeviceKind::kCuda;
  std::vector<LedgerLine> ledger{
      {"weights", lines.weights},
      {"gradients", lines.gradients},
      {layout.offload_optimizer ? "host" : "optimizer", lines.optimizer},
      {"activations", lines.activations},
      {"transient", lines.transient},
      {"exchange", lines.exchange},
      {"workspace", lines.workspace},
      {"runtime", lines.runtime},
      {cuda ? "cuda_context" : "process", lines.process},
      {"checkpoint", lines.checkpoint},
      {"communication", lines.communication},
      {"fragmentation", lines.fragmentation},
  };
  std::erase_if(ledger, [](const LedgerLine& line) { return line.bytes == 0; });
  return ledger;
}

int64_t sum_bytes(const std::vector<LedgerLine>& ledger) {
  int64_t sum = 0;
  for (const LedgerLine& line : ledger) sum += line.bytes;
  return sum;
}

bool is_outside_arena(std::string_view line) {
  constexpr std::string_view kOutside[] = {"process", "cuda_context", "communication", "exchange",
                                           "fragmentation"};
  return std::find(std::begin(kOutside), std::end(kOutside), line) != std::end(kOutside);
}

int64_t peak_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  return lines_of(model, layout, stage).sum();
}

int64_t worst_stage(const MemoryModel& model, const Layout& layout) {
  int64_t worst = 0, most = -1;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    const int64_t bytes = peak_bytes(model, layout, stage);
    if (bytes > most) {
      most = bytes;
      worst = stage;
    }
  }
  return worst;
}

}  // namespace dsv3::plan
