// The lines of the ledger; see memory.h.
#include "cluster/plan/memory.h"

#include <algorithm>
#include <array>

#include "base/check.h"

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
constexpr int64_t kCpuLogitsChunkBytes = int64_t{16} << 20;
constexpr int64_t kCpuLogitsRowsMin = 64;
// Hidden states and gradients between stages (runtime/parallel/pipeline.h): 2 received, 2 produced,
// 3 gradients. Without a pipeline: one gradient.
constexpr int64_t kCpuPipelineBuffers = 7;

// Far above any machine, so that absurd layouts (--compare takes any) still add up.
constexpr double kBytesMax = static_cast<double>(int64_t{1} << 58);

int64_t to_bytes(double bytes) {
  return static_cast<int64_t>(std::min(bytes, kBytesMax));
}

bool is_last(const Layout& layout, int64_t stage) {
  return stage == layout.pp - 1;
}

// One value of d_model for every token of the micro-batch, as TP cuts them.
double residual_bytes(const MemoryModel& model, const Layout& layout) {
  return static_cast<double>(model.activation.element_bytes *
                             micro_batch_tokens(model.job, layout) * model.job.model.d_model) /
         static_cast<double>(layout.tp);
}

// Beside the layers, for one micro-batch. GPUs: of each MTP module the two normed inputs of
// eh_proj, side by side (its output is the layer's input, counted there). Our runtime: ids and
// labels, on the last stage the last layer's output and norm; of each MTP module the embedding, the
// two inputs joined, the layer's input and its last norm (runtime/model/{transformer,mtp}.cpp); and
// what it books under "activations/" though only one layer at a time holds it: the experts'
// outputs, the router's input in f32 and what full recomputation makes again.
double beside_layers_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const auto depths = static_cast<double>(is_last(layout, stage) ? model.job.model.mtp_layers : 0);
  const double residual = residual_bytes(model, layout);
  if (!model.activation.own_runtime) return 2 * depths * residual;
  const auto tokens = static_cast<double>(micro_batch_tokens(model.job, layout));
  if (!is_last(layout, stage)) return 8 * tokens;  // its output is sent, from a buffer
  return 8 * (1 + depths) * tokens + 2 * residual + 4 * tokens +
         depths * (5 * residual + 12 * tokens);
}

double booked_for_a_moment_bytes(const MemoryModel& model, const Layout& layout,
                                 const LayerMix& mix) {
  if (!model.activation.own_runtime || mix.routed == 0) return 0;
  const double residual = residual_bytes(model, layout);
  const auto top_k = static_cast<double>(model.job.model.moe.num_experts_per_token);
  // Full recomputation: what the layer at hand saves, once more.
  double again = 0;
  if (layout.recompute == "full") {
    Layout none = layout;
    none.recompute = "none";
    again = saved_layer_bytes(model.job, none, true, model.activation) -
            saved_layer_bytes(model.job, layout, true, model.activation);
    // Names are booked at their own highest, and a dense layer's are the shared experts'.
    const spec::ModelSpec& spec = model.job.model;
    const int64_t shared = spec.moe.num_shared_experts * spec.moe.expert_intermediate_size;
    const auto wider =
        static_cast<double>(std::max<int64_t>(0, spec.dense_intermediate_size - shared));
    if (mix.dense > 0) again += 3 * residual / static_cast<double>(spec.d_model) * wider;
  }
  const double wide = model.activation.element_bytes < 4
                          ? 4 / static_cast<double>(model.activation.element_bytes)
                          : 0;
  return residual * (top_k * static_cast<double>(layout.etp) + wide) + again;
}

double saved_bytes(const MemoryModel& model, const Layout& layout, const LayerMix& mix,
                   double (*of_layer)(const spec::JobSpec&, const Layout&, bool,
                                      const ActivationOptions&)) {
  double bytes = 0;
  if (mix.dense > 0)
    bytes += static_cast<double>(mix.dense) * of_layer(model.job, layout, false, model.activation);
  if (mix.routed > 0)
    bytes += static_cast<double>(mix.routed) * of_layer(model.job, layout, true, model.activation);
  return bytes;
}

