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

// The block that a tensor is a part of.
Place place_of(const spec::TensorInfo& info) {
  std::string name = info.name;
  replace_suffix(name, ".weight", "");
  if (info.expert >= 0) {
    const std::string expert = ".experts." + std::to_string(info.expert) + ".";
    const size_t at = name.find(expert);
    DSV3_CHECK(at != std::string::npos, name);
    name.replace(at, expert.size(), ".experts.");
  }
  if (replace_suffix(name, "self_attn.q_a_proj", "self_attn.in_proj")) return {name, 0};
  if (replace_suffix(name, "self_attn.q_proj", "self_attn.in_proj")) return {name, 0};
  if (replace_suffix(name, "self_attn.kv_a_proj_with_mqa", "self_attn.in_proj")) return {name, 1};
  if (replace_suffix(name, ".gate_proj", ".gate_up_proj")) return {name, 0};
  if (replace_suffix(name, ".up_proj", ".gate_up_proj")) return {name, 1};
  return {name, 0};
}

struct Draft {
  ParamBlock block;
  std::vector<std::pair<std::pair<int64_t, int>, size_t>> parts;  // ((expert, order), slice)
  bool decay = true;
  bool expert = false;
  size_t first = 0;  // position of its first tensor in the model
};

void add_part(Draft& draft, const spec::TensorInfo& info, int order, size_t slice) {
  const bool first = draft.parts.empty();
  const int64_t cols = info.shape.back();
  DSV3_CHECK(info.shape.size() <= 2, info.name);
  const int64_t rows = info.shape.size() == 2 ? info.shape[0] : 1;
  if (first) {
    draft.block.cols = cols;
    draft.decay = info.weight_decay;
    draft.expert = info.group == spec::ParamGroup::kExpert;
    draft.first = slice;
  }
  DSV3_CHECK(draft.block.cols == cols && draft.decay == info.weight_decay, info.name);
  draft.block.groups = std::max(draft.block.groups, info.expert + 1);
  if (info.expert <= 0) draft.block.rows += rows;
  draft.parts.push_back({{info.expert, order}, slice});
}

}  // namespace

ParamLayout param_layout(const spec::ModelSpec& model, const plan::Layout& cut,
                         const plan::RankPosition& position) {
  ParamLayout layout;
  layout.cut = cut;
  layout.position = position;
  std::map<std::string, size_t> by_name;
  std::vector<Draft> drafts;
  for (spec::TensorInfo& info : spec::model_tensors(model)) {
    const Place place = place_of(info);
    const auto [found, added] = by_name.emplace(place.block, drafts.size());
    if (added) {
      drafts.emplace_back();
      drafts.back().block.name = place.block;
    }
    add_part(drafts[found->second], info, place.order, layout.slices.size());
    layout.parameters += info.num_elements();
    const int64_t rows = info.shape.size() == 2 ? info.shape[0] : 1, cols = info.shape.back();
    layout.slices.push_back({std::move(info), {0, rows, 0, cols}, plan::ParamClass::kDense, 0});
  }
  std::stable_sort(drafts.begin(), drafts.end(), [](const Draft& a, const Draft& b) {
    return std::make_tuple(!a.decay, a.expert, a.first) <
           std::make_tuple(!b.decay, b.expert, b.first);
  });
  for (Draft& draft : drafts) {
    draft.block.offset = layout.elements;
    std::sort(draft.parts.begin(), draft.parts.end());
    int64_t offset = draft.block.offset;
    for (const auto& [key, slice] : draft.parts) {
      layout.slices[slice].offset = offset;
      offset += layout.slices[slice].info.num_elements();
    }
    DSV3_CHECK(offset - draft.block.offset == draft.block.num_elements(), draft.block.name);
    layout.elements = (offset + kAlignElements - 1) / kAlignElements * kAlignElements;
    if (draft.decay) layout.decay_elements = layout.elements;
    layout.blocks.push_back(std::move(draft.block));
  }
  return layout;
}

}  // namespace dsv3::model
