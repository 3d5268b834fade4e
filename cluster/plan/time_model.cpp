// A step from its layers, its schedule and what it exchanges; see time_model.h.
#include "cluster/plan/time_model.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"
#include "cluster/plan/comm_volume.h"
#include "cluster/plan/layer_time.h"
#include "cluster/plan/schedule.h"
#include "cluster/plan/shard_map.h"
#include "cluster/plan/step_ops.h"

namespace dsv3::plan {
namespace {

// Adam on the host: at one GPU's share of a two-socket server's memory (200 GB/s and more over 8).
constexpr double kHostAdamBytesPerS = 25e9;
// Of a data-parallel exchange at least this share is in sight, however long the passes are that it
// hides behind: the last bucket has nothing left to hide behind, buckets wait for each other's
// gradients, and the copies take memory and SMs from the compute meanwhile. An estimate.
constexpr double kDataExchangeShown = 0.1;

// One micro-batch on one virtual stage.
struct StageTime {
  PassTime forward, backward;
};

void add(const PassTime& pass, int64_t times, PassTime* sum) {
  const double n = static_cast<double>(times);
  sum->compute += n * pass.compute;
  sum->weight += n * pass.weight;
  sum->recompute += n * pass.recompute;
  sum->tp += n * pass.tp;
  sum->cp += n * pass.cp;
  sum->ep += n * pass.ep;
  sum->hidden += n * pass.hidden;
}
void add(const LayerTime& layer, int64_t times, StageTime* sum) {
  if (times == 0) return;
  add(layer.forward, times, &sum->forward);
  add(layer.backward, times, &sum->backward);
}

// Compute of a virtual stage that the data-parallel exchange may hide behind.
struct Quiet {
  double forward_s = 0;
  double backward_s = 0;
};

// Of the data-parallel exchange of a stage: everything, before anything hides it.
struct DataExchange {
  double reduce_s = 0;  // of gradients
  double gather_s = 0;  // of weights
};

using Key = std::array<int64_t, 10>;

// Tells layouts apart by the layers of their stages: 0 where those follow from the sizes.
int64_t split_key(const Layout& layout) {
  uint64_t hash = layout.pipeline_layers.empty() ? 0 : 14695981039346656037u;  // FNV-1a
  for (const int64_t layers : layout.pipeline_layers) {
    hash = (hash ^ static_cast<uint64_t>(layers)) * 1099511628211u;
  }
  return static_cast<int64_t>(hash);
}

}  // namespace

int64_t sequences_per_step(const Layout& layout) {
  return layout.grad_accumulation * layout.micro_batch * layout.dense_dp();
}

struct TimeModel::Cache {
  Cache(const spec::JobSpec& job_in, const DeviceModel& device_in, int64_t per_node)
      : job(job_in),
        device(device_in),
        devices_per_node(per_node),
        counts(job_in.model),
        updates(update_counts(job_in.model)) {}

  const spec::JobSpec& job;
  const DeviceModel& device;
  int64_t devices_per_node;
  ShardedCounts counts;
  UpdateCounts updates;
  std::map<Key, ModelTimes> layers;
  std::map<std::array<int64_t, 3>, std::vector<LayerMix>> mixes;
  std::map<Key, std::vector<LocalParams>> locals;
  std::map<Key, std::vector<DataExchange>> exchanges;
  std::map<Key, double> optimizers;
  std::map<Key, double> whole_gradients;
  std::vector<ChunkTime> chunks;  // of the layout at hand, by virtual stage
  std::vector<Quiet> quiet;

