// What comes and goes within a step: activations, one layer's passes, logits, the experts'
// exchange, kernels' scratch; see memory.h.
#include <algorithm>

#include "cluster/plan/memory.h"

namespace dsv3::plan {
namespace {

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
// what it books under "activations/" though only one layer at a time holds it: the router's input
// in f32 and what full recomputation makes again.
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
  return residual * wide + again;
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
// its whole backward pass comes first; MTP modules' don't wait. Full recomputation leaves nothing
// to wait for.
double waiting_gradients_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  if (!defers_weights(layout)) return 0;
  LayerMix mix = layer_mix(model.job.model, layout, stage);
  if (is_last(layout, stage))
    (model.job.model.moe.num_experts > 0 ? mix.routed : mix.dense) -= model.job.model.mtp_layers;
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
  const double waiting = waiting_gradients_bytes(model, layout, stage);
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

}  // namespace

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
  if (!defers_weights(layout)) return 0;
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
    bytes += deferred * waiting_gradients_bytes(model, layout, stage);
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

}  // namespace dsv3::plan