// Gradients of one micro-batch that wait for its weight gradients: of all layers of the stage, for
// its whole backward pass comes first. Full recomputation leaves nothing to wait for.
double waiting_gradients_bytes(const MemoryModel& model, const Layout& layout,
                               const LayerMix& mix) {
  if (layout.pp == 1 || layout.schedule != "zero_bubble" || layout.recompute == "full") return 0;
  return saved_bytes(model, layout, mix, deferred_layer_bytes);
}

// Everything that is pushed above the activations at the moment when our runtime holds most, less
// what is booked under their names: the gradient of the residual stream, one for the head and each
// MTP module, and then the last layer's backward pass, the logits, or MTP's backward pass with two
// gradients that take turns (runtime/model/transformer.cpp, train_micro_batch()).
double own_transient_bytes(const MemoryModel& model, const Layout& layout, int64_t stage,
                           const LayerMix& mix) {
  const double residual = residual_bytes(model, layout);
  const spec::ModelSpec& spec = model.job.model;
  const auto depths = static_cast<double>(is_last(layout, stage) ? spec.mtp_layers : 0);
  const auto backward = [&](bool routed) {
    return transient_layer_bytes(model.job, layout, routed, model.activation);
  };
  const double last = backward(mix.routed > 0);
  double most = std::max(last, static_cast<double>(logits_bytes(model, layout, stage)));
  const double waiting = waiting_gradients_bytes(model, layout, mix);
  most = std::max(most, waiting);  // of the micro-batch at hand
  if (depths > 0) most = std::max(most, 2 * residual + std::max(last, 3 * residual));
  const double between = layout.pp > 1 ? static_cast<double>(kCpuPipelineBuffers) : 1;
  most += residual * (between + (is_last(layout, stage) ? 1 + depths : 0));
  most += static_cast<double>(deferred_micro_batches(layout, stage)) *
          (waiting + (is_last(layout, stage) && waiting > 0 ? (1 + depths) * residual : 0));
  if (mix.dense > 0 && mix.routed > 0 && layout.pp == 1) {
    // The dense layers are first: in their backward pass those of the experts are released.
    const double released =
        saved_bytes(model, layout, {0, mix.routed}, saved_layer_bytes) - residual;
    most = std::max(most, residual + backward(false) - released);
  }
  return std::max(0.0, most - booked_for_a_moment_bytes(model, layout, mix));
}

HeldState static_state(const MemoryModel& model, const Layout& layout, int64_t stage) {
  HeldState state = held_state(model, layout, model.counts.stage(layout, stage));
  const HeldState gathered = gathered_state(model, layout);
  state.weights += gathered.weights;
  state.gradients += gathered.gradients;
  return state;
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

StateBytes state_bytes(bool computes_in_fp32, const Layout& layout) {
  StateBytes state;
  state.weight = computes_in_fp32 ? 4 : 2;
  state.master = computes_in_fp32 ? 0 : 4;
  state.grad = layout.grads_dtype == "bf16" ? 2 : 4;
  state.moment = layout.moments_dtype == "bf16" ? 2 : 4;
  return state;
}

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

namespace {

// A rank's share of `local` where each element belongs to one of the ranks that sum it. Megatron's,
// and so the published figures for GPUs, leave replicated tensors to every TP rank.
int64_t zero_piece(const MemoryModel& model, const Layout& layout, const LocalParams& local) {
  const int64_t replicated = model.activation.own_runtime ? local.replicated : 0;
  return (local.dense - replicated) / layout.dense_zero_group() +
         replicated / (layout.tp * layout.dense_zero_group()) +
         local.experts / layout.expert_zero_group();
}

// What the ranks of a stage save between them: a copied embedding is the first one's.
LocalParams saved_params(const MemoryModel& model, const Layout& layout, int64_t stage) {
  LocalParams local = model.counts.stage(layout, stage);
  if (stage > 0 && is_last(layout, stage) && copies_embedding(model.job.model, layout))
    local.dense -= model.job.model.vocab_size * model.job.model.d_model / layout.tp;
  return local;
}

}  // namespace

HeldState held_state(const MemoryModel& model, const Layout& layout, const LocalParams& local) {
  const StateBytes each = state_bytes(model.computes_in_fp32, layout);
  const int64_t whole = local.total();
  const int64_t cut = layout.zero_stage == 0 ? whole : zero_piece(model, layout, local);
  const int64_t master =
      each.master * (model.activation.own_runtime && layout.zero_stage < 3 ? whole : cut);
  HeldState state{each.weight * (layout.zero_stage < 3 ? whole : cut),
                  each.grad * (layout.zero_stage < 2 ? whole : cut), master + 2 * each.moment * cut,
                  master};
  if (layout.offload_optimizer && model.device == DeviceKind::kCuda)
    state.optimizer = state.master = 0;
  return state;
}

HeldState gathered_state(const MemoryModel& model, const Layout& layout) {
  if (layout.zero_stage < 2) return {};
  const StateBytes each = state_bytes(model.computes_in_fp32, layout);
  const int64_t largest = model.counts.largest_layer(layout).total();
  if (model.activation.own_runtime && layout.zero_stage == 2 && layout.pp == 1) {
    // Two layers' windows, and whole what is of no layer (runtime/model/param_layout.h).
    int64_t ends = model.counts.stage(layout, 0).total();
    for (int64_t layer = 0; layer <= model.job.model.num_layers; ++layer)
      ends -= model.counts.layer(layout, layer).total();
    return {0, each.grad * (2 * largest + ends), 0};
  }
  return {layout.zero_stage < 3 ? 0 : 2 * each.weight * largest, each.grad * largest, 0};
}

HeldState booked_as_kept(const MemoryModel& model, HeldState state) {
  if (model.device == DeviceKind::kCuda) return state;
  // Our CPU runtime keeps the master with the weights, and its arena's ledger says so.
  state.weights += state.master;
  state.optimizer -= state.master;
  state.master = 0;
  return state;
}

int64_t weights_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  return static_state(model, layout, stage).weights;
}

