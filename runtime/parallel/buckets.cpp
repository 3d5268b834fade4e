// Which blocks are complete when, and how they are joined; see buckets.h.
#include "runtime/parallel/buckets.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace dsv3::parallel {
namespace {

using plan::ParamClass;

constexpr std::string_view kEmbedding = "model.embed_tokens";
constexpr int64_t kLine = 16;  // elements
constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));

// The event after which nothing is added to a block any more. Norms and other vectors lie together
// at the end of the buffer and are small: they go with the end.
int64_t event_of(const model::ParamBlock& block, const model::ParamLayout& params,
                 int64_t num_layers) {
  if (block.offset >= params.decay_elements) return end_event(num_layers);
  if (block.name == "lm_head") return 0;
  if (block.layer < 0) return end_event(num_layers);
  DSV3_CHECK(block.layer < num_layers, block.name);
  return layer_event(num_layers, block.layer);
}

// Where two classes are summed by the same ranks they are one.
ParamClass sum_class(ParamClass cls, const plan::Layout& cut) {
  const bool same = cls == ParamClass::kExpert ? cut.ep == 1 : cut.tp == 1;
  return same ? ParamClass::kDense : cls;
}

// Joins `bucket` with its neighbours in `buckets`.
void join(std::vector<Bucket>* buckets, Bucket bucket) {
  for (size_t i = buckets->size(); i-- > 0;) {
    const Bucket& other = (*buckets)[i];
    const bool touch =
        other.range.end == bucket.range.begin || bucket.range.end == other.range.begin;
    const bool alike = other.cls == bucket.cls && other.windowed == bucket.windowed;
    if (!touch || !alike || other.copied || bucket.copied) continue;
    bucket.range = {std::min(bucket.range.begin, other.range.begin),
                    std::max(bucket.range.end, other.range.end)};
    bucket.events.insert(bucket.events.end(), other.events.begin(), other.events.end());
    buckets->erase(buckets->begin() + static_cast<std::ptrdiff_t>(i));
  }
  std::sort(bucket.events.begin(), bucket.events.end());
  bucket.events.erase(std::unique(bucket.events.begin(), bucket.events.end()), bucket.events.end());
  buckets->push_back(std::move(bucket));
}

}  // namespace

int64_t layer_event(int64_t num_layers, int64_t layer) {
  return num_layers - layer;
}

int64_t end_event(int64_t num_layers) {
  return num_layers + 1;
}

std::vector<Bucket> gradient_buckets(const model::ParamLayout& params, const plan::Layout& cut,
                                     const BucketOptions& options) {
  const int64_t end = end_event(options.num_layers);
  std::vector<std::vector<Bucket>> complete(static_cast<size_t>(end) + 1);
  for (size_t i = 0; i < params.blocks.size(); ++i) {
    const model::ParamBlock& block = params.blocks[i];
    // With the zeros that align the next block.
    const bool last = i + 1 == params.blocks.size();
    const int64_t behind = last ? params.elements : params.blocks[i + 1].offset;
    const int64_t event = event_of(block, params, options.num_layers);
    complete[static_cast<size_t>(event)].push_back(
        {.range = {block.offset, behind},
         .cls = sum_class(block.cls, cut),
         .events = {event},
         .copied = options.copies && block.name == kEmbedding,
         .windowed = block.windowed});
  }
  std::vector<Bucket> buckets, waiting;
  for (int64_t event = 0; event <= end; ++event) {
    for (Bucket& bucket : complete[static_cast<size_t>(event)]) join(&waiting, std::move(bucket));
    std::vector<Bucket> due, small;
    for (Bucket& bucket : waiting) {
      const bool large = bucket.windowed || bucket.range.size() * kFloatBytes >= options.bytes_min;
      (large || event == end ? due : small).push_back(std::move(bucket));
    }
    waiting = std::move(small);
    std::sort(due.begin(), due.end(),
              [](const Bucket& a, const Bucket& b) { return a.range.begin < b.range.begin; });
    std::move(due.begin(), due.end(), std::back_inserter(buckets));
  }
  return buckets;
}

SumPlace sum_place(ParamClass cls, const plan::Layout& cut, const plan::RankPosition& position) {
  if (cls == ParamClass::kExpert)
    return {position.cp_rank + cut.cp * position.dp_rank, cut.cp * cut.dp};
  const int64_t index = position.cp_rank + cut.cp * (position.ep_rank + cut.ep * position.dp_rank);
  const int64_t ranks = cut.cp * cut.ep * cut.dp;
  if (cls == ParamClass::kDense) return {index, ranks};
  return {position.tp_rank + cut.tp * index, cut.tp * ranks};
}

Range piece_of(const Range& range, int64_t index, int64_t ranks) {
  DSV3_CHECK(range.size() % kLine == 0 && index >= 0 && index < ranks);
  const int64_t lines = range.size() / kLine;
  return {range.begin + kLine * (lines * index / ranks),
          range.begin + kLine * (lines * (index + 1) / ranks)};
}

}  // namespace dsv3::parallel
