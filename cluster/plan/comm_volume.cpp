// The lists of exchanges and their sums; see comm_volume.h.
#include "cluster/plan/comm_volume.h"

#include <algorithm>
#include <array>

#include "cluster/plan/activations.h"
#include "cluster/plan/shard_map.h"
#include "configs/spec/model_tensors.h"

namespace dsv3::plan {
namespace {

constexpr AxisSet kSequenceGroup = kTpGroup | kCpGroup;
constexpr AxisSet kReplicatedGradGroup = kDenseGradGroup | kTpGroup;
constexpr double kWeightBytes = 4;  // a routing weight beside its row
constexpr double kCountBytes = 4;   // of a sequence's or a rank's rows for one expert
constexpr double kSumBytes = 8;     // of a step's tokens for one expert
constexpr double kScalarsBytes = 8 * 8;

struct Sizes {
  const spec::JobSpec& job;
  const Layout& layout;
  double t;  // tokens of this CP rank
  double e;  // bytes of an activation
  double h;
  double hidden;  // the residual stream of t tokens

  Sizes(const spec::JobSpec& job_in, const Layout& layout_in)
      : job(job_in),
        layout(layout_in),
        t(static_cast<double>(micro_batch_tokens(job_in, layout_in))),
        e(job_in.training.dtype == "fp32" ? 4.0 : 2.0),
        h(static_cast<double>(job_in.model.d_model)),
        hidden(t * h * e) {}
};

// The exchanges that a layout has: none over groups of one.
class List {
 public:
  explicit List(const Layout& layout) : layout_(layout) {}
  void add(std::string_view name, AxisSet axes, double bytes) {
    if (bytes > 0 && group_size(layout_, axes) > 1) list_.push_back({name, axes, bytes});
  }
  std::vector<Exchange> take() { return std::move(list_); }