int64_t gradients_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  return static_state(model, layout, stage).gradients;
}

int64_t optimizer_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  return static_state(model, layout, stage).optimizer;
}

int64_t static_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  return static_state(model, layout, stage).sum();
}

LayerMix layer_mix(const spec::ModelSpec& model, const Layout& layout, int64_t stage) {
  LayerMix mix;
  const int64_t chunks = chunks_of(layout, model.num_layers);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const LayerMix of_chunk =
        layers_by_kind(model, chunk_layers(layout, model.num_layers, stage, chunk));
    mix.dense += of_chunk.dense;
    mix.routed += of_chunk.routed;
  }
  if (is_last(layout, stage))
    (model.moe.num_experts > 0 ? mix.routed : mix.dense) += model.mtp_layers;
  return mix;
}

int64_t chunks_in_flight(const MemoryModel& model, const Layout& layout, int64_t stage) {
  if (layout.pp == 1) return 1;
  const int64_t micro_batches = layout.grad_accumulation;
  if (layout.schedule == "afab") return micro_batches;
  const int64_t chunks = chunks_of(layout, model.job.model.num_layers);
  if (chunks == 1) return std::min(micro_batches, layout.pp - stage);
  return std::min(micro_batches * chunks,
                  2 * (layout.pp - stage - 1) + (chunks - 1) * layout.pp + 1);
}

double micro_batches_in_flight(const MemoryModel& model, const Layout& layout, int64_t stage) {
  return static_cast<double>(chunks_in_flight(model, layout, stage)) /
         static_cast<double>(chunks_of(layout, model.job.model.num_layers));
}

int64_t deferred_micro_batches(const Layout& layout, int64_t stage) {
  // Who keeps inputs only puts nothing off.
  if (layout.pp == 1 || layout.schedule != "zero_bubble" || layout.recompute == "full") return 0;
  const int64_t whole = std::min(layout.grad_accumulation, layout.pp - stage);
  return std::min(stage, layout.grad_accumulation - whole);
}

int64_t activations_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const LayerMix mix = layer_mix(model.job.model, layout, stage);
  const double saved = saved_bytes(model, layout, mix, saved_layer_bytes) +
                       beside_layers_bytes(model, layout, stage);
  double bytes = saved * micro_batches_in_flight(model, layout, stage) +
                 booked_for_a_moment_bytes(model, layout, mix);
  const auto deferred = static_cast<double>(deferred_micro_batches(layout, stage));
  if (!model.activation.own_runtime) {
    bytes += deferred * saved_bytes(model, layout, mix, deferred_layer_bytes);
  } else if (layout.recompute != "full") {
    bytes += deferred * saved;  // until the last weight gradient
  }
  return to_bytes(bytes);
}

