// Gathering tensors into blocks and placing the blocks; see param_layout.h.
#include "runtime/model/param_layout.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace dsv3::model {
namespace {

constexpr int64_t kAlignElements = 16;  // 64 bytes of f32

bool replace_suffix(std::string& name, std::string_view suffix, std::string_view with) {
  if (!name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  name += with;
  return true;
}

struct Place {
  std::string block;
  int order = 0;  // within the block, after the expert's index
};

// The block that a tensor is a part of. `cut`: TP is more than 1, and a direct query stands apart
// from what TP replicates.
Place place_of(const spec::TensorInfo& info, bool cut) {
  std::string name = info.name;
  replace_suffix(name, ".weight", "");
  if (info.expert >= 0) {
    const std::string expert = ".experts." + std::to_string(info.expert) + ".";
    const size_t at = name.find(expert);
    DSV3_CHECK(at != std::string::npos, name);
    name.replace(at, expert.size(), ".experts.");
  }
  if (replace_suffix(name, "self_attn.q_a_proj", "self_attn.in_proj")) return {name, 0};
  if (!cut && replace_suffix(name, "self_attn.q_proj", "self_attn.in_proj")) return {name, 0};
  if (replace_suffix(name, "self_attn.kv_a_proj_with_mqa", "self_attn.in_proj")) return {name, 1};
  if (replace_suffix(name, ".gate_proj", ".gate_up_proj")) return {name, 0};
  if (replace_suffix(name, ".up_proj", ".gate_up_proj")) return {name, 1};
  return {name, 0};
}

struct Draft {
  ParamBlock block;
  std::vector<std::pair<std::pair<int64_t, int>, size_t>> parts;  // ((expert, order), slice)
  bool decay = true;
  bool compute = true;  // read in the compute dtype
  size_t first = 0;     // position of its first tensor in the model
  int64_t first_expert = -1;
};

void add_part(Draft& draft, const plan::TensorShard& shard, int order, size_t slice) {
  const spec::TensorInfo& info = shard.tensor;
  if (draft.parts.empty()) {
    draft.block.cols = shard.box.cols;
    draft.block.cls = shard.cls;
    draft.block.layer = info.layer;
    draft.decay = info.weight_decay;
    draft.compute = info.weight_decay && info.part != spec::Part::kRouter;
    draft.first = slice;
    draft.first_expert = info.expert;
  }
  DSV3_CHECK(draft.block.cols == shard.box.cols && draft.block.cls == shard.cls &&
                 draft.decay == info.weight_decay,
             info.name);
  const int64_t group = info.expert - draft.first_expert;  // experts here are neighbours
  draft.block.groups = std::max(draft.block.groups, group + 1);
  if (group == 0) draft.block.rows += shard.box.rows;
  draft.parts.push_back({{info.expert, order}, slice});
}

// Where gradients lie: as the parameters do, or the layers' matrices in two windows behind the
// rest.
void place_gradients(ParamLayout& layout) {
  layout.grad_elements = layout.elements;
  if (!gradients_in_windows(layout.cut)) {
    for (ParamBlock& block : layout.blocks) block.grad_offset = block.offset;
    return;
  }
  int64_t kept = 0, window = 0;
  std::map<int64_t, int64_t> of_layer;  // elements
  for (size_t i = 0; i < layout.blocks.size(); ++i) {
    ParamBlock& block = layout.blocks[i];
    const bool last = i + 1 == layout.blocks.size();
    const int64_t size = (last ? layout.elements : layout.blocks[i + 1].offset) - block.offset;
    block.windowed = block.layer >= 0 && block.offset < layout.decay_elements;
    int64_t& at = block.windowed ? of_layer[block.layer] : kept;
    block.grad_offset = at;
    at += size;
    if (block.windowed) window = std::max(window, at);
  }
  for (ParamBlock& block : layout.blocks) {
    if (block.windowed) block.grad_offset += kept + block.layer % 2 * window;
  }
  layout.grad_elements = kept + 2 * window;
}

}  // namespace

bool gradients_in_windows(const plan::Layout& cut) {
  return cut.zero_stage == 2 && cut.pp == 1 && cut.cp * cut.ep * cut.dp > 1;
}

ParamLayout param_layout(const spec::ModelSpec& model, const plan::Layout& cut,
                         const plan::RankPosition& position) {
  ParamLayout layout;
  layout.cut = cut;
  layout.position = position;
  std::map<std::string, size_t> by_name;
  std::vector<Draft> drafts;
  for (plan::TensorShard& shard : plan::rank_shards(model, cut, position)) {
    const Place place = place_of(shard.tensor, cut.tp > 1);
    const auto [found, added] = by_name.emplace(place.block, drafts.size());
    if (added) {
      drafts.emplace_back();
      drafts.back().block.name = place.block;
    }
    add_part(drafts[found->second], shard, place.order, layout.slices.size());
    layout.parameters += shard.box.num_elements();
    layout.slices.push_back({std::move(shard.tensor), shard.box, shard.cls, 0});
  }
  std::stable_sort(drafts.begin(), drafts.end(), [](const Draft& a, const Draft& b) {
    return std::make_tuple(!a.decay, !a.compute, a.block.cls, a.first) <
           std::make_tuple(!b.decay, !b.compute, b.block.cls, b.first);
  });
  for (Draft& draft : drafts) {
    draft.block.offset = layout.elements;
    std::sort(draft.parts.begin(), draft.parts.end());
    int64_t offset = draft.block.offset;
    for (const auto& [key, slice] : draft.parts) {
      layout.slices[slice].offset = offset;
      offset += layout.slices[slice].box.num_elements();
    }
    DSV3_CHECK(offset - draft.block.offset == draft.block.num_elements(), draft.block.name);
    layout.elements = (offset + kAlignElements - 1) / kAlignElements * kAlignElements;
    if (draft.compute) layout.compute_elements = layout.elements;
    if (draft.decay) layout.decay_elements = layout.elements;
    layout.blocks.push_back(std::move(draft.block));
  }
  place_gradients(layout);
  return layout;
}

}  // namespace dsv3::model
