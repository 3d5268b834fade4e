// The pipeline's stages, as processes, compute what one process computes: every schedule, with
// several chunks, MTP modules or none, stages with and without experts; and its memory is made
// once.
#include "runtime/parallel/pipeline.h"

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "tests/unit/runtime/pipeline/layout_run.h"

namespace dsv3::parallel {
namespace {

using testing_support::deep_job;
using testing_support::Difference;
using testing_support::largest_difference;
using testing_support::LayoutRun;
using testing_support::Outcome;
using testing_support::run_alone;
using testing_support::run_ranks_of;

struct Case {
  const char* name;
  int64_t stages = 2;
  const char* schedule = "1f1b";
  int64_t chunks = 1;
  int64_t micro_batches = 4;
  int64_t layers = 4;
  int64_t dense = 1;
  int64_t mtp = 1;
  model::Recompute recompute = model::Recompute::kNone;
  bool large = false;  // what travels is more than a socket holds
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

LayoutRun run_of(const Case& c) {
  LayoutRun run{.job = deep_job(c.layers, c.dense, c.mtp), .sequences = c.micro_batches};
  run.layout.pp = c.stages;
  run.layout.schedule = c.schedule;
  run.layout.virtual_stages = c.chunks;
  run.layout.zero_stage = 0;
  run.recompute = c.recompute;
  if (c.large) {
    run.job.model.d_model = 1024;
    run.job.training.seq_length = 1024;  // messages of 4 MiB
  }
  return run;
}

void expect_equal(const LayoutRun& run, const Outcome& ranks, const Outcome& alone) {
  for (size_t i = 0; i < alone.scalars.size(); ++i)
    EXPECT_NEAR(ranks.scalars[i], alone.scalars[i], 1e-6 * std::fabs(alone.scalars[i])) << i;
  EXPECT_GT(alone.scalars[0], 0);
  EXPECT_EQ(ranks.counts, alone.counts);
  const Difference difference = largest_difference(run, ranks, alone);
  EXPECT_LT(difference.value, 1e-5) << difference.where;
}

class PipelineCases : public ::testing::TestWithParam<Case> {};

TEST_P(PipelineCases, GiveTheNumbersOfOneProcess) {
  const LayoutRun run = run_of(GetParam());
  LayoutRun none = run;
  none.recompute = model::Recompute::kNone;
  const Outcome ranks = run_ranks_of(run), alone = run_alone(none);
  expect_equal(run, ranks, alone);
  const plan::PipelineShape shape{*plan::schedule_kind(run.layout.schedule), run.layout.pp,
                                  run.layout.virtual_stages, GetParam().micro_batches};
  for (size_t stage = 0; stage < ranks.actions.size(); ++stage) {
    EXPECT_EQ(ranks.new_allocations[stage], 0) << stage;
    EXPECT_EQ(ranks.actions[stage],
              static_cast<int64_t>(stage_actions(shape, static_cast<int64_t>(stage)).size()));
  }
}

constexpr auto kFull = model::Recompute::kFull;
constexpr auto kSelective = model::Recompute::kSelective;
INSTANTIATE_TEST_SUITE_P(
    Schedules, PipelineCases,
    ::testing::Values(
        Case{.name = "Afab2", .schedule = "afab"},
        Case{.name = "OneForwardOneBackward2", .layers = 3},
        Case{.name = "OneForwardOneBackward4", .stages = 4, .micro_batches = 8},
        Case{.name = "ZeroBubble2", .schedule = "zero_bubble"},
        Case{.name = "ZeroBubble4", .stages = 4, .schedule = "zero_bubble", .micro_batches = 8},
        Case{.name = "Interleaved2", .schedule = "interleaved", .chunks = 2},
        Case{.name = "Interleaved2By4",
             .schedule = "interleaved",
             .chunks = 4,
             .micro_batches = 8,
             .layers = 8},
        Case{.name = "Interleaved4",
             .stages = 4,
             .schedule = "interleaved",
             .chunks = 2,
             .micro_batches = 8,
             .layers = 8},
        Case{.name = "FewerMicroBatchesThanStages", .stages = 4, .micro_batches = 2},
        Case{.name = "NoMtp", .schedule = "zero_bubble", .mtp = 0},
        Case{.name = "TwoMtpDepths", .mtp = 2}, Case{.name = "AStageWithoutExperts", .dense = 2},
        Case{.name = "AStageWithoutDenseLayers", .stages = 4, .dense = 1},
        Case{.name = "NoExperts", .dense = 4, .mtp = 0},
        Case{.name = "FullRecomputation", .recompute = kFull},
        Case{.name = "FullRecomputationZeroBubble", .schedule = "zero_bubble", .recompute = kFull},
        Case{.name = "SelectiveZeroBubble", .schedule = "zero_bubble", .recompute = kSelective},
        Case{.name = "SelectiveInterleaved",
             .schedule = "interleaved",
             .chunks = 2,
             .recompute = kSelective},
        Case{.name = "LargeZeroBubble",
             .schedule = "zero_bubble",
             .layers = 2,
             .dense = 2,
             .mtp = 0,
             .large = true},
        Case{.name = "LargeInterleaved",
             .schedule = "interleaved",
             .chunks = 2,
             .dense = 4,
             .mtp = 0,
             .large = true}),
    [](const auto& info) { return info.param.name; });

// The first stage of 1F1B holds as many micro-batches as there are stages, all-forward-all-backward
// holds them all.
TEST(Pipeline, HoldsNoMoreThanItsScheduleHasInFlight) {
  const Case one{.name = "", .micro_batches = 8},
      all{.name = "", .schedule = "afab", .micro_batches = 8};
  const Outcome few = run_ranks_of(run_of(one)), many = run_ranks_of(run_of(all));
  const auto ratio =
      static_cast<double>(many.activation_bytes[0]) / static_cast<double>(few.activation_bytes[0]);
  EXPECT_NEAR(ratio, 8.0 / 2.0, 0.2);
}

}  // namespace
}  // namespace dsv3::parallel
