// Counts by kind of cut, from the tensor families; see shard_map.h.
#include "cluster/plan/shard_map.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"

namespace dsv3::plan {
namespace {

bool has(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

}  // namespace

TpSplit tp_split(const spec::TensorInfo& tensor, bool cut_experts) {
  using spec::Part;
  const bool expert = tensor.part == Part::kRoutedExperts;
  if (expert && !cut_experts) return TpSplit::kReplicated;
  const bool down = has(tensor.name, "down_proj");
  switch (tensor.part) {
    case Part::kEmbedding:
    case Part::kHead:
    case Part::kMtp:
      return TpSplit::kRows;
    case Part::kDenseFfn:
    case Part::kSharedExperts:
    case Part::kRoutedExperts:
      return down ? TpSplit::kColumns : TpSplit::kRows;
    case Part::kAttention:
      if (has(tensor.name, "o_proj")) return TpSplit::kColumns;
      if (has(tensor.name, "q_b_proj") || has(tensor.name, "q_proj") ||
          has(tensor.name, "kv_b_proj")) {
        return TpSplit::kRows;
      }
      return TpSplit::kReplicated;  // q_a, kv_a and their norms: the latents are shared by all
                                    // heads
    case Part::kRouter:
    case Part::kNorms:
      return TpSplit::kReplicated;
  }
  return TpSplit::kReplicated;
}

bool copies_embedding(const spec::ModelSpec& model, const Layout& layout) {
  return layout.pp > 1 && (model.mtp_layers > 0 || model.tie_embeddings);
}

std::vector<int64_t> split_layers(int64_t num_layers, int64_t stages) {
  DSV3_CHECK(stages >= 1 && stages <= num_layers);
  const int64_t longer = num_layers % stages;
  std::vector<int64_t> split(static_cast<size_t>(stages), num_layers / stages);
  if (longer == 0) return split;
  // Shorter stages in the order last, first, last but one, second, …; the others get one layer
  // more.
  std::vector<bool> shorter(split.size(), false);
  int64_t front = 0;
  int64_t back = stages - 1;
  for (int64_t i = 0; i < stages - longer; ++i) {
    shorter[static_cast<size_t>(i % 2 == 0 ? back-- : front++)] = true;
  }
  for (size_t i = 0; i < split.size(); ++i) split[i] += shorter[i] ? 0 : 1;
  return split;
}

StageLayers stage_layers(int64_t num_layers, int64_t stages, int64_t stage) {
  DSV3_CHECK(stages >= 1 && stages <= num_layers && stage >= 0 && stage < stages);
  const int64_t longer = num_layers % stages, each = num_layers / stages;
  const int64_t shorter_in_front = (stages - longer) / 2;  // split_layers(), without the vector
  const auto begin = [&](int64_t i) {
    return each * i + std::clamp<int64_t>(i - shorter_in_front, 0, longer);
  };
  return {begin(stage), begin(stage + 1)};
}

int64_t expert_ranks(const Layout& layout) {
  return layout.ep * (layout.etp > 1 ? 1 : layout.tp);
}

int64_t expert_parts(const Layout& layout, int64_t num_experts, bool overlap) {
  const int64_t ranks = expert_ranks(layout);
  return overlap && ranks > 1 ? std::min(kExpertParts, num_experts / ranks) : 1;
}

int64_t chunks_of(const Layout& layout, int64_t num_layers) {
  const bool interleaved = layout.virtual_stages > 1 && layout.pp > 1 &&
                           layout.pp * layout.virtual_stages <= num_layers &&
                           layout.schedule == "interleaved";
  return interleaved ? layout.virtual_stages : 1;
}

StageLayers chunk_layers(const Layout& layout, int64_t num_layers, int64_t stage, int64_t chunk) {
  if (const std::vector<int64_t>& given = layout.pipeline_layers; !given.empty()) {
    const auto at = given.begin() + (chunk * layout.pp + stage);
    const int64_t first = std::accumulate(given.begin(), at, int64_t{0});
    return {first, first + *at};
  }
  return stage_layers(num_layers, layout.pp * chunks_of(layout, num_layers),
                      chunk * layout.pp + stage);
}

LayerMix layers_by_kind(const spec::ModelSpec& model, StageLayers layers) {
  const int64_t first_routed =
      model.moe.num_experts > 0 ? model.moe.first_k_dense : model.num_layers;
  const int64_t dense = std::clamp(first_routed, layers.first, layers.end) - layers.first;
  return {dense, layers.end - layers.first - dense};
}

ParamClass param_class(const spec::TensorInfo& tensor, const Layout& layout) {
  if (tensor.part == spec::Part::kRoutedExperts) return ParamClass::kExpert;
  const bool whole = layout.tp > 1 && tp_split(tensor) == TpSplit::kReplicated;
  return whole ? ParamClass::kReplicated : ParamClass::kDense;
}

bool read_in_f32(const spec::TensorInfo& tensor) {
  return tensor.shape.size() == 1 || tensor.part == spec::Part::kRouter;
}

namespace {

// Which layers and ends of the model a rank has.
struct Held {
  std::vector<bool> layers;  // of the main model
  bool embedding = false;
  bool end = false;  // final norm, head, MTP modules

