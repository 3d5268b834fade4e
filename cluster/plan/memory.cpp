// The lines of the ledger; see memory.h.
#include "cluster/plan/memory.h"

#include <algorithm>

#include "base/check.h"

namespace dsv3::plan {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
// Measured by others on GPUs (planner.md 3.4).
constexpr double kCudaContextGib = 0.6;
constexpr double kCommunicatorGib = 0.4;
constexpr double kPipelineCommunicatorGib = 0.1;
constexpr double kAllToAllPeerGib = 0.375;  // 32 channels × 12 MiB
constexpr double kCrossNodeGib = 0.5;
constexpr double kFragmentation = 0.04;  // of what is allocated and freed within a step
// The CPU runtime: the process with oneDNN, OpenMP and its code; one chunk of fp32 logits
// (runtime/model/head.h).
constexpr int64_t kCpuProcessBytes = int64_t{160} << 20;
constexpr int64_t kCpuLogitsChunkBytes = int64_t{16} << 20;

int64_t to_bytes(double bytes) {
  return static_cast<int64_t>(bytes);
}

bool is_last(const Layout& layout, int64_t stage) {
  return stage == layout.pp - 1;
}

// How many layers of each kind a stage runs; MTP modules count as layers of the last one.
struct LayerMix {
  int64_t dense = 0;
  int64_t routed = 0;
};

LayerMix layer_mix(const spec::ModelSpec& spec, const Layout& layout, int64_t stage) {
  const StageLayers layers = stage_layers(spec.num_layers, layout.pp, stage);
  const bool has_experts = spec.moe.num_experts > 0;
  const int64_t first_routed = has_experts ? spec.moe.first_k_dense : spec.num_layers;
  LayerMix mix;
  mix.dense = std::clamp(first_routed, layers.first, layers.end) - layers.first;
  mix.routed = layers.end - layers.first - mix.dense;
  if (is_last(layout, stage)) (has_experts ? mix.routed : mix.dense) += spec.mtp_layers;
  return mix;
}

}  // namespace

StateBytes state_bytes(const spec::TrainingSpec& training) {
  StateBytes state;
  const bool fp32 = training.dtype == "fp32";
  state.weight = fp32 ? 4 : 2;
  state.master = fp32 ? 0 : 4;
  state.grad = training.grads_dtype == "bf16" ? 2 : 4;
  state.moment = training.moments_dtype == "bf16" ? 2 : 4;
  return state;
}

MemoryModel::MemoryModel(const spec::JobSpec& job_in, DeviceKind device_in,
                         int64_t devices_per_node_in)
    : job(job_in),
      device(device_in),
      devices_per_node(devices_per_node_in),
      counts(job_in.model),
      state(state_bytes(job_in.training)) {
  activation.element_bytes = job.training.dtype == "fp32" ? 4 : 2;
}

int64_t weights_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const LocalParams local = model.counts.stage(layout, stage);
  if (layout.zero_stage < 3) return model.state.weight * local.total();
  // Cut, with two layers gathered: the one that computes and the one that is fetched meanwhile.
  const int64_t cut =
      local.dense / layout.dense_zero_group() + local.experts / layout.expert_zero_group();
  return model.state.weight * (cut + 2 * model.counts.largest_layer(layout).total());
}

int64_t gradients_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const LocalParams local = model.counts.stage(layout, stage);
  if (layout.zero_stage < 2) return model.state.grad * local.total();
  const int64_t cut =
      local.dense / layout.dense_zero_group() + local.experts / layout.expert_zero_group();
  return model.state.grad * (cut + model.counts.largest_layer(layout).total());
}

int64_t optimizer_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  if (model.job.parallel.offload_optimizer && model.device == DeviceKind::kCuda) return 0;
  const LocalParams local = model.counts.stage(layout, stage);
  if (layout.zero_stage == 0) return model.state.optimizer() * local.total();
  return model.state.optimizer() *
         (local.dense / layout.dense_zero_group() + local.experts / layout.expert_zero_group());
}

int64_t micro_batches_in_flight(const Layout& layout, int64_t stage) {
  if (layout.pp == 1) return 1;
  if (layout.schedule == "afab") return layout.grad_accumulation;
  int64_t in_flight = layout.pp - stage;
  // Two chunks a rank, in micro-batches of the whole stage: (2(PP − i − 1) + PP + 1) / 2, rounded
  // up.
  if (layout.schedule == "interleaved") in_flight = (3 * layout.pp - 2 * stage) / 2;
  return std::min(layout.grad_accumulation, in_flight);
}