  const ModelTimes& model(const Layout& layout);
  // Of the virtual stages, in the layers' order.
  const std::vector<LayerMix>& mix(const Layout& layout);
  const std::vector<LocalParams>& local(const Layout& layout);
  const std::vector<DataExchange>& exchange(const Layout& layout);
  double optimizer_s(const Layout& layout);
  // Of an optimizer in host memory; a CPU has no other, and updates there as ever.
  bool is_offloaded(const Layout& layout) const {
    return layout.offload_optimizer && device.host_link.bytes_per_s > 0;
  }
  double offload_s(const Layout& layout);
  int64_t layers_of_stage(const Layout& layout, size_t stage);
  StageTime stage(const ModelTimes& times, const std::vector<LayerMix>& mixes, int64_t at);
  PipelineShape pipeline(const Layout& layout);
  double send_s(const Layout& layout) const;
  double data_exposed_s(const Layout& layout);
  double whole_gradients_s(const Layout& layout);
  // Beside the pipeline, without the optimizer on the device.
  double rest_s(const Layout& layout) {
    return data_exposed_s(layout) + whole_gradients_s(layout) + offload_s(layout);
  }
};

const ModelTimes& TimeModel::Cache::model(const Layout& layout) {
  const Key key{layout.tp,
                layout.cp,
                layout.ep,
                layout.etp,
                layout.micro_batch,
                recompute_level(layout.recompute),
                defers_weights(layout)};
  const auto found = layers.find(key);
  if (found != layers.end()) return found->second;
  return layers.emplace(key, model_times(job, layout, device, devices_per_node)).first->second;
}

const std::vector<LayerMix>& TimeModel::Cache::mix(const Layout& layout) {
  const int64_t chunks = chunks_of(layout, job.model.num_layers);
  const std::array<int64_t, 3> key{layout.pp, chunks, split_key(layout)};
  const auto found = mixes.find(key);
  if (found != mixes.end()) return found->second;
  std::vector<LayerMix> made;
  for (int64_t at = 0; at < layout.pp * chunks; ++at) {
    made.push_back(layers_by_kind(
        job.model, chunk_layers(layout, job.model.num_layers, at % layout.pp, at / layout.pp)));
  }
  return mixes.emplace(key, std::move(made)).first->second;
}

int64_t TimeModel::Cache::layers_of_stage(const Layout& layout, size_t stage) {
  const std::vector<LayerMix>& all = mix(layout);
  int64_t layers = 0;
  for (size_t at = stage; at < all.size(); at += static_cast<size_t>(layout.pp)) {
    layers += all[at].dense + all[at].routed;
  }
  return layers;
}

StageTime TimeModel::Cache::stage(const ModelTimes& times, const std::vector<LayerMix>& mixes_of,
                                  int64_t at) {
  const LayerMix& mix = mixes_of[static_cast<size_t>(at)];
  StageTime time;
  add(times.dense, mix.dense, &time);
  add(times.routed, mix.routed, &time);
  if (at == 0) add(times.embedding, 1, &time);
  if (at == static_cast<int64_t>(mixes_of.size()) - 1) {
    add(times.mtp, job.model.mtp_layers, &time);
    add(times.head, 1, &time);
  }
  return time;
}

// Fills `chunks` and `quiet`.
PipelineShape TimeModel::Cache::pipeline(const Layout& layout) {
  PipelineShape shape;
  shape.schedule = schedule_kind(layout.schedule).value_or(ScheduleKind::k1F1B);
  shape.stages = layout.pp;
  shape.chunks = shape.schedule == ScheduleKind::kInterleaved ? layout.virtual_stages : 1;
  shape.micro_batches = layout.grad_accumulation;
  const ModelTimes& times = model(layout);
  const std::vector<LayerMix>& all = mix(layout);
  chunks.clear();
  quiet.clear();
  // Stages in the middle are mostly alike.
  const int64_t last = static_cast<int64_t>(all.size()) - 1;
  for (int64_t at = 0; at <= last; ++at) {
    const LayerMix& here = all[static_cast<size_t>(at)];
    const LayerMix* before = at > 1 && at < last ? &all[static_cast<size_t>(at - 1)] : nullptr;
    if (before != nullptr && before->dense == here.dense && before->routed == here.routed) {
      chunks.push_back(chunks.back());
      quiet.push_back(quiet.back());
      continue;
    }
    const StageTime time = stage(times, all, at);
    const double weight = defers_weights(layout) ? time.backward.weight : 0;
    chunks.push_back({time.forward.total(), time.backward.total() - weight, weight});
    quiet.push_back({time.forward.quiet(), time.backward.quiet()});
  }
  return shape;
}

double TimeModel::Cache::send_s(const Layout& layout) const {
  if (layout.pp == 1) return 0;
  const bool one_node = devices_per_node < 1 || layout.world_size() <= devices_per_node;
  return send_seconds(stage_output_bytes(job, layout),
                      one_node ? device.node_link : device.network_link);
}

const std::vector<LocalParams>& TimeModel::Cache::local(const Layout& layout) {
  const Key key{
      layout.tp,        layout.pp, layout.ep, layout.etp, chunks_of(layout, job.model.num_layers),
      split_key(layout)};
  const auto found = locals.find(key);
  if (found != locals.end()) return found->second;
  std::vector<LocalParams> made;
  for (int64_t stage = 0; stage < layout.pp; ++stage) made.push_back(counts.stage(layout, stage));
  return locals.emplace(key, std::move(made)).first->second;
}

const std::vector<DataExchange>& TimeModel::Cache::exchange(const Layout& layout) {
  const bool small = layout.grads_dtype == "bf16";
  const Key key{layout.tp,         layout.cp, layout.pp,
                layout.ep,         layout.dp, layout.etp,
                layout.zero_stage, small,     chunks_of(layout, job.model.num_layers),
                split_key(layout)};
  const auto found = exchanges.find(key);
  if (found != exchanges.end()) return found->second;
  const Links links{device.node_link, device.network_link};
  const GroupShape dense = group_shape(layout, kDenseGradGroup, devices_per_node);
  const GroupShape expert = group_shape(layout, kExpertGradGroup, devices_per_node);
  const double weight_bytes = job.training.dtype == "fp32" ? 4 : 2;
  const std::vector<LocalParams>& held = local(layout);
  std::vector<DataExchange> made;
  for (size_t stage = 0; stage < held.size(); ++stage) {
    // A bucket a layer: each pays its latency.
    const double buckets =
        static_cast<double>(std::max<int64_t>(1, layers_of_stage(layout, stage)));
    const auto over = [&](double bytes, const GroupShape& group) {
      if (bytes == 0) return 0.0;
      return gather_seconds(bytes, group, links) + (buckets - 1) * gather_seconds(0, group, links);
    };
    const auto gather = [&](double bytes) {
      const double dense_n = static_cast<double>(held[stage].dense);
      const double expert_n = static_cast<double>(held[stage].experts);
      if (layout.ep == 1) return over(bytes * (dense_n + expert_n), dense);  // the same ranks
      return over(bytes * dense_n, dense) + over(bytes * expert_n, expert);
    };
    DataExchange exchange{.reduce_s = gather(small ? 2 : 4), .gather_s = gather(weight_bytes)};
    if (layout.zero_stage == 0) exchange = {.reduce_s = 2 * exchange.reduce_s, .gather_s = 0};
    made.push_back(exchange);
  }
  return exchanges.emplace(key, std::move(made)).first->second;
}

// ZeRO-0 and 1 reduce once a step, behind the last micro-batch's backward pass, all but the last
// bucket of it; gathered weights hide in the next step's first forward pass. ZeRO-2 reduces behind
// every micro-batch, ZeRO-3 gathers before every pass as well, and the first layer of a step waits
// for all of its own. Needs `quiet`.
double TimeModel::Cache::data_exposed_s(const Layout& layout) {
  if (layout.dense_zero_group() == 1) return 0;
  const bool hides = job.parallel.overlap_grad_reduce && !device.links_share_cores;
  const std::vector<DataExchange>& all = exchange(layout);
  const double batches = static_cast<double>(layout.grad_accumulation);
  double most = 0;
  for (size_t stage = 0; stage < all.size(); ++stage) {
    double forward = 0, backward = 0;
    const double layers = static_cast<double>(std::max<int64_t>(1, layers_of_stage(layout, stage)));
    for (size_t at = stage; hides && at < quiet.size(); at += all.size()) {
      forward += quiet[at].forward_s * (layers - 1) / layers;
      backward += quiet[at].backward_s * (layers - 1) / layers;
    }
    const auto& [reduce, gather] = all[stage];
    const auto shown = [](double exchange, double meanwhile) {
      return std::max(kDataExchangeShown * exchange, exchange - meanwhile);
    };
    double exposed = shown(reduce, backward) + shown(gather, forward);
    if (layout.zero_stage == 2) {
      exposed = batches * shown(reduce, backward) + shown(gather, forward);
    } else if (layout.zero_stage == 3) {
      exposed = batches * (shown(gather, forward) + shown(gather + reduce, backward));
      if (hides) exposed += gather / layers;
    }
    most = std::max(most, exposed);
  }
  return most;
}

// Norms, q_a, kv_a and the router are whole on every TP rank, which sees its own tokens only: their
// gradients are summed over TP once a step, with nothing left to hide behind. Of a rank's dense
// parameters w + c/TP are held, of which w are whole: from TP's and one rank's count.
double TimeModel::Cache::whole_gradients_s(const Layout& layout) {
  if (layout.tp == 1) return 0;
  const bool small = layout.grads_dtype == "bf16";
  const Key key{layout.tp, layout.pp, small, chunks_of(layout, job.model.num_layers),
                split_key(layout)};
  const auto found = whole_gradients.find(key);
  if (found != whole_gradients.end()) return found->second;
  Layout alone = layout;
  alone.tp = alone.ep = alone.etp = 1;
  double most = 0;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    const int64_t held = counts.stage(layout, stage).dense;
    const int64_t whole = (layout.tp * held - counts.stage(alone, stage).dense) / (layout.tp - 1);
    most = std::max(most, static_cast<double>(whole));
  }
  const Links links{device.node_link, device.network_link};
  const double seconds_of = all_reduce_seconds(
      most * (small ? 2 : 4), group_shape(layout, kTpGroup, devices_per_node), links);
  return whole_gradients.emplace(key, seconds_of).first->second;
}

