// Every axis, alone and with others, computes what one process computes: losses, counts and every
// gradient, element by element.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "tests/unit/runtime/pipeline/layout_run.h"

namespace dsv3::parallel {
namespace {

using namespace testing_support;  // NOLINT: a test's own helpers

struct Case {
  const char* name;
  plan::Layout layout;
  model::Recompute recompute = model::Recompute::kNone;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class LayoutCases : public ::testing::TestWithParam<Case> {};

TEST_P(LayoutCases, GiveTheNumbersOfOneProcess) {
  LayoutRun run{.job = deep_job(4, 1, 1), .layout = GetParam().layout, .sequences = 8};
  run.layout.zero_stage = 0;
  const Outcome alone = run_alone(run);
  run.recompute = GetParam().recompute;
  const Outcome ranks = run_ranks_of(run);
  for (size_t i = 0; i < alone.scalars.size(); ++i)
    EXPECT_NEAR(ranks.scalars[i], alone.scalars[i], 1e-5 * std::fabs(alone.scalars[i])) << i;
  EXPECT_EQ(ranks.counts, alone.counts);
  const Difference difference = largest_difference(run, ranks, alone);
  EXPECT_LT(difference.value, 1e-4) << difference.where;
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, LayoutCases,
    ::testing::Values(
        Case{"Tp2", {.tp = 2}}, Case{"Tp2Etp2", {.tp = 2, .etp = 2}}, Case{"Cp2", {.cp = 2}},
        Case{"Ep2", {.ep = 2}}, Case{"Dp2", {.dp = 2}}, Case{"Tp2Ep2", {.tp = 2, .ep = 2}},
        Case{"Tp2Cp2", {.tp = 2, .cp = 2}}, Case{"Tp2Pp2", {.tp = 2, .pp = 2}},
        Case{"Ep2Dp2", {.ep = 2, .dp = 2}},
        Case{"Tp2Ep2Etp2", {.tp = 2, .ep = 2, .etp = 2}, model::Recompute::kSelective},
        Case{"Cp2Pp2Interleaved",
             {.cp = 2, .pp = 2, .schedule = "interleaved", .virtual_stages = 2}},
        Case{"Ep2Pp2ZeroBubble", {.pp = 2, .ep = 2, .schedule = "zero_bubble"}},
        Case{"Tp2Full", {.tp = 2}, model::Recompute::kFull},
        Case{"Ep2Full", {.ep = 2}, model::Recompute::kFull},
        Case{"Tp2Cp2SelectiveZeroBubble",
             {.tp = 2, .cp = 2, .pp = 2, .schedule = "zero_bubble"},
             model::Recompute::kSelective},
        Case{"Tp2Pp2Ep2", {.tp = 2, .pp = 2, .ep = 2}},
        Case{"Tp2Pp2Ep2Full", {.tp = 2, .pp = 2, .ep = 2, .etp = 2}, model::Recompute::kFull}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace dsv3::parallel
