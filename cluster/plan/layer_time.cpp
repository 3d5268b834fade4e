// Compute and exchanges of a layer; see layer_time.h.
#include "cluster/plan/layer_time.h"

#include <algorithm>

#include "cluster/plan/activations.h"
#include "cluster/plan/comm_volume.h"
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
  double expert_hidden() const {
    return job.parallel.overlap_expert_exchange ? hidden(kExpertExchangeHidden) : 0;
  }
};

// Seconds of the exchanges that are over exactly `axes`, before anything hides them.
double exchanged(const Sizes& z, const std::vector<Exchange>& exchanges, AxisSet axes) {
  const GroupShape group = group_shape(z.layout, axes, z.devices_per_node);
  double seconds = 0;
  for (const Exchange& exchange : exchanges) {
    if (exchange.axes == axes) seconds += gather_seconds(exchange.bytes, group, z.links);
  }
  return seconds;
}

// What both have in common, the router's statistics, counts as TP's where there is TP.
void add_exchanges(const Sizes& z, const std::vector<Exchange>& exchanges, PassTime* pass) {
  pass->tp = exchanged(z, exchanges, kTpGroup) * (1 - z.hidden(kTensorExchangeHidden));
  pass->cp = exchanged(z, exchanges, kCpGroup);
  (z.layout.tp > 1 ? pass->tp : pass->cp) += exchanged(z, exchanges, kTpGroup | kCpGroup);
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
  return imbalance(z.layout) * (there + back) * (1 - z.expert_hidden());
}

struct OpSums {
  double all = 0, weight = 0;
};

OpSums sum_up(const Sizes& z, const std::vector<StepOp>& ops) {
  OpSums sums;
  for (const StepOp& op : ops) {
    double seconds = op.calls * z.device.seconds(op);
    if (op.cls == OpClass::kGroupedGemm) seconds *= imbalance(z.layout);
    sums.all += seconds;
    if (op.role == "weight grad") sums.weight += seconds;
  }
  return sums;
}

// From what is left of the exchanges to what was hidden of them.
void note_hidden(const Sizes& z, LayerTime* time) {
  const double tensor = z.hidden(kTensorExchangeHidden), expert = z.expert_hidden();
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
  add_exchanges(z, layer_exchanges(z.job, z.layout, kind, false), &time.forward);
  time.forward.ep = routed ? expert_exchange(z, true) : 0;
  time.backward.compute = backward.all;
  time.backward.weight = backward.weight;
  add_exchanges(z, layer_exchanges(z.job, z.layout, kind, true), &time.backward);
  time.backward.ep = routed ? expert_exchange(z, false) : 0;
  if (z.layout.recompute == "none") {
    note_hidden(z, &time);
    return time;
  }
  const OpSums again = sum_up(z, layer_backward_ops(z.job, z.layout, kind));
  time.backward.recompute = std::max(0.0, again.all - backward.all);
  if (z.layout.recompute == "full") time.backward.ep += time.forward.ep;
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
  for (const bool back : {false, true}) {
    add_exchanges(z, (head ? head_exchanges : embedding_exchanges)(z.job, z.layout, back),
                  back ? &time.backward : &time.forward);
  }
  note_hidden(z, &time);
  return time;
}

}  // namespace

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

}  // namespace dsv3::plan