 private:
  const Layout& layout_;
  std::vector<Exchange> list_;
};

bool is_routed(const spec::JobSpec& job, LayerKind kind) {
  return kind == LayerKind::kMoe || (kind == LayerKind::kMtp && job.model.moe.num_experts > 0);
}

void attention(const Sizes& z, bool backward, List* list) {
  const spec::MlaSpec& mla = z.job.model.mla;
  const double latent = static_cast<double>(mla.kv_lora_rank + mla.qk_rope_head_dim);
  const double query = static_cast<double>(mla.q_lora_rank.value_or(z.job.model.d_model));
  // Latents first over CP, a TP rank's own share of the tokens, then of whole sequences over TP.
  const double sequence = static_cast<double>(z.layout.cp) * z.t * latent * z.e;
  const int times = backward ? 2 : 1;  // and the gradients
  for (int i = 0; i < times; ++i) {
    list->add("attention query inputs", kTpGroup, z.t * query * z.e);
    list->add("attention latents", kCpGroup, sequence / static_cast<double>(z.layout.tp));
    list->add("attention latents", kTpGroup, sequence);
  }
  list->add("attention output", kTpGroup, z.hidden);
}

void feed_forward(const Sizes& z, bool backward, List* list) {
  list->add("feed-forward input", kTpGroup, z.hidden);
  list->add("feed-forward output", kTpGroup, z.hidden);
  if (backward) list->add("gradient of feed-forward input", kTpGroup, z.hidden);
}

void experts(const Sizes& z, bool backward, List* list) {
  const spec::MoeSpec& moe = z.job.model.moe;
  const Layout& layout = z.layout;
  const double tp = static_cast<double>(layout.tp), experts = static_cast<double>(moe.num_experts);
  if (moe.num_shared_experts > 0) feed_forward(z, backward, list);
  if (layout.etp > 1) {  // each rank has a strip of every expert, and sees the group's rows
    const double rows = z.t * static_cast<double>(moe.num_experts_per_token);
    list->add("expert rows", kTpGroup, rows * (z.h * z.e + kWeightBytes));
    list->add("expert outputs", kTpGroup, rows * z.h * z.e);
    if (!backward) list->add("expert rows of each source", kTpGroup, kCountBytes * experts * tp);
  }
  // What a rank's runs of a sequence chose: one run, or its two parts where no TP cut is between.
  const bool statistics = moe.router_aux_loss_weight != 0 || moe.capacity_factor.has_value();
  if (backward || !statistics) return;
  const int64_t runs = layout.cp > 1 && layout.tp % 2 == 1 ? 2 : 1;
  const int64_t ranks = group_size(layout, kSequenceGroup);
  list->add("router counts", kSequenceGroup,
            kCountBytes * experts * static_cast<double>(ranks * layout.micro_batch * runs));
}

// An MTP module's embedding, and the two inputs that eh_proj joins, its columns cut over TP.
void joined(const Sizes& z, bool backward, List* list) {
  list->add("embedding", kTpGroup, z.hidden);
  list->add("joined inputs", kTpGroup, 2 * z.hidden);
  if (backward) list->add("gradient of joined inputs", kTpGroup, 2 * z.hidden);
  list->add("joined output", kTpGroup, z.hidden / static_cast<double>(z.layout.tp));
}

void layer(const Sizes& z, LayerKind kind, bool backward, List* list) {
  attention(z, backward, list);
  if (is_routed(z.job, kind)) {
    experts(z, backward, list);
  } else {
    feed_forward(z, backward, list);
  }
}

int64_t expert_members(const Layout& layout) {
  return group_size(layout, layout.etp > 1 ? kEpGroup : kExpertShardGroup);
}

}  // namespace

double gather_sent_bytes(double bytes, int64_t ranks) {
  return bytes * static_cast<double>(ranks - 1) / static_cast<double>(ranks);
}

double all_reduce_sent_bytes(double bytes, int64_t ranks) {
  if (bytes <= kOneRoundBytesMax) return bytes * static_cast<double>(ranks - 1);
  return 2 * gather_sent_bytes(bytes, ranks);
}

int64_t group_size(const Layout& layout, AxisSet axes) {
  const std::array<int64_t, kNumAxes> sizes{layout.tp, layout.cp, layout.ep, layout.dp, layout.pp};
  int64_t ranks = 1;
  for (int axis = 0; axis < kNumAxes; ++axis) {
    if (axes >> axis & 1) ranks *= sizes[static_cast<size_t>(axis)];
  }
  return ranks;
}

double sent_bytes(const Exchange& exchange, const Layout& layout) {
  return gather_sent_bytes(exchange.bytes, group_size(layout, exchange.axes));
}

double sent_bytes(const std::vector<Exchange>& exchanges, const Layout& layout, AxisSet axes) {
  double sum = 0;
  for (const Exchange& exchange : exchanges) {
    if (exchange.axes == axes) sum += sent_bytes(exchange, layout);
  }
  return sum;
}

std::vector<Exchange> layer_exchanges(const spec::JobSpec& job, const Layout& layout,
                                      LayerKind kind, bool backward) {
  const Sizes z(job, layout);
  List list(layout);
  if (kind == LayerKind::kMtp) joined(z, backward, &list);
  if (backward && layout.recompute == "full") layer(z, kind, false, &list);
  layer(z, kind, backward, &list);
  return list.take();
}

std::vector<Exchange> embedding_exchanges(const spec::JobSpec& job, const Layout& layout,
                                          bool /*backward*/) {
  List list(layout);
  list.add("embedding", kTpGroup, Sizes(job, layout).hidden);
  return list.take();
}

std::vector<Exchange> head_exchanges(const spec::JobSpec& job, const Layout& layout,
                                     bool backward) {
  const Sizes z(job, layout);
  List list(layout);
  for (int64_t head = 0; head <= job.model.mtp_layers; ++head) {
    list.add(backward ? "gradient of head input" : "head input", kTpGroup, z.hidden);
    if (!backward)
      list.add("loss statistics", kTpGroup, 3 * 4 * z.t * static_cast<double>(layout.tp));
  }
  return list.take();
}

ExpertRows even_expert_rows(const spec::JobSpec& job, const Layout& layout) {
  const double rows = static_cast<double>(micro_batch_tokens(job, layout)) *
                      static_cast<double>(job.model.moe.num_experts_per_token) /
                      static_cast<double>(layout.tp);
  const double away = gather_sent_bytes(rows, expert_members(layout));
  return {away, away};
}

double expert_sent_bytes(const spec::JobSpec& job, const Layout& layout, const ExpertRows& rows,
                         bool backward) {
  const Sizes z(job, layout);
  const spec::MoeSpec& moe = job.model.moe;
  const double row = z.h * z.e;
  if (backward) return rows.leave * row + rows.arrive * (row + kWeightBytes);
  const double dispatched = moe.use_deep_ep && moe.deep_ep_fp8 ? z.h : row;
  const double counts =
      kCountBytes * gather_sent_bytes(static_cast<double>(moe.num_experts), expert_members(layout));
  return rows.leave * (dispatched + kWeightBytes) + rows.arrive * row + counts;
}

double gradient_sent_bytes(const GradientRun& run, int64_t ranks, const GradientSums& sums) {
  if (run.elements <= 0 || ranks == 1) return 0;
  const double bytes = sums.gradient_bytes * run.elements;
  if (sums.zero_stage == 0) {
    const double gains = sums.gradient_bytes * run.gains;
    if (bytes - gains < kBucketBytesMin) return all_reduce_sent_bytes(bytes, ranks);
    return all_reduce_sent_bytes(bytes - gains, ranks) + all_reduce_sent_bytes(gains, ranks);
  }
  const double again = sums.zero_stage >= 2 ? static_cast<double>(sums.micro_batches - 1) : 0;
  const double reduced = bytes + again * sums.gradient_bytes * (run.elements - run.outside);
  const double gathered = sums.weight_bytes * (run.elements - run.in_f32) + 4 * run.in_f32;
  return gather_sent_bytes(reduced + gathered, ranks);
}

namespace {

// The class whose communicators sum it (runtime/parallel/buckets.cpp).
ParamClass sum_class(ParamClass cls, const Layout& layout) {
  const bool same = cls == ParamClass::kExpert ? layout.ep == 1 : layout.tp == 1;
  return same ? ParamClass::kDense : cls;
}

}  // namespace

std::vector<GradientRun> gradient_runs(const spec::ModelSpec& model, const Layout& layout,
                                       const RankPosition& position) {
  // In the buffer's order: replicated, the copied embedding, dense, expert; read in f32.
  std::array<GradientRun, 5> parts;
  const bool copies = copies_embedding(model, layout);
  for (const TensorShard& shard : rank_shards(model, layout, position)) {
    const bool copied = copies && shard.tensor.part == spec::Part::kEmbedding;
    const size_t at = read_in_f32(shard.tensor)              ? 4
                      : shard.cls == ParamClass::kExpert     ? 3
                      : shard.cls == ParamClass::kReplicated ? 0
                      : copied                               ? 1
                                                             : 2;
    const double count = static_cast<double>(shard.box.num_elements());
    GradientRun& part = parts[at];
    part.cls = sum_class(shard.cls, layout);
    part.copied = copied;
    part.elements += count;
    if (at == 4) part.in_f32 += count;
    if (!shard.tensor.weight_decay) part.gains += count;
    if (shard.tensor.layer < 0 || !shard.tensor.weight_decay) part.outside += count;
  }
  std::vector<GradientRun> runs;
  for (const GradientRun& part : parts) {
    if (part.elements == 0) continue;
    if (runs.empty() || runs.back().cls != part.cls || runs.back().copied || part.copied) {
      runs.push_back(part);
      continue;
    }
    runs.back().elements += part.elements;
    runs.back().in_f32 += part.in_f32;
    runs.back().gains += part.gains;
    runs.back().outside += part.outside;
  }
  return runs;
}

namespace {

// Of the layers and ends that a rank of `stage` has: one micro-batch.
void add_model(const spec::JobSpec& job, const Layout& layout, int64_t stage,
               const ExpertRows& rows, StepVolume* volume) {
  const spec::ModelSpec& model = job.model;
  const double batches = static_cast<double>(layout.grad_accumulation);
  const auto take = [&](const std::vector<Exchange>& exchanges, double times) {
    volume->tensor += times * sent_bytes(exchanges, layout, kTpGroup);
    volume->context += times * sent_bytes(exchanges, layout, kCpGroup);
    volume->sequence += times * sent_bytes(exchanges, layout, kSequenceGroup);
  };
  const auto take_layers = [&](LayerKind kind, int64_t count) {
    if (count == 0) return;
    const double times = batches * static_cast<double>(count);
    for (const bool backward : {false, true}) {
      take(layer_exchanges(job, layout, kind, backward), times);
      if (!is_routed(job, kind) || expert_members(layout) == 1) continue;
      volume->experts += times * expert_sent_bytes(job, layout, rows, backward);
      if (backward && layout.recompute == "full")
        volume->experts += times * expert_sent_bytes(job, layout, rows, false);
    }
  };
  const int64_t chunks = chunks_of(layout, model.num_layers);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const LayerMix mix =
        layers_by_kind(model, chunk_layers(layout, model.num_layers, stage, chunk));
    take_layers(LayerKind::kDense, mix.dense);
    take_layers(LayerKind::kMoe, mix.routed);
  }
  const bool last = stage == layout.pp - 1;
  if (last) take_layers(LayerKind::kMtp, model.mtp_layers);
  for (const bool backward : {false, true}) {
    if (stage == 0) take(embedding_exchanges(job, layout, backward), batches);
    if (last) take(head_exchanges(job, layout, backward), batches);
  }
  const double sent = batches * stage_output_bytes(job, layout);
  volume->forward = sent * static_cast<double>(chunks - (last ? 1 : 0));
  volume->backward = sent * static_cast<double>(chunks - (stage == 0 ? 1 : 0));
}

}  // namespace