  bool has(const spec::TensorInfo& tensor) const {
    if (tensor.in_mtp || tensor.layer >= static_cast<int64_t>(layers.size())) return end;
    if (tensor.layer >= 0) return layers[static_cast<size_t>(tensor.layer)];
    return tensor.part == spec::Part::kEmbedding ? embedding : end;
  }
};

Held held_by(const spec::ModelSpec& model, const Layout& layout, int64_t stage) {
  Held held{.layers = std::vector<bool>(static_cast<size_t>(model.num_layers), false)};
  const int64_t chunks = chunks_of(layout, model.num_layers);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const StageLayers range = chunk_layers(layout, model.num_layers, stage, chunk);
    for (int64_t layer = range.first; layer < range.end; ++layer) {
      held.layers[static_cast<size_t>(layer)] = true;
    }
  }
  held.end = stage == layout.pp - 1;
  held.embedding = stage == 0 || (held.end && copies_embedding(model, layout));
  return held;
}

Box box_of(const spec::TensorInfo& tensor, const Layout& layout, const RankPosition& position) {
  const bool matrix = tensor.shape.size() == 2;
  Box box{0, matrix ? tensor.shape[0] : 1, 0, tensor.shape.back()};
  const TpSplit split = tp_split(tensor, layout.etp > 1);
  if (layout.tp == 1 || split == TpSplit::kReplicated) return box;
  int64_t& count = split == TpSplit::kRows ? box.rows : box.cols;
  int64_t& first = split == TpSplit::kRows ? box.row : box.col;
  DSV3_CHECK(count % layout.tp == 0, tensor.name);
  count /= layout.tp;
  first = count * position.tp_rank;
  return box;
}

}  // namespace

std::vector<TensorShard> rank_shards(const spec::ModelSpec& model, const Layout& layout,
                                     const RankPosition& position) {
  const Held held = held_by(model, layout, position.pp_stage);
  const bool cut = layout.etp > 1;
  const int64_t owners = layout.ep * (cut ? 1 : layout.tp);
  const int64_t owner = cut ? position.ep_rank : position.tp_rank + layout.tp * position.ep_rank;
  DSV3_CHECK(model.moe.num_experts % owners == 0, "experts are shared out evenly");
  const int64_t experts = model.moe.num_experts / owners;
  std::vector<TensorShard> shards;
  for (spec::TensorInfo& tensor : spec::model_tensors(model)) {
    if (!held.has(tensor)) continue;
    if (tensor.expert >= 0 && tensor.expert / experts != owner) continue;
    const Box box = box_of(tensor, layout, position);
    const ParamClass cls = param_class(tensor, layout);
    shards.push_back({std::move(tensor), box, cls});
  }
  return shards;
}

LocalParams ShardedCounts::Counts::local(const Layout& layout) const {
  return {replicated + cut / layout.tp, experts / (layout.ep * layout.tp),
          layout.tp > 1 ? replicated : 0, in_f32};
}

void ShardedCounts::Counts::add(const Counts& other, int64_t times) {
  replicated += times * other.replicated;
  cut += times * other.cut;
  experts += times * other.experts;
  in_f32 += times * other.in_f32;
}

ShardedCounts::ShardedCounts(const spec::ModelSpec& model)
    : ShardedCounts(model, spec::model_tensor_families(model)) {}

ShardedCounts::ShardedCounts(const spec::ModelSpec& model,
                             const std::vector<spec::TensorFamily>& families)
    : prefix_(static_cast<size_t>(model.num_layers) + 1),
      tied_(model.tie_embeddings),
      has_mtp_(model.mtp_layers > 0) {
  std::vector<Counts> layers(static_cast<size_t>(model.num_layers));
  for (const spec::TensorFamily& family : families) {
    const spec::TensorInfo& tensor = family.tensor;
    const int64_t count = tensor.num_elements() * family.copies;
    Counts* counts = &final_;
    if (tensor.in_mtp) {
      counts = &mtp_;
    } else if (tensor.layer >= 0) {
      counts = &layers[static_cast<size_t>(tensor.layer)];
    } else if (tensor.part == spec::Part::kEmbedding) {
      counts = &embedding_;
    }
    if (tensor.part == spec::Part::kRoutedExperts) {
      counts->experts += count;
    } else if (tp_split(tensor) == TpSplit::kReplicated) {
      counts->replicated += count;
      if (read_in_f32(tensor)) counts->in_f32 += count;
    } else {
      counts->cut += count;
    }
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    prefix_[i + 1] = prefix_[i];
    prefix_[i + 1].add(layers[i]);
    if (std::find(kinds_.begin(), kinds_.end(), layers[i]) == kinds_.end())
      kinds_.push_back(layers[i]);
  }
  kinds_.push_back(mtp_);
}

LocalParams ShardedCounts::layer(const Layout& layout, int64_t layer) const {
  const auto layers = static_cast<int64_t>(prefix_.size()) - 1;
  DSV3_CHECK(layer >= 0 && layer <= layers);
  if (layer == layers) return mtp_.local(layout);
  Counts counts = prefix_[static_cast<size_t>(layer) + 1];
  counts.add(prefix_[static_cast<size_t>(layer)], -1);
  return counts.local(layout);
}

LocalParams ShardedCounts::largest_layer(const Layout& layout) const {
  LocalParams largest;
  for (const Counts& counts : kinds_) {
    const LocalParams local = counts.local(layout);
    if (local.total() > largest.total()) largest = local;
  }
  return largest;
}

LocalParams ShardedCounts::stage(const Layout& layout, int64_t stage) const {
  const auto num_layers = static_cast<int64_t>(prefix_.size()) - 1;
  Counts sum;
  const int64_t chunks = chunks_of(layout, num_layers);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const StageLayers layers = chunk_layers(layout, num_layers, stage, chunk);
    sum.add(prefix_[static_cast<size_t>(layers.end)]);
    sum.add(prefix_[static_cast<size_t>(layers.first)], -1);
  }
  if (stage == 0) sum.add(embedding_);
  if (stage == layout.pp - 1) {
    sum.add(final_);
    sum.add(mtp_);
    // The table that the first stage also holds: for a tied head, for MTP's input.
    if (layout.pp > 1 && (tied_ || has_mtp_)) sum.add(embedding_);
  }
  return sum.local(layout);
}

}  // namespace dsv3::plan
