// Counts by kind of cut, from the tensor families; see shard_map.h.
#include "cluster/plan/shard_map.h"

#include <algorithm>
#include <string_view>

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

int64_t chunks_of(const Layout& layout, int64_t num_layers) {
  const bool interleaved = layout.virtual_stages > 1 && layout.pp > 1 &&
                           layout.pp * layout.virtual_stages <= num_layers &&
                           layout.schedule == "interleaved";
  return interleaved ? layout.virtual_stages : 1;
}

StageLayers chunk_layers(const Layout& layout, int64_t num_layers, int64_t stage, int64_t chunk) {
  return stage_layers(num_layers, layout.pp * chunks_of(layout, num_layers),
                      chunk * layout.pp + stage);
}

LayerMix layers_by_kind(const spec::ModelSpec& model, StageLayers layers) {
  const int64_t first_routed =
      model.moe.num_experts > 0 ? model.moe.first_k_dense : model.num_layers;
  const int64_t dense = std::clamp(first_routed, layers.first, layers.end) - layers.first;
  return {dense, layers.end - layers.first - dense};
}

LocalParams ShardedCounts::Counts::local(const Layout& layout) const {
  return {replicated + cut / layout.tp, experts / (layout.ep * layout.tp)};
}

void ShardedCounts::Counts::add(const Counts& other, int64_t times) {
  replicated += times * other.replicated;
  cut += times * other.cut;
  experts += times * other.experts;
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