int64_t logits_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  if (!is_last(layout, stage)) return 0;
  const spec::ModelSpec& spec = model.job.model;
  const int64_t rows = micro_batch_tokens(model.job, layout);
  const int64_t vocabulary = spec.vocab_size / layout.tp;
  if (model.device == DeviceKind::kCpu) {
    // The gradient takes the logits' place in fp32, and a copy of its own in bf16.
    const int64_t chunk = std::clamp(kCpuLogitsChunkBytes / (vocabulary * 4), kCpuLogitsRowsMin,
                                     std::max(rows, kCpuLogitsRowsMin));
    const int64_t logits = chunk * vocabulary * (model.activation.element_bytes == 2 ? 6 : 4);
    if (layout.tp == 1) return logits;
    // The head's input and its gradient, gathered; three numbers of each row from every TP rank.
    return logits + 2 * model.activation.element_bytes * rows * spec.d_model +
           12 * layout.tp * chunk;
  }
  const double cells = static_cast<double>(rows) * static_cast<double>(spec.vocab_size) /
                       static_cast<double>(layout.tp);
  // bf16 logits and their fp32 softmax; MTP keeps another 4 bytes for each of its heads.
  return to_bytes(cells * (6.0 + 4.0 * static_cast<double>(spec.mtp_layers)));
}

int64_t transient_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const LayerMix mix = layer_mix(model.job.model, layout, stage);
  if (model.activation.own_runtime) return to_bytes(own_transient_bytes(model, layout, stage, mix));
  double largest = 0;
  for (const bool routed : {false, true}) {
    if ((routed ? mix.routed : mix.dense) == 0) continue;
    largest = std::max(largest, transient_layer_bytes(model.job, layout, routed, model.activation));
  }
  return std::max(to_bytes(largest), logits_bytes(model, layout, stage));
}

int64_t exchange_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  if (layer_mix(model.job.model, layout, stage).routed == 0) return 0;
  return to_bytes(exchange_buffer_bytes(model.job, layout, model.activation));
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

// The most that a kernel asks for: attention's backward pass (kernels/cpu/attention_vectors.cpp),
// which packs k and q twice, v once and the output's gradient twice for each head that is worked
// on, and sums gradients in f32.
int64_t workspace_bytes(const MemoryModel& model, const Layout& layout) {
  if (!model.activation.own_runtime) return 0;
  constexpr int64_t kBlock = 64;  // queries, and keys, of a block of scores
  const spec::MlaSpec& mla = model.job.model.mla;
  const int64_t e = model.activation.element_bytes;
  const int64_t d = mla.qk_head_dim(), v = mla.v_head_dim, rope = mla.qk_rope_head_dim;
  const int64_t heads = model.job.model.num_heads / layout.tp, threads = model.cpu.threads;
  // CP: one of a rank's two parts at a time, the later one sees up to the whole sequence.
  const int64_t keys = model.job.training.seq_length;
  const int64_t queries = layout.cp == 1 ? keys : keys / (2 * layout.cp);
  const int64_t sequences = layout.cp == 1 ? layout.micro_batch : 1;
  const int64_t working = std::min(sequences * heads, threads);
  const int64_t of_head = keys * e * (2 * d + v) + queries * (e * (2 * d + 2 * v) + 8);
  const int64_t of_thread =
      4 * keys * d + kBlock * (kBlock * (8 + (e == 2 ? 3 : 2) * e) + (e + 4) * v + 4 * d);
  return working * of_head + threads * of_thread + 4 * keys * rope * (std::max(working, heads) + 1);
}

int64_t checkpoint_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  const spec::CheckpointSpec& checkpoint = model.job.checkpoint;
  if (model.device != DeviceKind::kCpu || !checkpoint.async || checkpoint.interval_steps == 0)
    return 0;
  // The master in fp32, whatever is computed in.
  const int64_t moment = state_bytes(model.computes_in_fp32, layout).moment;
  const auto bytes_of = [&](int64_t of_stage) {
    return (4 + 2 * moment) * zero_piece(model, layout, saved_params(model, layout, of_stage));
  };
  for (int64_t any = 0; any < layout.pp; ++any) {
    if (bytes_of(any) > kCheckpointStagingBytesMax) return 0;  // all ranks do the same
  }
  return bytes_of(stage);
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
