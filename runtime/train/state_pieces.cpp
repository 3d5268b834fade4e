// Slices of the flat buffers against owned ranges; see state_pieces.h.
#include "runtime/train/state_pieces.h"

#include <algorithm>

#include "base/check.h"
#include "runtime/checkpoint/checkpoint.h"

namespace dsv3::train {
namespace {

using parallel::Range;

// A range of flat elements, and where it begins in a buffer that holds some ranges end to end.
struct Owned {
  Range range;
  int64_t at = 0;
};

std::vector<Owned> end_to_end(const std::vector<Range>& ranges) {
  std::vector<Owned> owned;
  int64_t at = 0;
  for (const Range& range : ranges) {
    owned.push_back({range, at});
    at += range.size();
  }
  return owned;
}

// `ranges` (ascending) where `owned` (ascending) holds them too.
std::vector<Owned> cut(const std::vector<Range>& ranges, const std::vector<Owned>& owned) {
  std::vector<Owned> both;
  size_t i = 0;
  for (const Range& range : ranges) {
    while (i < owned.size() && owned[i].range.end <= range.begin) ++i;
    for (size_t j = i; j < owned.size() && owned[j].range.begin < range.end; ++j) {
      const Range common{std::max(range.begin, owned[j].range.begin),
                         std::min(range.end, owned[j].range.end)};
      both.push_back({common, owned[j].at + common.begin - owned[j].range.begin});
    }
  }
  return both;
}

class Pieces {
 public:
  explicit Pieces(const StateBuffers& state) : state_(state) {}

  // The weight's elements [begin, end) of the flat buffer, which lie in the slice: to save, from
  // where the master has them; to load.
  void saved_weight(const model::ParamSlice& slice, int64_t begin, int64_t end, int64_t at) {
    add(slice, begin, end, slice.info.name, state_.master, at, false);
  }
  void loaded_weight(const model::ParamSlice& slice) {
    const int64_t begin = slice.offset, end = begin + slice.box.num_elements();
    add(slice, begin, end, slice.info.name, {}, 0, false);
    pieces_.back().weight = begin;
  }
  void moments(const model::ParamSlice& slice, int64_t begin, int64_t end, int64_t moment) {
    const std::string& name = slice.info.name;
    add(slice, begin, end, checkpoint::exp_avg_name(name), state_.exp_avg, moment, true);
    add(slice, begin, end, checkpoint::exp_avg_sq_name(name), state_.exp_avg_sq, moment, true);
  }
  void buffers() {
    for (size_t i = 0; i < state_.buffer_infos.size(); ++i) {
      const spec::TensorInfo& info = state_.buffer_infos[i];
      pieces_.push_back({info.name, DType::kF32, info.shape, checkpoint::whole_box(info.shape), 0,
                         info.num_elements(), state_.buffer_data[i]});
    }
  }
  std::vector<StateTensor> take() { return std::move(pieces_); }

 private:
  void add(const model::ParamSlice& slice, int64_t begin, int64_t end, std::string name,
           const tensor::Tensor& flat, int64_t at, bool optimizer) {
    void* data = nullptr;
    if (!flat.empty()) {
      data =
          static_cast<std::byte*>(flat.data) + at * static_cast<int64_t>(dtype_bytes(flat.dtype));
    }
    const plan::Box& box = slice.box;
    pieces_.push_back({std::move(name),
                       flat.dtype,
                       slice.info.shape,
                       {box.row, box.rows, box.col, box.cols},
                       begin - slice.offset,
                       end - slice.offset,
                       data,
                       optimizer});
  }

  const StateBuffers& state_;
  std::vector<StateTensor> pieces_;
};

// Those of the ranges (ascending) that meet the slice, cut to it.
template <typename Use>
void within(const model::ParamSlice& slice, const std::vector<Owned>& owned, const Use& use) {
  const Range all{slice.offset, slice.offset + slice.box.num_elements()};
  auto at =
      std::upper_bound(owned.begin(), owned.end(), all.begin,
                       [](int64_t begin, const Owned& entry) { return begin < entry.range.end; });
  for (; at != owned.end() && at->range.begin < all.end; ++at) {
    const Range common{std::max(all.begin, at->range.begin), std::min(all.end, at->range.end)};
    use(common.begin, common.end, at->at + common.begin - at->range.begin);
  }
}

}  // namespace

std::vector<StateTensor> pieces_to_save(const StateBuffers& state, bool leads) {
  const std::vector<Range>& represented = state.ownership.represented;
  const std::vector<Owned> weights = cut(represented, end_to_end(state.master_ranges));
  const std::vector<Owned> moments = cut(represented, end_to_end(state.ownership.updated));
  Pieces pieces(state);
  for (const model::ParamSlice& slice : state.params.slices) {
    within(slice, weights, [&](int64_t begin, int64_t end, int64_t at) {
      pieces.saved_weight(slice, begin, end, at);
    });
    within(slice, moments, [&](int64_t begin, int64_t end, int64_t moment) {
      pieces.moments(slice, begin, end, moment);
    });
  }
  if (leads) pieces.buffers();
  return pieces.take();
}

std::vector<StateTensor> pieces_to_load(const StateBuffers& state) {
  const std::vector<Owned> updated = end_to_end(state.ownership.updated);
  Pieces pieces(state);
  for (const model::ParamSlice& slice : state.params.slices) {
    pieces.loaded_weight(slice);
    within(slice, updated, [&](int64_t begin, int64_t end, int64_t moment) {
      pieces.moments(slice, begin, end, moment);
    });
  }
  pieces.buffers();
  return pieces.take();
}

}  // namespace dsv3::train