int64_t activations_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const spec::ModelSpec& spec = model.job.model;
  const LayerMix mix = layer_mix(spec, layout, stage);
  double bytes = 0;
  for (const bool routed : {false, true}) {
    const int64_t layers = routed ? mix.routed : mix.dense;
    if (layers == 0) continue;
    bytes += static_cast<double>(layers) *
             saved_layer_bytes(model.job, layout, routed, model.activation);
  }
  if (is_last(layout, stage)) {
    // Of each MTP module: the two normed inputs of eh_proj, side by side; its output is the layer's
    // input, counted above.
    bytes += static_cast<double>(2 * spec.mtp_layers * model.activation.element_bytes *
                                 micro_batch_tokens(model.job, layout) * spec.d_model) /
             static_cast<double>(layout.tp);
  }
  return to_bytes(bytes * static_cast<double>(micro_batches_in_flight(layout, stage)));
}

int64_t logits_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  if (!is_last(layout, stage)) return 0;
  const spec::ModelSpec& spec = model.job.model;
  const double cells = static_cast<double>(micro_batch_tokens(model.job, layout)) *
                       static_cast<double>(spec.vocab_size) / static_cast<double>(layout.tp);
  if (model.device == DeviceKind::kCpu) {
    // The gradient takes the logits' place in fp32, and a copy of its own in bf16.
    const int64_t chunk = std::min(to_bytes(4 * cells), kCpuLogitsChunkBytes);
    return model.activation.element_bytes == 2 ? chunk + chunk / 2 : chunk;
  }
  // bf16 logits and their fp32 softmax; MTP keeps another 4 bytes for each of its heads.
  return to_bytes(cells * (6.0 + 4.0 * static_cast<double>(spec.mtp_layers)));
}

int64_t transient_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const LayerMix mix = layer_mix(model.job.model, layout, stage);
  double largest = 0;
  for (const bool routed : {false, true}) {
    if ((routed ? mix.routed : mix.dense) == 0) continue;
    largest = std::max(largest, transient_layer_bytes(model.job, layout, routed, model.activation));
  }
  return std::max(to_bytes(largest), logits_bytes(model, layout, stage));
}

int64_t runtime_bytes(const MemoryModel& model) {
  return model.device == DeviceKind::kCpu ? kCpuProcessBytes : to_bytes(kCudaContextGib * kGib);
}

int64_t checkpoint_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const spec::CheckpointSpec& checkpoint = model.job.checkpoint;
  if (model.device != DeviceKind::kCpu || !checkpoint.async || checkpoint.interval_steps == 0)
    return 0;
  // The master in fp32, whatever is computed in.
  const int64_t bytes = (4 + 2 * model.state.moment) * model.counts.stage(layout, stage).total();
  return bytes > kCheckpointStagingBytesMax ? 0 : bytes;
}

int64_t communication_bytes(const MemoryModel& model, const Layout& layout) {
  if (model.device == DeviceKind::kCpu || layout.world_size() == 1) return 0;
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
  const int64_t activations = activations_bytes(model, layout, stage);
  const int64_t transient = transient_bytes(model, layout, stage);
  const bool cuda = model.device == DeviceKind::kCuda;
  // Our CPU runtime keeps the master with the weights, and its arena's ledger says so.
  const int64_t moved =
      cuda ? 0
           : optimizer_bytes(model, layout, stage) * model.state.master / model.state.optimizer();
  std::vector<LedgerLine> ledger{
      {"weights", weights_bytes(model, layout, stage) + moved},
      {"gradients", gradients_bytes(model, layout, stage)},
      {"optimizer", optimizer_bytes(model, layout, stage) - moved},
      {"activations", activations},
      {"transient", transient},
      {cuda ? "cuda_context" : "process", runtime_bytes(model)},
      {"checkpoint", checkpoint_bytes(model, layout, stage)},
      {"communication", communication_bytes(model, layout)},
  };
  if (cuda) {
    ledger.push_back(
        {"fragmentation", to_bytes(kFragmentation * static_cast<double>(activations + transient))});
  }
  std::erase_if(ledger, [](const LedgerLine& line) { return line.bytes == 0; });
  return ledger;
}

int64_t sum_bytes(const std::vector<LedgerLine>& ledger) {
  int64_t sum = 0;
  for (const LedgerLine& line : ledger) sum += line.bytes;
  return sum;
}

int64_t worst_stage(const MemoryModel& model, const Layout& layout) {
  int64_t worst = 0;
  int64_t most = -1;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    const int64_t bytes = sum_bytes(memory_ledger(model, layout, stage));
    if (bytes > most) {
      most = bytes;
      worst = stage;
    }
  }
  return worst;
}

}  // namespace dsv3::plan
