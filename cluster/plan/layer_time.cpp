// Compute and exchanges of a layer; see layer_time.h.
#include "cluster/plan/layer_time.h"

#include <algorithm>

#include "cluster/plan/activations.h"
#include "cluster/plan/step_ops.h"

namespace dsv3::plan {
namespace {

struct Sizes {
  const spec::JobSpec& job;
  const Layout& layout;
  const DeviceModel& device;
  int64_t devices_per_node;
  Links links;
  double tokens;         // of this CP rank's micro-batch
  double element_bytes;  // of an activation

  double hidden(double share) const { return device.links_share_cores ? 0 : share; }
  double hidden_bytes() const {
    return tokens * static_cast<double>(job.model.d_model) * element_bytes;
  }
};

// One gather over TP, or one scatter, of values of `bytes`.
double tensor_gather(const Sizes& z, double bytes) {
  if (z.layout.tp == 1) return 0;
  return gather_seconds(bytes, group_shape(z.layout, kTpGroup, z.devices_per_node), z.links) *
         (1 - z.hidden(kTensorExchangeHidden));
}

// Of one pass: a gather before each block and a scatter behind it, which are a scatter and a gather
// in the backward pass; that gathers the blocks' inputs once more.
double tensor_exchange(const Sizes& z, bool routed, bool forward) {
  const spec::MoeSpec& moe = z.job.model.moe;
  const double hidden = tensor_gather(z, z.hidden_bytes());
  const double inputs = tensor_gather(z, z.tokens * attention_gather_bytes(z.job));
  const double times = forward ? 1 : 2;
  double seconds = times * inputs + hidden;
  if (!routed || moe.num_shared_experts > 0) seconds += (times + 1) * hidden;
  if (routed &&
      z.layout.etp > 1) {  // each rank holds a strip of every expert: all see and keep all slots
    seconds +=
        2 * tensor_gather(z, z.hidden_bytes() * static_cast<double>(moe.num_experts_per_token));
  }
  return seconds;
}

int64_t expert_ranks(const Layout& layout) {
  return layout.ep * (layout.etp > 1 ? 1 : layout.tp);
}

double imbalance(const Layout& layout) {
  return expert_ranks(layout) > 1 ? kExpertImbalance : 1;
}

double expert_exchange(const Sizes& z, bool forward) {
  const bool cut = z.layout.etp > 1;
  if (expert_ranks(z.layout) == 1) return 0;
  const spec::MoeSpec& moe = z.job.model.moe;
  const GroupShape group =
      group_shape(z.layout, cut ? kEpGroup : kExpertShardGroup, z.devices_per_node);
  const double tokens = z.tokens / static_cast<double>(z.layout.tp);
  const double width = static_cast<double>(z.job.model.d_model);
  const bool small = forward && moe.use_deep_ep && moe.deep_ep_fp8;
  const double there =
      exchange_seconds(moe, tokens, width * (small ? 1 : z.element_bytes), group, z.links);
  const double back = exchange_seconds(moe, tokens, width * z.element_bytes, group, z.links);
  return imbalance(z.layout) * (there + back) * (1 - z.hidden(kExpertExchangeHidden));
}

// Each step of the ring travels while the attention of the one before is computed.
double context_exchange(const Sizes& z, bool forward, double attention_s) {
  const int64_t ranks = z.layout.cp;
  if (ranks == 1) return 0;
  const spec::ModelSpec& model = z.job.model;
  const double heads = static_cast<double>(model.num_heads / z.layout.tp);
  const double width = static_cast<double>(model.mla.qk_head_dim() + model.mla.v_head_dim);
  const double bytes = z.tokens * heads * width * z.element_bytes * (forward ? 1 : 2);
  const bool inside = group_shape(z.layout, kCpGroup, z.devices_per_node).outer == 1;
  const double ring = ring_seconds(bytes, ranks, inside ? z.links.node : z.links.network);
  if (z.device.links_share_cores) return ring;
  const double meanwhile =
      attention_s * static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  return std::max(0.0, ring - meanwhile);
}

struct OpSums {
  double all = 0, weight = 0, attention = 0;
};

OpSums sum_up(const Sizes& z, const std::vector<StepOp>& ops) {
  OpSums sums;
  for (const StepOp& op : ops) {
    double seconds = op.calls * z.device.seconds(op);
    if (op.cls == OpClass::kGroupedGemm) seconds *= imbalance(z.layout);
    sums.all += seconds;
    if (op.role == "weight grad") sums.weight += seconds;
    if (op.cls == OpClass::kAttentionForward || op.cls == OpClass::kAttentionBackward) {
      sums.attention += seconds;
    }
  }
  return sums;
}

// From what is left of the exchanges to what was hidden of them.
void note_hidden(const Sizes& z, LayerTime* time) {
  const double tensor = z.hidden(kTensorExchangeHidden), expert = z.hidden(kExpertExchangeHidden);
  for (PassTime* pass : {&time->forward, &time->backward}) {
    pass->hidden = pass->tp * tensor / (1 - tensor) + pass->ep * expert / (1 - expert);
  }
}

LayerTime layer_time(const Sizes& z, LayerKind kind) {
  const bool routed =
      kind == LayerKind::kMoe || (kind == LayerKind::kMtp && z.job.model.moe.num_experts > 0);
  Layout once = z.layout;
  once.recompute = "none";
  const OpSums forward = sum_up(z, layer_forward_ops(z.job, once, kind));
  const OpSums backward = sum_up(z, layer_backward_ops(z.job, once, kind));
  LayerTime time;
  time.forward.compute = forward.all;
  time.forward.tp = tensor_exchange(z, routed, true);
  time.forward.ep = routed ? expert_exchange(z, true) : 0;
  time.forward.cp = context_exchange(z, true, forward.attention);
  time.backward.compute = backward.all;
  time.backward.weight = backward.weight;
  time.backward.tp = tensor_exchange(z, routed, false);
  time.backward.ep = routed ? expert_exchange(z, false) : 0;
  time.backward.cp = context_exchange(z, false, backward.attention);
  if (z.layout.recompute == "none") {
    note_hidden(z, &time);
    return time;
  }
  const OpSums again = sum_up(z, layer_backward_ops(z.job, z.layout, kind));
  time.backward.recompute = std::max(0.0, again.all - backward.all);
  if (z.layout.recompute == "full") {  // the exchanges of the forward pass, too
    time.backward.tp += time.forward.tp;
    time.backward.ep += time.forward.ep;
    time.backward.cp += time.forward.cp;
  }
  note_hidden(z, &time);
  return time;
}

// Our CPU runtime takes the head's rows in small chunks, as step_ops.h lists them; a GPU has room
// for all of them (memory.h's logits) and reads the table once.
std::vector<StepOp> rows_at_once(std::vector<StepOp> ops, double heads) {
  for (StepOp& op : ops) {
    const double chunks = op.calls / heads;
    if (chunks <= 1) continue;
    const auto side = [&op](size_t i) { return static_cast<double>(op.shape[i]); };
    const double e = static_cast<double>(dtype_bytes(op.dtype));
    const size_t rows = op.role == "weight grad" ? 2 : 0;
    double shared = 0;  // bytes that every chunk moves again
    if (op.cls == OpClass::kGemm) {
      shared = rows == 2 ? op.bytes - e * side(2) * (side(0) + side(1)) : e * side(1) * side(2);
    }
    op.bytes = chunks * op.bytes - (chunks - 1) * shared;
    op.flops *= chunks;
    op.shape[rows] = static_cast<int64_t>(side(rows) * chunks);
    op.calls = heads;
  }
  return ops;
}

LayerTime end_time(const Sizes& z, bool head) {
  const double heads = static_cast<double>(1 + z.job.model.mtp_layers);
  const bool gpu = z.device.host_link.bytes_per_s > 0;
  const auto sums = [&](bool backward) {
    if (!head) return sum_up(z, embedding_ops(z.job, z.layout, backward));
    std::vector<StepOp> ops = head_ops(z.job, z.layout, backward);
    return sum_up(z, gpu ? rows_at_once(std::move(ops), heads) : ops);
  };
  const OpSums forward = sums(false);
  const OpSums backward = sums(true);
  LayerTime time;
  time.forward.compute = forward.all;
  time.backward.compute = backward.all;
  time.backward.weight = backward.weight;
  const double runs = head ? heads : 1;
  time.forward.tp = runs * tensor_gather(z, z.hidden_bytes());
  time.backward.tp = (head ? 2 : 1) * time.forward.tp;  // the head's input is kept cut, too
  note_hidden(z, &time);
  return time;
}

}  // namespace

double attention_gather_bytes(const spec::JobSpec& job) {
  const spec::MlaSpec& mla = job.model.mla;
  const int64_t columns =
      mla.q_lora_rank.value_or(job.model.d_model) + mla.kv_lora_rank + mla.qk_rope_head_dim;
  return static_cast<double>(columns) * (job.training.dtype == "fp32" ? 4.0 : 2.0);
}

ModelTimes model_times(const spec::JobSpec& job, const Layout& layout, const DeviceModel& device,
                       int64_t devices_per_node) {
  const Sizes z{.job = job,
                .layout = layout,
                .device = device,
                .devices_per_node = devices_per_node,
                .links = {device.node_link, device.network_link},
                .tokens = static_cast<double>(micro_batch_tokens(job, layout)),
                .element_bytes = job.training.dtype == "fp32" ? 4.0 : 2.0};
  ModelTimes times;
  const spec::ModelSpec& model = job.model;
  const bool has_experts = model.moe.num_experts > 0;
  if (!has_experts || model.moe.first_k_dense > 0) times.dense = layer_time(z, LayerKind::kDense);
  if (has_experts && model.moe.first_k_dense < model.num_layers) {
    times.routed = layer_time(z, LayerKind::kMoe);
  }
  if (model.mtp_layers > 0) times.mtp = layer_time(z, LayerKind::kMtp);
  times.embedding = end_time(z, false);
  times.head = end_time(z, true);
  return times;
}

double stage_output_bytes(const spec::JobSpec& job, const Layout& layout) {
  return static_cast<double>(micro_batch_tokens(job, layout)) *
         static_cast<double>(job.model.d_model) * (job.training.dtype == "fp32" ? 4.0 : 2.0) /
         static_cast<double>(layout.tp);
}

}  // namespace dsv3::plan
