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
  DSV3_CHECK(stage >= 0 && stage < stages);
  const std::vector<int64_t> split = split_layers(num_layers, stages);
  StageLayers layers;
  for (int64_t i = 0; i < stage; ++i) layers.first += split[static_cast<size_t>(i)];
  layers.end = layers.first + split[static_cast<size_t>(stage)];
  return layers;
}

LocalParams ShardedCounts::Counts::local(const Layout& layout) const {
  return {replicated + cut / layout.tp, experts / (layout.ep * layout.tp)};
}

ShardedCounts::ShardedCounts(const spec::ModelSpec& model)
    : layers_(static_cast<size_t>(model.num_layers)),
      tied_(model.tie_embeddings),
      has_mtp_(model.mtp_layers > 0) {
  for (const spec::TensorFamily& family : spec::model_tensor_families(model)) {
    const spec::TensorInfo& tensor = family.tensor;
    const int64_t count = tensor.num_elements() * family.copies;
    Counts* counts = &final_;
    if (tensor.in_mtp) {
      counts = &mtp_;
    } else if (tensor.layer >= 0) {
      counts = &layers_[static_cast<size_t>(tensor.layer)];
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
}

LocalParams ShardedCounts::layer(const Layout& layout, int64_t layer) const {
  DSV3_CHECK(layer >= 0 && layer <= static_cast<int64_t>(layers_.size()));
  if (layer == static_cast<int64_t>(layers_.size())) return mtp_.local(layout);
  return layers_[static_cast<size_t>(layer)].local(layout);
}

LocalParams ShardedCounts::largest_layer(const Layout& layout) const {
  LocalParams largest = mtp_.local(layout);
  for (const Counts& counts : layers_) {
    const LocalParams local = counts.local(layout);
    if (local.total() > largest.total()) largest = local;
  }
  return largest;
}

LocalParams ShardedCounts::stage(const Layout& layout, int64_t stage) const {
  const StageLayers layers = stage_layers(static_cast<int64_t>(layers_.size()), layout.pp, stage);
  Counts sum;
  const auto add = [&sum](const Counts& counts) {
    sum.replicated += counts.replicated;
    sum.cut += counts.cut;
    sum.experts += counts.experts;
  };
  for (int64_t i = layers.first; i < layers.end; ++i) add(layers_[static_cast<size_t>(i)]);
  if (stage == 0) add(embedding_);
  if (stage == layout.pp - 1) {
    add(final_);
    add(mtp_);
    // The table that the first stage also holds: for a tied head, for MTP's input.
    if (layout.pp > 1 && (tied_ || has_mtp_)) add(embedding_);
  }
  return sum.local(layout);
}

}  // namespace dsv3::plan
