// RankGrid against an oracle that enumerates nested loops, slowest axis outside.
#include "cluster/plan/rank_grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace dsv3::plan {
namespace {

struct Seen {
  int64_t tp, cp, ep, dp, pp;
};

std::vector<Seen> enumerate(const Layout& l) {
  std::vector<Seen> ranks;
  for (int64_t pp = 0; pp < l.pp; ++pp)
    for (int64_t dp = 0; dp < l.dp; ++dp)
      for (int64_t ep = 0; ep < l.ep; ++ep)
        for (int64_t cp = 0; cp < l.cp; ++cp)
          for (int64_t tp = 0; tp < l.tp; ++tp) ranks.push_back({tp, cp, ep, dp, pp});
  return ranks;
}

Layout sized(int64_t tp, int64_t cp, int64_t pp, int64_t ep, int64_t dp) {
  return {.tp = tp, .cp = cp, .pp = pp, .ep = ep, .dp = dp};
}

const Layout kLayouts[] = {sized(1, 1, 1, 1, 1), sized(2, 1, 2, 2, 2), sized(3, 2, 2, 5, 1),
                           sized(4, 1, 3, 1, 2), sized(1, 2, 1, 3, 4), sized(2, 3, 2, 2, 3)};

TEST(RankGrid, PositionsFollowTheNestedLoops) {
  for (const Layout& layout : kLayouts) {
    const RankGrid grid(layout);
    const std::vector<Seen> oracle = enumerate(layout);
    ASSERT_EQ(grid.world_size(), static_cast<int64_t>(oracle.size()));
    for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
      const Seen& seen = oracle[static_cast<size_t>(rank)];
      const RankPosition want{seen.tp, seen.cp, seen.ep, seen.dp, seen.pp};
      EXPECT_EQ(grid.position(rank), want) << rank;
      EXPECT_EQ(grid.global_rank(want), rank);
    }
  }
}

// Groups of the oracle: ranks that agree on every axis that is not in the set.
std::vector<std::vector<int64_t>> oracle_groups(const Layout& layout, AxisSet axes) {
  const auto vary = [axes](Axis axis) { return (axes & axis_bit(axis)) != 0; };
  std::map<std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>, std::vector<int64_t>> by_key;
  int64_t rank = 0;
  for (const Seen& s : enumerate(layout)) {
    by_key[{vary(Axis::kPp) ? 0 : s.pp, vary(Axis::kDp) ? 0 : s.dp, vary(Axis::kEp) ? 0 : s.ep,
            vary(Axis::kCp) ? 0 : s.cp, vary(Axis::kTp) ? 0 : s.tp}]
        .push_back(rank++);
  }
  std::vector<std::vector<int64_t>> groups;
  for (auto& [key, members] : by_key) groups.push_back(members);
  std::sort(groups.begin(), groups.end());
  return groups;
}

TEST(RankGrid, GroupsAreTheRanksThatAgreeElsewhere) {
  for (const Layout& layout : kLayouts) {
    const RankGrid grid(layout);
    for (AxisSet axes = 0; axes < 1u << kNumAxes; ++axes) {
      EXPECT_EQ(grid.groups(axes), oracle_groups(layout, axes)) << "axes " << axes;
      for (const auto& group : grid.groups(axes)) {
        for (const int64_t rank : group) EXPECT_EQ(grid.group_of(rank, axes), group);
      }
    }
  }
}

// Case L01: 16 ranks, TP2 PP2 EP2 DP2.
TEST(RankGrid, SixteenRanksHaveThePublishedGroups) {
  const RankGrid grid(sized(2, 1, 2, 2, 2));
  const auto check = [&grid](AxisSet axes, std::vector<int64_t> first, size_t count) {
    const auto groups = grid.groups(axes);
    EXPECT_EQ(groups.front(), first);
    EXPECT_EQ(groups.size(), count);
  };
  check(kTpGroup, {0, 1}, 8);
  check(kEpGroup, {0, 2}, 8);
  check(kExpertDpGroup, {0, 4}, 8);
  check(kDenseDpGroup, {0, 2, 4, 6}, 4);
  check(kPpGroup, {0, 8}, 8);
}

// Megatron-Core's documented order "tp-cp-ep-dp-pp" for 16 GPUs with TP2 PP4: tensor groups [0,1]
// …, data groups [0,2], [1,3], …, pipeline groups [0,4,8,12], [1,5,9,13], …
// (parallel_state.initialize_model_parallel's docstring).
TEST(RankGrid, AgreesWithMegatronsDocumentedExample) {
  const RankGrid grid(sized(2, 1, 4, 1, 2));
  const std::vector<std::vector<int64_t>> data{{0, 2},  {1, 3},  {4, 6},   {5, 7},
                                               {8, 10}, {9, 11}, {12, 14}, {13, 15}};
  const std::vector<std::vector<int64_t>> pipeline{
      {0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}};
  EXPECT_EQ(grid.groups(kDenseDpGroup), data);
  EXPECT_EQ(grid.groups(kPpGroup), pipeline);
}

}  // namespace
}  // namespace dsv3::plan
