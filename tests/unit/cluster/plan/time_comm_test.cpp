// Each exchange's equation by a worked example.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cluster/plan/comm_cost.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

constexpr Links kLinks{{100e9, 0}, {10e9, 0}};  // 100 GB/s inside, 10 GB/s between
constexpr Links kSlowStart{{100e9, 2e-6}, {10e9, 5e-6}};

TEST(CommGroup, LiesInNodesByTheRankOrder) {
  const Layout layout{.tp = 2, .pp = 2, .ep = 16, .dp = 2};
  EXPECT_EQ(group_shape(layout, kTpGroup, 8), (GroupShape{2, 1}));
  EXPECT_EQ(group_shape(layout, kEpGroup, 8), (GroupShape{4, 4}));
  EXPECT_EQ(group_shape(layout, kExpertShardGroup, 8), (GroupShape{8, 4}));
  EXPECT_EQ(group_shape(layout, kDenseDpGroup, 8), (GroupShape{4, 8}));
  EXPECT_EQ(group_shape(layout, kExpertDpGroup, 8), (GroupShape{1, 2}));
  EXPECT_EQ(group_shape(layout, kEpGroup, 0), (GroupShape{16, 1}));
}

TEST(CommGroup, AgreesWithTheRankGrid) {
  for (const Layout& layout :
       {Layout{.tp = 2, .ep = 4, .dp = 4}, Layout{.tp = 4, .cp = 2, .pp = 2, .ep = 2, .dp = 2},
        Layout{.tp = 8, .pp = 4, .dp = 2}, Layout{.ep = 32, .dp = 2}}) {
    const RankGrid grid(layout);
    for (const AxisSet axes :
         {kTpGroup, kEpGroup, kExpertShardGroup, kDenseGradGroup, kExpertGradGroup}) {
      const std::vector<int64_t> group = grid.group_of(0, axes);
      const GroupShape shape = group_shape(layout, axes, 8);
      const auto inside =
          std::count_if(group.begin(), group.end(), [](int64_t rank) { return rank < 8; });
      EXPECT_EQ(shape.size(), static_cast<int64_t>(group.size())) << to_string(layout);
      EXPECT_EQ(shape.inner, inside) << to_string(layout);
    }
  }
}

TEST(CommGather, InsideANodeIsARing) {
  EXPECT_DOUBLE_EQ(gather_seconds(1e9, {8, 1}, kLinks), 8.75e-3);  // 7/8 of 1 GB at 100 GB/s
  EXPECT_DOUBLE_EQ(gather_seconds(1e9, {8, 1}, kSlowStart), 8.75e-3 + 7 * 2e-6);
  EXPECT_DOUBLE_EQ(gather_seconds(1e9, {1, 1}, kSlowStart), 0);
}

TEST(CommGather, OverNodesEachRankCarriesItsShare) {
  // 7/8 of 1 GB inside, then 3/4 of an eighth at 10 GB/s; two steps between four nodes.
  EXPECT_DOUBLE_EQ(gather_seconds(1e9, {8, 4}, kLinks), 8.75e-3 + 0.75 * 0.125e9 / 10e9);
  EXPECT_DOUBLE_EQ(gather_seconds(0, {8, 4}, kSlowStart), 7 * 2e-6 + 2 * 5e-6);
  EXPECT_DOUBLE_EQ(all_reduce_seconds(1e9, {8, 4}, kLinks),
                   2 * gather_seconds(1e9, {8, 4}, kLinks));
}

TEST(CommExpert, GroupLimitedRoutingBoundsTheNodes) {
  const spec::MoeSpec v3 = testing::table_job("671b").model.moe;  // top-8, 4 of 8 groups
  EXPECT_NEAR(nodes_of_a_token(v3, 8), 4 * (1 - std::pow(0.75, 8)), 1e-12);
  EXPECT_NEAR(nodes_of_a_token(v3, 8), 3.6, 0.01);
  spec::MoeSpec free = v3;
  free.n_group = free.topk_group = 1;
  EXPECT_NEAR(nodes_of_a_token(free, 8), 5.25, 0.01);
  EXPECT_DOUBLE_EQ(nodes_of_a_token(v3, 1), 1);
  // Groups that span two nodes each: eight may be reached.
  EXPECT_NEAR(nodes_of_a_token(v3, 16), 8 * (1 - std::pow(7.0 / 8, 8)), 1e-12);
}

TEST(CommExpert, TakesTheSlowerOfNetworkAndNode) {
  const spec::MoeSpec v3 = testing::table_job("671b").model.moe;
  // 4096 tokens of 14,336 bytes, 64 ranks: 3.6 nodes · 7/8 over the network, 8 experts · 7/8
  // inside.
  const double sent = 4096.0 * 14336;
  const double network = sent * nodes_of_a_token(v3, 8) * 7 / 8 / 10e9;
  const double node = sent * 8 * 7 / 8 / 100e9;
  EXPECT_GT(network, node);
  EXPECT_DOUBLE_EQ(exchange_seconds(v3, 4096, 14336, {8, 8}, kLinks), network);
  EXPECT_DOUBLE_EQ(exchange_seconds(v3, 4096, 14336, {8, 1}, kSlowStart), node + 2e-6);
  EXPECT_DOUBLE_EQ(exchange_seconds(v3, 4096, 14336, {1, 1}, kSlowStart), 0);
}

TEST(CommSend, TakesItsBytesAndAStart) {
  EXPECT_DOUBLE_EQ(send_seconds(1e6, {1e9, 1e-5}), 1.01e-3);
}

}  // namespace
}  // namespace dsv3::plan
