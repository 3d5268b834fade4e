// The counter-based generator against the published Philox4x32-10 vectors, and what is derived from
// it.
#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace dsv3 {
namespace {

// Known-answer vectors of the Random123 distribution (Salmon et al., SC'11).
TEST(Philox, MatchesPublishedVectors) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(
      philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
      (Block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(CounterRng, IsAFunctionOfSeedKeyAndIndexAlone) {
  const CounterRng a(7, name_key("model.norm.weight")), b(7, name_key("model.norm.weight"));
  EXPECT_EQ(a.bits(12345678901ull), b.bits(12345678901ull));
  EXPECT_NE(a.bits(1), a.bits(2));
  EXPECT_NE(a.bits(1), CounterRng(8, name_key("model.norm.weight")).bits(1));
  EXPECT_NE(a.bits(1), CounterRng(7, name_key("lm_head.weight")).bits(1));
}

TEST(CounterRng, NormalHasUnitVarianceAndNoMean) {
  const CounterRng rng(1, 2);
  double sum = 0, squares = 0;
  constexpr int kSamples = 200000;
  for (int i = 0; i < kSamples; ++i) {
    const double x = rng.normal(static_cast<uint64_t>(i));
    sum += x;
    squares += x * x;
  }
  // Five standard errors: 5/sqrt(n) for the mean, 5·sqrt(2/n) for the variance.
  EXPECT_NEAR(sum / kSamples, 0.0, 5 / std::sqrt(kSamples));
  EXPECT_NEAR(squares / kSamples, 1.0, 5 * std::sqrt(2.0 / kSamples));
}

TEST(CounterRng, BelowStaysInRangeAndReachesAllValues) {
  const CounterRng rng(3, 4);
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 1000; ++i) seen.insert(rng.below(i, 7));
  EXPECT_EQ(seen.size(), 7u);
  EXPECT_EQ(*seen.rbegin(), 6u);
}

}  // namespace
}  // namespace dsv3
