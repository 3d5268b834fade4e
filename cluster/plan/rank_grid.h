// RankGrid: global rank ⇄ position on the five axes, and every communication group. The one home of
// rank order.
//
// Law: rank = tp + TP·(cp + CP·(ep + EP·(dp + DP·pp))), so a TP group is contiguous and sits in one
// node, and pipeline neighbours are farthest apart. Example, TP2 PP2 EP2 DP2: rank 11 = 1 + 2·(0 +
// 1·(1 + 2·(0 + 2·1))) is tp 1, ep 1, dp 0, pp 1.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cluster/plan/layout.h"

namespace dsv3::plan {

enum class Axis { kTp, kCp, kEp, kDp, kPp };  // fastest first
inline constexpr int kNumAxes = 5;

// A set of axes, as a bit mask.
using AxisSet = uint32_t;
constexpr AxisSet axis_bit(Axis axis) {
  return 1u << static_cast<int>(axis);
}

// The groups that a job needs, each by the axes that vary inside it.
inline constexpr AxisSet kTpGroup = axis_bit(Axis::kTp);
inline constexpr AxisSet kCpGroup = axis_bit(Axis::kCp);
inline constexpr AxisSet kEpGroup = axis_bit(Axis::kEp);
inline constexpr AxisSet kPpGroup = axis_bit(Axis::kPp);
inline constexpr AxisSet kExpertDpGroup = axis_bit(Axis::kDp);
inline constexpr AxisSet kDenseDpGroup = axis_bit(Axis::kEp) | axis_bit(Axis::kDp);
// Gradients of dense parameters reduce over CP·EP·DP, those of experts over CP·DP.
inline constexpr AxisSet kDenseGradGroup = kDenseDpGroup | kCpGroup;
inline constexpr AxisSet kExpertGradGroup = kExpertDpGroup | kCpGroup;
// With etp 1 tokens go to experts on all ranks of EP·TP.
inline constexpr AxisSet kExpertShardGroup = kEpGroup | kTpGroup;

struct RankPosition {
  int64_t tp_rank = 0;
  int64_t cp_rank = 0;
  int64_t ep_rank = 0;
  int64_t dp_rank = 0;
  int64_t pp_stage = 0;
  bool operator==(const RankPosition&) const = default;
};

class RankGrid {
 public:
  // Every size of `layout` must be at least 1.
  explicit RankGrid(const Layout& layout);

  int64_t world_size() const { return world_size_; }
  // Requires 0 ≤ global_rank < world_size().
  RankPosition position(int64_t global_rank) const;
  // Inverse of position(); requires every coordinate within its axis.
  int64_t global_rank(const RankPosition& position) const;
  // Every group of that kind: members ascending, groups by their first member. Each rank is in
  // exactly one.
  std::vector<std::vector<int64_t>> groups(AxisSet axes) const;
  // The group of that kind that `global_rank` is in, ascending.
  std::vector<int64_t> group_of(int64_t global_rank, AxisSet axes) const;

 private:
  std::array<int64_t, kNumAxes> sizes_;    // in the order of Axis
  std::array<int64_t, kNumAxes> strides_;  // ranks between neighbours on the axis
  int64_t world_size_ = 1;
};

}  // namespace dsv3::plan
