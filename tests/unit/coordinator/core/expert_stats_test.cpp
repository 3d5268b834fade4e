// The worked example of the header (figures from a pocket calculator), the verdicts, and their
// independence of E.
#include "coordinator/core/expert_stats.h"

#include <gtest/gtest.h>

#include <vector>

namespace dsv3::core {
namespace {

TEST(ExpertStats, GiveTheWorkedExample) {
  const std::vector<uint64_t> counts = {30, 10, 20, 20};
  const ExpertStats s = expert_stats(counts);
  EXPECT_EQ(s.total, 80u);
  EXPECT_DOUBLE_EQ(s.usage_mean, 0.25);
  EXPECT_NEAR(s.usage_std, 0.0883883476, 1e-9);
  EXPECT_DOUBLE_EQ(s.usage_min, 0.125);
  EXPECT_DOUBLE_EQ(s.usage_max, 0.375);
  EXPECT_NEAR(s.entropy, 0.9528195312, 1e-9);
  EXPECT_NEAR(s.max_violation, 0.5, 1e-12);
  EXPECT_NEAR(s.cv, 0.3535533906, 1e-9);
  EXPECT_TRUE(s.dead.empty());
  EXPECT_EQ(s.verdict, "imbalanced");
}

TEST(ExpertStats, OfEvenUseAreTheSameForAnyNumberOfExperts) {
  for (const size_t num_experts : {1u, 2u, 8u, 256u}) {
    const ExpertStats s = expert_stats(std::vector<uint64_t>(num_experts, 1000));
    EXPECT_NEAR(s.entropy, 1.0, 1e-12) << num_experts;
    EXPECT_NEAR(s.max_violation, 0.0, 1e-12);
    EXPECT_NEAR(s.cv, 0.0, 1e-12);
    EXPECT_EQ(s.verdict, "excellent");
  }
}

TEST(ExpertStats, OfTheSameUnevennessHaveTheSameVerdictAtEightAndTwoHundredFiftySix) {
  for (const size_t num_experts : {8u, 256u}) {
    std::vector<uint64_t> counts(num_experts, 1000);
    for (size_t i = 0; i < num_experts; i += 2) counts[i] = 1300;
    // Halves of 1000 and 1300: mean 1150, deviation 150, cv 0.1304, violation 300/2300.
    const ExpertStats s = expert_stats(counts);
    EXPECT_NEAR(s.cv, 150.0 / 1150.0, 1e-12);
    EXPECT_NEAR(s.max_violation, 150.0 / 1150.0, 1e-12);
    EXPECT_EQ(s.verdict, "good");
  }
}

TEST(ExpertStats, FindDeadExpertsBelowATenthOfTheMean) {
  // Mean (100 + 100 + 9 + 191) / 4 = 100: 9 is dead; with 10 and 190 nobody is.
  const std::vector<uint64_t> counts = {100, 100, 9, 191};
  EXPECT_EQ(expert_stats(counts).dead, std::vector<int32_t>{2});
  EXPECT_EQ(expert_stats(counts).verdict, "dead experts");
  const std::vector<uint64_t> alive = {100, 100, 10, 190};
  EXPECT_TRUE(expert_stats(alive).dead.empty());
}

TEST(ExpertStats, WithoutTokensAreIdleNotNan) {
  const ExpertStats s = expert_stats(std::vector<uint64_t>(4, 0));
  EXPECT_EQ(s.verdict, "idle");
  EXPECT_EQ(s.entropy, 0.0);
  EXPECT_EQ(s.max_violation, 0.0);
  EXPECT_TRUE(s.dead.empty());
}

TEST(DroppedShare, IsOfAllChoicesAndZeroWithoutAny) {
  EXPECT_DOUBLE_EQ(dropped_share(30, 120), 0.25);
  EXPECT_EQ(dropped_share(0, 120), 0.0);
  EXPECT_EQ(dropped_share(7, 7), 1.0);
  EXPECT_EQ(dropped_share(0, 0), 0.0);
}

}  // namespace
}  // namespace dsv3::core
