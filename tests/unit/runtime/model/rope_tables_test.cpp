// Rotary angles and the softmax scale, against the worked example of rope_tables.h and the plain
// definition.
#include "runtime/model/rope_tables.h"

#include <gtest/gtest.h>

#include <cmath>

namespace dsv3::model {
namespace {

spec::MlaSpec deepseek_v3() {
  spec::MlaSpec mla;
  mla.rope_scaling = {.type = "yarn",
                      .factor = 40,
                      .original_max_position = 4096,
                      .mscale = 1,
                      .mscale_all_dim = 1};
  return mla;
}

TEST(RopeTables, PlainAnglesArePositionTimesFrequency) {
  spec::MlaSpec mla;
  mla.qk_rope_head_dim = 8;
  const RopeTables tables = rope_tables(mla, 5);
  ASSERT_EQ(tables.cos.size(), 5u * 4u);
  for (int position = 0; position < 5; ++position) {
    for (int j = 0; j < 4; ++j) {
      const double angle = position * std::pow(10000.0, -2.0 * j / 8);
      EXPECT_NEAR(tables.cos[static_cast<size_t>(position * 4 + j)], std::cos(angle), 1e-7);
      EXPECT_NEAR(tables.sin[static_cast<size_t>(position * 4 + j)], std::sin(angle), 1e-7);
    }
  }
}

TEST(RopeTables, YarnKeepsFastPairsAndStretchesSlowOnes) {
  const spec::MlaSpec mla = deepseek_v3();  // low 10, high 23: the header's example
  const RopeTables tables = rope_tables(mla, 2);
  const auto angle = [&](int j) {
    return std::atan2(tables.sin[static_cast<size_t>(32 + j)],
                      tables.cos[static_cast<size_t>(32 + j)]);
  };
  const auto plain = [](int j) { return std::pow(10000.0, -2.0 * j / 64); };
  EXPECT_NEAR(angle(10), plain(10), 1e-6);
  EXPECT_NEAR(angle(23), plain(23) / 40, 1e-8);
  EXPECT_NEAR(angle(31), plain(31) / 40, 1e-8);
  const double ramp = (15.0 - 10.0) / 13.0;
  EXPECT_NEAR(angle(15), plain(15) * (1 - ramp) + plain(15) / 40 * ramp, 1e-7);
}

TEST(RopeTables, TheSoftmaxScaleOfDeepseekV3) {
  EXPECT_NEAR(softmax_scale(deepseek_v3()), 0.135234, 1e-6);
  EXPECT_NEAR(softmax_scale(spec::MlaSpec{}), 1 / std::sqrt(192.0), 1e-7);
}

TEST(RopeTables, NoRotaryPartHasNoTable) {
  spec::MlaSpec mla;
  mla.qk_rope_head_dim = 0;
  EXPECT_TRUE(rope_tables(mla, 7).cos.empty());
}

}  // namespace
}  // namespace dsv3::model
