// Mixed-radix arithmetic over the five axes; see rank_grid.h.
#include "cluster/plan/rank_grid.h"

#include <algorithm>

#include "base/check.h"

namespace dsv3::plan {

RankGrid::RankGrid(const Layout& layout)
    : sizes_{layout.tp, layout.cp, layout.ep, layout.dp, layout.pp} {
  for (int axis = 0; axis < kNumAxes; ++axis) {
    DSV3_CHECK(sizes_[axis] >= 1);
    strides_[axis] = world_size_;
    world_size_ *= sizes_[axis];
  }
}

RankPosition RankGrid::position(int64_t global_rank) const {
  DSV3_CHECK(global_rank >= 0 && global_rank < world_size_);
  const auto on = [&](Axis axis) {
    const int a = static_cast<int>(axis);
    return global_rank / strides_[a] % sizes_[a];
  };
  return {on(Axis::kTp), on(Axis::kCp), on(Axis::kEp), on(Axis::kDp), on(Axis::kPp)};
}

int64_t RankGrid::global_rank(const RankPosition& position) const {
  const std::array<int64_t, kNumAxes> at{position.tp_rank, position.cp_rank, position.ep_rank,
                                         position.dp_rank, position.pp_stage};
  int64_t rank = 0;
  for (int axis = 0; axis < kNumAxes; ++axis) {
    DSV3_CHECK(at[axis] >= 0 && at[axis] < sizes_[axis]);
    rank += at[axis] * strides_[axis];
  }
  return rank;
}

std::vector<int64_t> RankGrid::group_of(int64_t global_rank, AxisSet axes) const {
  DSV3_CHECK(global_rank >= 0 && global_rank < world_size_);
  int64_t first = global_rank;  // with every varying axis at 0
  for (int axis = 0; axis < kNumAxes; ++axis) {
    if (axes >> axis & 1) first -= global_rank / strides_[axis] % sizes_[axis] * strides_[axis];
  }
  std::vector<int64_t> group{first};
  for (int axis = 0; axis < kNumAxes; ++axis) {
    if (!(axes >> axis & 1)) continue;
    const std::vector<int64_t> base = group;
    for (int64_t i = 1; i < sizes_[axis]; ++i) {
      for (int64_t rank : base) group.push_back(rank + i * strides_[axis]);
    }
  }
  return group;  // ascending: slower axes are added later
}

std::vector<std::vector<int64_t>> RankGrid::groups(AxisSet axes) const {
  std::vector<std::vector<int64_t>> all;
  for (int64_t rank = 0; rank < world_size_; ++rank) {
    std::vector<int64_t> group = group_of(rank, axes);
    if (group.front() == rank) all.push_back(std::move(group));
  }
  return all;
}

}  // namespace dsv3::plan