StepVolume step_volume(const spec::JobSpec& job, const Layout& layout, const RankPosition& position,
                       const ExpertRows& rows) {
  StepVolume volume;
  add_model(job, layout, position.pp_stage, rows, &volume);
  const GradientSums sums{.zero_stage = layout.zero_stage,
                          .micro_batches = layout.grad_accumulation,
                          .gradient_bytes = layout.grads_dtype == "bf16" ? 2.0 : 4.0,
                          .weight_bytes = job.training.dtype == "fp32" ? 4.0 : 2.0};
  for (const GradientRun& run : gradient_runs(job.model, layout, position)) {
    const auto over = [&](AxisSet axes) {
      return gradient_sent_bytes(run, group_size(layout, axes), sums);
    };
    if (run.cls == ParamClass::kReplicated) volume.replicated += over(kReplicatedGradGroup);
    if (run.cls == ParamClass::kDense) volume.dense += over(kDenseGradGroup);
    if (run.cls == ParamClass::kExpert) volume.expert += over(kExpertGradGroup);
    // Two ranks, the same bytes in one round or two: whole, or this rank's piece.
    const int64_t pieces = layout.zero_stage == 0 ? 1 : layout.dense_zero_group();
    if (run.copied)
      volume.embedding += sums.gradient_bytes * run.elements / static_cast<double>(pieces);
  }
  if (layout.world_size() > 1) {
    const double counts = kSumBytes * static_cast<double>(update_counts(job.model).moe_layers *
                                                          job.model.moe.num_experts);
    volume.world = all_reduce_sent_bytes(kScalarsBytes, layout.world_size()) +
                   all_reduce_sent_bytes(counts, layout.world_size());
  }
  return volume;
}

double stage_output_bytes(const spec::JobSpec& job, const Layout& layout) {
  const Sizes z(job, layout);
  return z.hidden / static_cast<double>(layout.tp);
}

}  // namespace dsv3::plan