double TimeModel::Cache::optimizer_s(const Layout& layout) {
  const Key key{layout.tp,
                layout.cp,
                layout.pp,
                layout.ep,
                layout.dp,
                layout.etp,
                std::min<int64_t>(1, layout.zero_stage),
                2 * (layout.grads_dtype == "bf16") + (layout.moments_dtype == "bf16"),
                chunks_of(layout, job.model.num_layers),
                split_key(layout)};
  const auto found = optimizers.find(key);
  if (found != optimizers.end()) return found->second;
  const std::vector<LocalParams>& held = local(layout);
  const auto most = std::max_element(
      held.begin(), held.end(),
      [](const LocalParams& a, const LocalParams& b) { return a.total() < b.total(); });
  const double seconds_of = seconds(device, optimizer_ops(job, layout, *most, updates));
  return optimizers.emplace(key, seconds_of).first->second;
}

double TimeModel::Cache::offload_s(const Layout& layout) {
  if (!is_offloaded(layout)) return 0;
  const double weight = job.training.dtype == "fp32" ? 4 : 2;
  const double grad = layout.grads_dtype == "bf16" ? 2 : 4;
  const double moment = layout.moments_dtype == "bf16" ? 2 : 4;
  // Adam reads the gradient, reads and writes master and moments, and writes the weight: 30 bytes.
  const double touched = grad + 2 * (4 + 2 * moment) + weight;
  double most = 0;
  for (const LocalParams& held : local(layout)) {
    const double n = layout.zero_stage == 0
                         ? static_cast<double>(held.total())
                         : static_cast<double>(held.dense / layout.dense_zero_group() +
                                               held.experts / layout.expert_zero_group());
    most = std::max(most, n * (grad + weight) / device.host_link.bytes_per_s +
                              n * touched / kHostAdamBytesPerS);
  }
  return most;
}

