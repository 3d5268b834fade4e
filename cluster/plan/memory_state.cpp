// What parameters take for good: weights, gradients, optimizer, a checkpoint's copy; see memory.h.
#include <algorithm>

#include "cluster/plan/memory.h"

namespace dsv3::plan {
namespace {

bool is_last(const Layout& layout, int64_t stage) {
  return stage == layout.pp - 1;
}

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

StateBytes state_bytes(bool computes_in_fp32, const Layout& layout) {
  StateBytes state;
  state.weight = computes_in_fp32 ? 4 : 2;
  state.master = computes_in_fp32 ? 0 : 4;
  state.grad = layout.grads_dtype == "bf16" ? 2 : 4;
  state.moment = layout.moments_dtype == "bf16" ? 2 : 4;
  return state;
}

HeldState held_state(const MemoryModel& model, const Layout& layout, const LocalParams& local) {
  const StateBytes each = state_bytes(model.computes_in_fp32, layout);
  const int64_t whole = local.total();
  const int64_t cut = layout.zero_stage == 0 ? whole : zero_piece(model, layout, local);
  // Ours keeps whole what is read in f32, the other ranks' pieces are gathered into it, and has no
  // copy of it in bf16.
  int64_t kept = cut;
  const bool copies = model.activation.own_runtime && each.master > 0;
  const int64_t weights =
      (layout.zero_stage < 3 ? whole : cut) - (copies && layout.zero_stage < 3 ? local.in_f32 : 0);
  if (model.activation.own_runtime && layout.zero_stage > 0) {
    const LocalParams read{.dense = local.in_f32,
                           .replicated = layout.tp > 1 ? local.in_f32 : 0,
                           .in_f32 = local.in_f32};
    kept += local.in_f32 - zero_piece(model, layout, read);
  }
  const int64_t master = each.master * kept;
  HeldState state{each.weight * weights, each.grad * (layout.zero_stage < 2 ? whole : cut),
                  master + 2 * each.moment * cut, master};
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

HeldState static_state(const MemoryModel& model, const Layout& layout, int64_t stage) {
  HeldState state = held_state(model, layout, model.counts.stage(layout, stage));
  const HeldState gathered = gathered_state(model, layout);
  state.weights += gathered.weights;
  state.gradients += gathered.gradients;
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

}  // namespace dsv3::plan
