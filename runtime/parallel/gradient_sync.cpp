// See gradient_sync.h.
#include "runtime/parallel/gradient_sync.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace dsv3::parallel {
namespace {

constexpr std::string_view kLayerPrefix = "model.layers.";

// The event after which nothing is added to a block any more. Norms and other vectors lie together
// at the end of the buffer and are small: they go with the end.
size_t event_of(const model::ParamBlock& block, const model::ParamLayout& layout,
                int64_t num_layers) {
  const auto last = static_cast<size_t>(num_layers) + 1;
  if (block.offset >= layout.decay_elements) return last;
  if (block.name == "lm_head") return 0;
  if (!block.name.starts_with(kLayerPrefix)) return last;
  const int64_t layer = std::strtoll(block.name.c_str() + kLayerPrefix.size(), nullptr, 10);
  DSV3_CHECK(layer >= 0 && layer < num_layers, block.name);
  return static_cast<size_t>(num_layers - layer);
}

// Joins `range` with its neighbours in `ranges`.
void join(std::vector<Range>* ranges, Range range) {
  for (size_t i = ranges->size(); i-- > 0;) {
    const Range& other = (*ranges)[i];
    if (other.end != range.begin && other.begin != range.end) continue;
    range = {std::min(range.begin, other.begin), std::max(range.end, other.end)};
    ranges->erase(ranges->begin() + static_cast<std::ptrdiff_t>(i));
  }
  ranges->push_back(range);
}

}  // namespace

std::vector<std::vector<Range>> gradient_schedule(const model::ParamLayout& layout,
                                                  int64_t num_layers, int64_t bytes_min) {
  const auto events = static_cast<size_t>(num_layers) + 2;
  std::vector<std::vector<Range>> complete(events), schedule(events);
  for (size_t i = 0; i < layout.blocks.size(); ++i) {
    // With the zeros that align the next block.
    const bool last = i + 1 == layout.blocks.size();
    const int64_t end = last ? layout.elements : layout.blocks[i + 1].offset;
    complete[event_of(layout.blocks[i], layout, num_layers)].push_back(
        {layout.blocks[i].offset, end});
  }
  std::vector<Range> waiting;
  for (size_t event = 0; event < events; ++event) {
    for (const Range& range : complete[event]) join(&waiting, range);
    std::vector<Range> small;
    for (const Range& range : waiting) {
      const bool due =
          event + 1 == events || (range.end - range.begin) * int64_t{sizeof(float)} >= bytes_min;
      (due ? schedule[event] : small).push_back(range);
    }
    waiting = std::move(small);
    std::sort(schedule[event].begin(), schedule[event].end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
  }
  return schedule;
}

GradientSync::GradientSync(model::ParamStore& params, const comm::Groups& groups,
                           const SyncOptions& options)
    : params_(params),
      lanes_(groups.dense),
      options_(options),
      schedule_(gradient_schedule(params.layout(), options.num_layers, options.bytes_min)) {
  DSV3_CHECK(!lanes_.empty());
  size_t ranges = 0;
  for (const std::vector<Range>& event : schedule_) ranges += event.size();
  for (size_t i = 0; i < ranges; ++i) names_.push_back(fmt::format("gradients/{}", i));
}

void GradientSync::start_until(size_t events) {
  for (; next_event_ < events; ++next_event_) {
    for (const Range& range : schedule_[next_event_]) {
      const comm::Buffer buffer{params_.grad().as<float>() + range.begin, range.end - range.begin,
                                DType::kF32};
      comm::Communicator& lane = *lanes_[next_range_ % lanes_.size()];
      lane.start_all_reduce(names_[next_range_++], buffer, comm::Reduce::kSum);
    }
  }
}

void GradientSync::head_done() {
  if (options_.overlap) start_until(1);
}

void GradientSync::layer_done(int64_t layer) {
  if (options_.overlap) start_until(static_cast<size_t>(options_.num_layers - layer) + 1);
}

void GradientSync::between_operations() {
  if (!options_.overlap) return;
  for (comm::Communicator* lane : lanes_) lane->progress();
}

void GradientSync::finish() {
  start_until(schedule_.size());
  for (comm::Communicator* lane : lanes_) lane->wait_all();
  next_event_ = 0;
  next_range_ = 0;
}

}  // namespace dsv3::parallel
