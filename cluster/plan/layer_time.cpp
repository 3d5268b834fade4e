// Compute and exchanges of a layer; see layer_time.h.
#include "cluster/plan/layer_time.h"

#include <algorithm>
#include <array>

#include "cluster/plan/activations.h"
#include "cluster/plan/comm_volume.h"
#include "cluster/plan/expert_overlap.h"
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

  double tensor_hidden() const { return device.links_share_cores ? 0 : kTensorExchangeHidden; }
  bool experts_overlap() const {
    return job.parallel.overlap_expert_exchange && !device.links_share_cores;
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
  pass->tp = exchanged(z, exchanges, kTpGroup) * (1 - z.tensor_hidden());
  pass->hidden = pass->tp * z.tensor_hidden() / (1 - z.tensor_hidden());
  pass->cp = exchanged(z, exchanges, kCpGroup);
  (z.layout.tp > 1 ? pass->tp : pass->cp) += exchanged(z, exchanges, kTpGroup | kCpGroup);
}

double imbalance(const Layout& layout) {
  return expert_ranks(layout) > 1 ? kExpertImbalance : 1;
}

struct OpSums {
  double all = 0, weight = 0;
  std::array<double, 4> beside{};  // by Beside
  double of(Beside which) const { return beside[static_cast<size_t>(which)]; }
};

OpSums sum_up(const Sizes& z, const std::vector<StepOp>& ops) {
  OpSums sums;
  for (const StepOp& op : ops) {
    double seconds = op.calls * z.device.seconds(op);
    if (op.cls == OpClass::kGroupedGemm) seconds *= imbalance(z.layout);
    sums.all += seconds;
    sums.beside[static_cast<size_t>(op.beside)] += seconds;
    if (op.role == "weight grad") sums.weight += seconds;
  }
  return sums;
}

// Beside the ops of a pass, `ops`; `puts_off`: the weight gradients come later.
void add_expert_exchange(const Sizes& z, bool forward, const OpSums& ops, bool puts_off,
                         PassTime* pass) {
  const bool cut = z.layout.etp > 1;
  if (expert_ranks(z.layout) == 1) return;
  const spec::MoeSpec& moe = z.job.model.moe;
  const GroupShape group =
      group_shape(z.layout, cut ? kEpGroup : kExpertShardGroup, z.devices_per_node);
  const int64_t parts =
      std::max<int64_t>(1, expert_parts(z.layout, moe.num_experts, z.experts_overlap()));
  const double tokens = z.tokens / static_cast<double>(z.layout.tp * parts);
  const double width = static_cast<double>(z.job.model.d_model);
  const bool small = forward && moe.use_deep_ep && moe.deep_ep_fp8;
  const double all = imbalance(z.layout) * static_cast<double>(parts);
  const ExpertExchange exchange{
      .parts = parts,
      .there_s = all * exchange_seconds(moe, tokens, width * (small ? 1 : z.element_bytes), group,
                                        z.links),
      .back_s = all * exchange_seconds(moe, tokens, width * z.element_bytes, group, z.links),
      .before_s = ops.of(Beside::kBefore),
      .experts_s = ops.of(Beside::kExperts),
      .after_s = puts_off ? 0 : ops.of(Beside::kAfter)};
  const double whole = exchange.there_s + exchange.back_s;
  const double shown = z.experts_overlap() ? exposed_seconds(exchange) : whole;
  pass->ep += shown;
  pass->hidden += whole - shown;
}

// Who drops SwiGLU's outputs computes the shared experts at once (step_ops.h): before.
void put_nothing_behind(OpSums* ops) {
  double& after = ops->beside[static_cast<size_t>(Beside::kAfter)];
  ops->beside[static_cast<size_t>(Beside::kBefore)] += after;
  after = 0;
}

LayerTime layer_time(const Sizes& z, LayerKind kind) {
  const bool mtp = kind == LayerKind::kMtp;
  const bool routed = kind == LayerKind::kMoe || (mtp && z.job.model.moe.num_experts > 0);
  const bool puts_off = defers_weights(z.layout) && !mtp;
  Layout once = z.layout;
  once.recompute = "none";
  OpSums forward = sum_up(z, layer_forward_ops(z.job, once, kind));
  OpSums backward = sum_up(z, layer_backward_ops(z.job, once, kind));
  LayerTime time;
  time.forward.compute = forward.all;
  add_exchanges(z, layer_exchanges(z.job, z.layout, kind, false), &time.forward);
  time.backward.compute = backward.all;
  time.backward.weight = mtp ? 0 : backward.weight;
  add_exchanges(z, layer_exchanges(z.job, z.layout, kind, true), &time.backward);
  const bool full = z.layout.recompute == "full", selective = z.layout.recompute == "selective";
  if (full) time.backward.recompute = forward.all;
  if (selective) {
    const OpSums again = sum_up(z, layer_backward_ops(z.job, z.layout, kind));
    time.backward.recompute = std::max(0.0, again.all - backward.all);
    put_nothing_behind(&forward);
    backward.beside[static_cast<size_t>(Beside::kAfter)] = 0;
  }
  if (!routed) return time;
  add_expert_exchange(z, true, forward, false, &time.forward);
  add_expert_exchange(z, false, backward, puts_off, &time.backward);
  if (full) add_expert_exchange(z, true, forward, false, &time.backward);
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
  for (const bool back : {false, true}) {
    add_exchanges(z, (head ? head_exchanges : embedding_exchanges)(z.job, z.layout, back),
                  back ? &time.backward : &time.forward);
  }
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