TimeModel::TimeModel(const spec::JobSpec& job, const DeviceModel& device, int64_t devices_per_node)
    : job_(job),
      device_(device),
      devices_per_node_(devices_per_node),
      cache_(std::make_unique<Cache>(job, device, devices_per_node)) {}

TimeModel::~TimeModel() = default;

double TimeModel::lower_bound(const Layout& layout) const {
  const PipelineShape shape = cache_->pipeline(layout);
  return pipeline_bound(shape, cache_->chunks, cache_->send_s(layout)) + cache_->rest_s(layout);
}

double TimeModel::step_seconds(const Layout& layout) const {
  const PipelineShape shape = cache_->pipeline(layout);
  return pipeline_seconds(shape, cache_->chunks, cache_->send_s(layout)) + cache_->rest_s(layout) +
         (cache_->is_offloaded(layout) ? 0 : cache_->optimizer_s(layout));
}

StepTime TimeModel::predict(const Layout& layout) const {
  StepTime time{.step_s = step_seconds(layout)};
  const PipelineShape shape = cache_->pipeline(layout);
  const std::vector<ChunkTime> chunks = cache_->chunks;
  const double batches = static_cast<double>(layout.grad_accumulation);
  const auto busy = [&](int64_t stage) {
    double sum = 0;
    for (int64_t at = stage; at < static_cast<int64_t>(chunks.size()); at += shape.stages) {
      sum += chunks[static_cast<size_t>(at)].busy_s();
    }
    return sum;
  };
  int64_t busiest = 0;
  for (int64_t stage = 1; stage < shape.stages; ++stage) {
    if (busy(stage) > busy(busiest)) busiest = stage;
  }
  StageTime sum;
  const ModelTimes& times = cache_->model(layout);
  const std::vector<LayerMix>& mixes = cache_->mix(layout);
  for (int64_t at = busiest; at < shape.stages * shape.chunks; at += shape.stages) {
    const StageTime stage = cache_->stage(times, mixes, at);
    add(stage.forward, 1, &sum.forward);
    add(stage.backward, 1, &sum.backward);
  }
  const auto line = [&](const char* name, double seconds) {
    if (seconds > 0) time.lines.push_back({name, seconds});
  };
  const double whole = pipeline_seconds(shape, chunks, cache_->send_s(layout));
  const double at_once = std::min(whole, pipeline_seconds(shape, chunks, 0));
  line("forward", batches * sum.forward.compute);
  line("backward", batches * sum.backward.compute);
  line("recompute", batches * sum.backward.recompute);
  line("tp", batches * (sum.forward.tp + sum.backward.tp) + cache_->whole_gradients_s(layout));
  line("cp", batches * (sum.forward.cp + sum.backward.cp));
  line("ep", batches * (sum.forward.ep + sum.backward.ep));
  // Of one stage nothing is left over; what rounding leaves is no bubble.
  if (shape.stages > 1) line("pipeline_bubble", at_once - batches * busy(busiest));
  line("pp", whole - at_once);
  line("dp", cache_->data_exposed_s(layout));
  if (!cache_->is_offloaded(layout)) line("optimizer", cache_->optimizer_s(layout));
  line("offload", cache_->offload_s(layout));
  return time;
}

}  // namespace dsv3::plan
