// The model's gradients under every ZeRO stage are one process's: what each rank updates with,
// after several micro-batches of a real backward pass.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/runtime/pipeline/layout_run.h"

namespace dsv3::parallel {
namespace {

using namespace testing_support;

struct Case {
  const char* name;
  plan::Layout layout;
};

class ZeroModel : public ::testing::TestWithParam<Case> {};

TEST_P(ZeroModel, GradientsAreThoseOfOneProcess) {
  LayoutRun run{.job = deep_job(4, 1, 1), .layout = GetParam().layout};
  const Outcome alone = run_alone(run);
  for (const int64_t zero_stage : {0, 1, 2}) {
    run.layout.zero_stage = zero_stage;
    const Outcome ranks = run_ranks_of(run);
    for (size_t i = 0; i < alone.scalars.size(); ++i)
      EXPECT_NEAR(ranks.scalars[i], alone.scalars[i], 1e-6 * std::fabs(alone.scalars[i])) << i;
    const Difference difference = largest_difference(run, ranks, alone);
    EXPECT_LT(difference.value, 1e-5) << difference.where << ", ZeRO " << zero_stage;
    for (const int64_t allocations : ranks.new_allocations) EXPECT_EQ(allocations, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, ZeroModel,
                         ::testing::Values(Case{"Dp2", {.dp = 2}}, Case{"Dp4", {.dp = 4}}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace dsv3::parallel
