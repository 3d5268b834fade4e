// RankGrid against two oracles that share nothing with its arithmetic: loops over the five axes,
// slowest outside, and Megatron-Core's group generator written again from its description; for
// every way to cut up to 64 ranks over the axes.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "cluster/plan/rank_grid.h"

namespace dsv3::plan {
namespace {

using Ranks = std::vector<int64_t>;
using RankGroups = std::vector<Ranks>;

// Every (tp, cp, ep, dp, pp) with that product.
std::vector<Layout> factorings(int64_t world) {
  std::vector<Layout> all;
  const auto sizes = [](int64_t n) {
    Ranks divisors;
    for (int64_t d = 1; d <= n; ++d) {
      if (n % d == 0) divisors.push_back(d);
    }
    return divisors;
  };
  for (const int64_t tp : sizes(world))
    for (const int64_t cp : sizes(world / tp))
      for (const int64_t ep : sizes(world / tp / cp))
        for (const int64_t dp : sizes(world / tp / cp / ep))
          all.push_back({.tp = tp, .cp = cp, .pp = world / tp / cp / ep / dp, .ep = ep, .dp = dp});
  return all;
}

struct Place {
  int64_t on[kNumAxes];  // in the order of Axis
};

std::vector<Place> nested_loops(const Layout& l) {
  std::vector<Place> ranks;
  for (int64_t pp = 0; pp < l.pp; ++pp)
    for (int64_t dp = 0; dp < l.dp; ++dp)
      for (int64_t ep = 0; ep < l.ep; ++ep)
        for (int64_t cp = 0; cp < l.cp; ++cp)
          for (int64_t tp = 0; tp < l.tp; ++tp) ranks.push_back({{tp, cp, ep, dp, pp}});
  return ranks;
}

// Ranks that agree on every axis outside the set.
RankGroups agreeing(const std::vector<Place>& places, AxisSet axes) {
  std::map<Ranks, Ranks> by_rest;
  for (size_t rank = 0; rank < places.size(); ++rank) {
    Ranks rest;
    for (int axis = 0; axis < kNumAxes; ++axis) {
      if ((axes >> axis & 1) == 0) rest.push_back(places[rank].on[axis]);
    }
    by_rest[rest].push_back(static_cast<int64_t>(rank));
  }
  RankGroups groups;
  for (auto& [rest, members] : by_rest) groups.push_back(members);
  std::sort(groups.begin(), groups.end());
  return groups;
}

// Every communicator of runtime/comm/groups.h, by the axes that its header names.
constexpr AxisSet kTp = 1, kCp = 2, kEp = 4, kDp = 8, kPp = 16;
struct Named {
  const char* name;
  AxisSet ours, want;
};
constexpr Named kUsed[] = {
    {"world", kTpGroup | kCpGroup | kEpGroup | kExpertDpGroup | kPpGroup, 31},
    {"tensor", kTpGroup, kTp},
    {"context", kCpGroup, kCp},
    {"sequence", kTpGroup | kCpGroup, kTp | kCp},
    {"experts, etp 1", kExpertShardGroup, kEp | kTp},
    {"experts, etp TP", kEpGroup, kEp},
    {"pipeline", kPpGroup, kPp},
    {"replicated gradients", kDenseGradGroup | kTpGroup, kTp | kCp | kEp | kDp},
    {"dense gradients", kDenseGradGroup, kCp | kEp | kDp},
    {"expert gradients", kExpertGradGroup, kCp | kDp},
};

TEST(RankGridOracle, EveryFactoringOfUpTo64RanksIsTheNestedLoops) {
  int64_t layouts = 0;
  for (int64_t world = 1; world <= 64; ++world) {
    for (const Layout& layout : factorings(world)) {
      ++layouts;
      const RankGrid grid(layout);
      const std::vector<Place> places = nested_loops(layout);
      ASSERT_EQ(grid.world_size(), world);
      for (int64_t rank = 0; rank < world; ++rank) {
        const auto& [tp, cp, ep, dp, pp] = places[static_cast<size_t>(rank)].on;
        const RankPosition want{tp, cp, ep, dp, pp};
        ASSERT_EQ(grid.position(rank), want) << to_string(layout) << " rank " << rank;
        ASSERT_EQ(grid.global_rank(want), rank) << to_string(layout);
      }
      for (const Named& used : kUsed) {
        ASSERT_EQ(used.ours, used.want) << used.name;
        const RankGroups want = agreeing(places, used.want);
        ASSERT_EQ(grid.groups(used.ours), want) << to_string(layout) << " " << used.name;
        for (const Ranks& group : want) {
          for (const int64_t rank : group) ASSERT_EQ(grid.group_of(rank, used.ours), group);
        }
      }
    }
  }
  // Sum over n ≤ 64 of the ordered factorings of n into five: 64 is C(6 + 4, 4) = 210 of them.
  EXPECT_EQ(factorings(64).size(), 210u);
  EXPECT_EQ(factorings(60).size(), 15u * 5u * 5u);  // 2² · 3 · 5
  EXPECT_GT(layouts, 2000);
}

// Megatron-Core's generator (generate_masked_orthogonal_rank_groups): sizes innermost first, and a
// mask of those that vary in a group. A rank is Σ index · (product of the sizes before it); the
// group's number counts through the sizes outside the mask, the place in it through those inside,
// both innermost first.
RankGroups megatron(const Ranks& sizes, const std::vector<bool>& mask) {
  Ranks strides{1};
  for (const int64_t size : sizes) strides.push_back(strides.back() * size);
  // The rank that a number counted through the axes with that mask stands for.
  const auto offset = [&](int64_t number, bool inside) {
    int64_t rank = 0;
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
      if (mask[axis] != inside) continue;
      rank += number % sizes[axis] * strides[axis];
      number /= sizes[axis];
    }
    return rank;
  };
  int64_t members = 1;
  for (size_t axis = 0; axis < sizes.size(); ++axis) members *= mask[axis] ? sizes[axis] : 1;
  RankGroups groups(static_cast<size_t>(strides.back() / members));
  for (size_t number = 0; number < groups.size(); ++number) {
    for (int64_t i = 0; i < members; ++i) {
      groups[number].push_back(offset(static_cast<int64_t>(number), false) + offset(i, true));
    }
  }
  return groups;
}

TEST(RankGridOracle, TheGeneratorGivesMegatronsPublishedGroups) {
  // Sizes 2, 3, 4, the middle one data parallel.
  const RankGroups data = megatron({2, 3, 4}, {false, true, false});
  ASSERT_EQ(data.size(), 8u);
  EXPECT_EQ(data.front(), (Ranks{0, 2, 4}));
  EXPECT_EQ(data.back(), (Ranks{19, 21, 23}));
  // Order tp-pp-dp, 2 each.
  EXPECT_EQ(megatron({2, 2, 2}, {false, false, true}),
            (RankGroups{{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
  // The first of them in our order, as dense data parallelism: TP 2, EP·DP 3, PP 4.
  for (const Layout& layout :
       {Layout{.tp = 2, .pp = 4, .dp = 3}, Layout{.tp = 2, .pp = 4, .ep = 3}})
    EXPECT_EQ(RankGrid(layout).groups(kDenseDpGroup), data) << to_string(layout);
}

// Their order "tp-cp-ep-dp-pp" in our words. Their dense grid has tp, cp, dp and pp, where dp is
// our EP·DP; the experts' grid tp, ep, dp and pp, where with expert tensor parallelism 1 the expert
// ranks are ours of EP·TP (with CP 1 the same ranks in the same order).
TEST(RankGridOracle, EveryFactoringHasMegatronsGroups) {
  for (int64_t world = 1; world <= 64; ++world) {
    for (const Layout& l : factorings(world)) {
      const RankGrid grid(l);
      const Ranks dense{l.tp, l.cp, l.dense_dp(), l.pp};
      ASSERT_EQ(grid.groups(kTpGroup), megatron(dense, {true, false, false, false}));
      ASSERT_EQ(grid.groups(kCpGroup), megatron(dense, {false, true, false, false}));
      ASSERT_EQ(grid.groups(kDenseDpGroup), megatron(dense, {false, false, true, false}));
      ASSERT_EQ(grid.groups(kPpGroup), megatron(dense, {false, false, false, true}));
      ASSERT_EQ(grid.groups(kTpGroup | kCpGroup), megatron(dense, {true, true, false, false}));
      ASSERT_EQ(grid.groups(kDenseGradGroup), megatron(dense, {false, true, true, false}));
      if (l.cp > 1) continue;
      const Ranks expert{l.tp * l.ep, l.dp, l.pp};
      ASSERT_EQ(grid.groups(kExpertShardGroup), megatron(expert, {true, false, false}));
      ASSERT_EQ(grid.groups(kExpertDpGroup), megatron(expert, {false, true, false}));
    }
  }
}

}  // namespace
}  // namespace dsv3::plan
