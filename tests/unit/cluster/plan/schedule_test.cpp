// The action lists are complete and hold what they say; the simulator agrees with the closed forms
// of equal stages, and its shortcut and bound with itself.
#include "cluster/plan/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace dsv3::plan {
namespace {

std::vector<PipelineShape> shapes() {
  std::vector<PipelineShape> all;
  for (const int64_t stages : {1, 2, 3, 4, 7, 8}) {
    for (const int64_t batches : {1, 2, 3, 8, 16, 21}) {
      for (const ScheduleKind kind :
           {ScheduleKind::kAfab, ScheduleKind::k1F1B, ScheduleKind::kZeroBubble}) {
        all.push_back({kind, stages, 1, batches});
      }
      for (const int64_t chunks : {2, 3, 5}) {
        if (stages > 1)
          all.push_back({ScheduleKind::kInterleaved, stages, chunks, batches * stages});
      }
    }
  }
  return all;
}

std::string name(const PipelineShape& shape) {
  return "schedule " + std::to_string(static_cast<int>(shape.schedule)) + " PP " +
         std::to_string(shape.stages) + " VPP " + std::to_string(shape.chunks) + " M " +
         std::to_string(shape.micro_batches);
}

// Chunks that a stage has gone forward with and not yet back, at most.
int64_t most_in_flight(const std::vector<Action>& actions) {
  int64_t now = 0, most = 0;
  for (const Action& action : actions) {
    if (action.kind == ActionKind::kForward) most = std::max(most, ++now);
    if (action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardInput) --now;
  }
  return most;
}

std::vector<ChunkTime> equal_times(const PipelineShape& shape, const ChunkTime& of_stage) {
  const double n = static_cast<double>(shape.chunks);
  return std::vector<ChunkTime>(
      static_cast<size_t>(shape.stages * shape.chunks),
      {of_stage.forward_s / n, of_stage.backward_s / n, of_stage.weight_s / n});
}

std::vector<ChunkTime> random_times(const PipelineShape& shape, std::mt19937& random) {
  std::uniform_real_distribution<double> draw(0.5, 2.0);
  std::vector<ChunkTime> times;
  for (int64_t i = 0; i < shape.stages * shape.chunks; ++i) {
    times.push_back({draw(random), draw(random), draw(random)});
  }
  return times;
}

TEST(Schedule, EveryMicroBatchOfEveryChunkGoesForwardAndBackOnce) {
  for (const PipelineShape& shape : shapes()) {
    for (int64_t stage = 0; stage < shape.stages; ++stage) {
      std::map<std::pair<int, int>, std::vector<ActionKind>> seen;
      for (const Action& action : stage_actions(shape, stage)) {
        seen[{action.micro_batch, action.chunk}].push_back(action.kind);
      }
      ASSERT_EQ(static_cast<int64_t>(seen.size()), shape.micro_batches * shape.chunks)
          << name(shape);
      const std::vector<ActionKind> whole{ActionKind::kForward, ActionKind::kBackward};
      const std::vector<ActionKind> split{ActionKind::kForward, ActionKind::kBackwardInput,
                                          ActionKind::kBackwardWeight};
      for (const auto& [which, kinds] : seen) {
        EXPECT_EQ(kinds, shape.schedule == ScheduleKind::kZeroBubble ? split : whole)
            << name(shape);
      }
    }
  }
}

TEST(Schedule, HoldsNoMoreInFlightThanItsPaperSays) {
  for (const PipelineShape& shape : shapes()) {
    for (int64_t stage = 0; stage < shape.stages; ++stage) {
      const int64_t held = most_in_flight(stage_actions(shape, stage));
      const int64_t all = shape.micro_batches * shape.chunks;
      int64_t most = shape.stages - stage;
      if (shape.schedule == ScheduleKind::kAfab) most = all;
      if (shape.schedule == ScheduleKind::kInterleaved) {
        most = 2 * (shape.stages - stage - 1) + (shape.chunks - 1) * shape.stages + 1;
      }
      EXPECT_EQ(held, std::min(all, most)) << name(shape) << " stage " << stage;
    }
  }
}

TEST(Schedule, OneForwardOneBackwardByHand) {
  // PP 2, M 3: the first stage goes forward twice before its first way back.
  const PipelineShape shape{ScheduleKind::k1F1B, 2, 1, 3};
  using enum ActionKind;
  const std::vector<Action> first{{kForward, 0}, {kForward, 1},  {kBackward, 0},
                                  {kForward, 2}, {kBackward, 1}, {kBackward, 2}};
  EXPECT_EQ(stage_actions(shape, 0), first);
  const std::vector<Action> last{{kForward, 0},  {kBackward, 0}, {kForward, 1},
                                 {kBackward, 1}, {kForward, 2},  {kBackward, 2}};
  EXPECT_EQ(stage_actions(shape, 1), last);
}

TEST(Schedule, InterleavedByHand) {
  // PP 2, VPP 2, M 2, last stage: two micro-batches through chunk 0, then through chunk 1, whose
  // ways back come first.
  const PipelineShape shape{ScheduleKind::kInterleaved, 2, 2, 2};
  using enum ActionKind;
  const std::vector<Action> last{{kForward, 0, 0},  {kForward, 1, 0}, {kForward, 0, 1},
                                 {kBackward, 0, 1}, {kForward, 1, 1}, {kBackward, 1, 1},
                                 {kBackward, 0, 0}, {kBackward, 1, 0}};
  EXPECT_EQ(stage_actions(shape, 1), last);
}

TEST(Schedule, BubblesOfEqualStagesAreTheClosedForms) {
  const double f = 1.0, b = 1.25, w = 0.75;
  for (const int64_t stages : {2, 4, 8}) {
    for (const int64_t rounds : {1, 2, 5}) {
      const int64_t batches = rounds * stages;
      const double work = static_cast<double>(batches) * (f + b + w);
      const double others = static_cast<double>(stages - 1);
      const auto bubble = [&](ScheduleKind kind, int64_t chunks, const ChunkTime& time) {
        const PipelineShape shape{kind, stages, chunks, batches};
        return simulate(shape, equal_times(shape, time), 0) -
               static_cast<double>(batches) * time.busy_s();
      };
      const ChunkTime time{f, b, w};
      EXPECT_NEAR(bubble(ScheduleKind::kAfab, 1, time), others * (f + b + w), 1e-9);
      EXPECT_NEAR(bubble(ScheduleKind::k1F1B, 1, time), others * (f + b + w), 1e-9);
      // As a share of the step: (PP − 1) / (M + PP − 1).
      EXPECT_NEAR(others * (f + b + w) / (work + others * (f + b + w)),
                  others / (static_cast<double>(batches) + others), 1e-12);
      for (const int64_t chunks : {2, 4}) {
        EXPECT_NEAR(bubble(ScheduleKind::kInterleaved, chunks, time),
                    others * (f + b + w) / static_cast<double>(chunks), 1e-9)
            << stages << " stages, " << chunks << " chunks, " << batches;
      }
      for (const ChunkTime& even : {ChunkTime{1, 1, 1}, ChunkTime{1, 1.5, 1}}) {
        EXPECT_NEAR(bubble(ScheduleKind::kZeroBubble, 1, even),
                    others * (even.forward_s + even.backward_s - even.weight_s), 1e-9)
            << stages << " stages, " << batches;
      }
    }
  }
}

TEST(Schedule, TheWorkedExampleOfTheHeader) {
  const PipelineShape shape{ScheduleKind::k1F1B, 4, 1, 8};
  EXPECT_DOUBLE_EQ(simulate(shape, equal_times(shape, {1, 1, 1}), 0), 33);
  const PipelineShape zero{ScheduleKind::kZeroBubble, 4, 1, 8};
  EXPECT_DOUBLE_EQ(simulate(zero, equal_times(zero, {1, 1, 1}), 0), 27);
}

TEST(Schedule, UnevenStagesWaitForTheSlowest) {
  // Two stages, F 1 and 2, no way back to speak of: 1 + 3·2 = 7 of work behind the first forward.
  const PipelineShape shape{ScheduleKind::kAfab, 2, 1, 3};
  EXPECT_DOUBLE_EQ(simulate(shape, {{1, 0, 0}, {2, 0, 0}}, 0), 7);
  // And each message takes its time: 1 + 0.5 + 3·2 forward, back again 0.5.
  EXPECT_DOUBLE_EQ(simulate(shape, {{1, 0, 0}, {2, 0, 0}}, 0.5), 8);
}

TEST(Schedule, SendingIsPaidInTheSteadyStateOf1F1B) {
  // PP 2, M 4, F = B = 1: a message of 0.1 each way is waited for more than once.
  const PipelineShape shape{ScheduleKind::k1F1B, 2, 1, 4};
  const std::vector<ChunkTime> times(2, {1, 1, 0});
  EXPECT_DOUBLE_EQ(simulate(shape, times, 0), 10);
  EXPECT_GT(simulate(shape, times, 0.1), 10.2 - 1e-9);
  EXPECT_LT(simulate(shape, times, 0.1), 10 + 8 * 0.1);
}

// Stages that differ by up to four times reach their steady state late: what is cut off then shows.
TEST(Schedule, TheShortcutIsTheSimulation) {
  std::mt19937 random(7);
  double worst = 0, worst_of_models = 0;
  for (int trial = 0; trial < 60; ++trial) {
    for (const ScheduleKind kind : {ScheduleKind::kAfab, ScheduleKind::k1F1B,
                                    ScheduleKind::kZeroBubble, ScheduleKind::kInterleaved}) {
      PipelineShape shape{kind, 2 + trial % 5, 1, 64 + 3 * trial};
      if (kind == ScheduleKind::kInterleaved) {
        shape.chunks = 2 + trial % 2;
        shape.micro_batches = shape.stages * (16 + 5 * (trial % 4));
      }
      const double send = trial % 3 * 0.01;
      const auto error = [&](const std::vector<ChunkTime>& times) {
        return std::abs(pipeline_seconds(shape, times, send) / simulate(shape, times, send) - 1);
      };
      worst = std::max(worst, error(random_times(shape, random)));
      // As models are: equal but for the ends.
      std::vector<ChunkTime> times = equal_times(shape, {1, 1.1, 0.9});
      for (ChunkTime* end : {&times.front(), &times.back()}) {
        *end = equal_times(shape, random_times(shape, random).front()).front();
      }
      worst_of_models = std::max(worst_of_models, error(times));
    }
  }
  EXPECT_LT(worst, 0.02);
  EXPECT_LT(worst_of_models, 0.003);
}

TEST(Schedule, TheShortcutIsExactForEqualStages) {
  for (const ScheduleKind kind :
       {ScheduleKind::k1F1B, ScheduleKind::kZeroBubble, ScheduleKind::kInterleaved}) {
    for (const int64_t batches : {32, 64, 240}) {
      const PipelineShape shape{kind, 4, kind == ScheduleKind::kInterleaved ? 3 : 1, batches};
      const std::vector<ChunkTime> times = equal_times(shape, {1, 1.1, 0.9});
      EXPECT_NEAR(pipeline_seconds(shape, times, 0.01), simulate(shape, times, 0.01), 1e-6)
          << name(shape);
    }
  }
}

TEST(Schedule, TheBoundIsNeverAboveTheTime) {
  std::mt19937 random(11);
  for (const PipelineShape& shape : shapes()) {
    for (const double send : {0.0, 0.3}) {
      const std::vector<ChunkTime> times = random_times(shape, random);
      const double seconds = simulate(shape, times, send);
      EXPECT_LE(pipeline_bound(shape, times, send), seconds * (1 + 1e-12)) << name(shape);
      EXPECT_LE(pipeline_bound(shape, times, send), pipeline_seconds(shape, times, send) + 1e-9);
    }
  }
}

TEST(Schedule, AReplayOfTheModelsTimesIsTheSimulation) {
  std::mt19937 random(5);
  for (const PipelineShape& shape : shapes()) {
    const std::vector<ChunkTime> times = random_times(shape, random);
    std::vector<std::vector<double>> seconds(static_cast<size_t>(shape.stages));
    double busy = 0;
    for (int64_t stage = 0; stage < shape.stages; ++stage) {
      for (const Action& action : stage_actions(shape, stage)) {
        const ChunkTime& time = times[static_cast<size_t>(action.chunk * shape.stages + stage)];
        double taken = time.forward_s;
        if (action.kind == ActionKind::kBackward) taken = time.backward_s + time.weight_s;
        if (action.kind == ActionKind::kBackwardInput) taken = time.backward_s;
        if (action.kind == ActionKind::kBackwardWeight) taken = time.weight_s;
        seconds[static_cast<size_t>(stage)].push_back(taken);
        busy += taken;
      }
    }
    const Replay replayed = replay(shape, seconds, 0.1);
    EXPECT_DOUBLE_EQ(replayed.step_s, simulate(shape, times, 0.1)) << name(shape);
    EXPECT_NEAR(replayed.bubble(), 1 - busy / (static_cast<double>(shape.stages) * replayed.step_s),
                1e-12);
    if (shape.stages == 1) {
      EXPECT_NEAR(replayed.bubble(), 0, 1e-12);
    }
  }
}

TEST(Schedule, AReplaySeesTheOneActionThatWasSlow) {
  const PipelineShape shape{ScheduleKind::k1F1B, 2, 1, 2};
  // F0 F1 B0 B1 and F0 B0 F1 B1, a second each: the last stage waits 1 at the start and 0 after,
  // the first 1 before B0 and 1 before B1.
  std::vector<std::vector<double>> seconds(2, std::vector<double>(4, 1.0));
  EXPECT_DOUBLE_EQ(replay(shape, seconds, 0).step_s, 6);
  EXPECT_DOUBLE_EQ(replay(shape, seconds, 0).bubble(), 1.0 / 3);
  seconds[1][2] = 5;  // F1 of the last stage, which everything behind it waits for
  EXPECT_DOUBLE_EQ(replay(shape, seconds, 0).step_s, 10);
  EXPECT_DOUBLE_EQ(replay(shape, seconds, 0).busy_s[1], 8);
  seconds[1][2] = 1;
  seconds[0][1] = 1.5;  // F1 of the first, while the last has B0 to do: nothing waits for it
  EXPECT_DOUBLE_EQ(replay(shape, seconds, 0).step_s, 6);
}

TEST(Schedule, NamesAreThoseOfTheConfiguration) {
  EXPECT_EQ(schedule_kind("afab"), ScheduleKind::kAfab);
  EXPECT_EQ(schedule_kind("1f1b"), ScheduleKind::k1F1B);
  EXPECT_EQ(schedule_kind("interleaved"), ScheduleKind::kInterleaved);
  EXPECT_EQ(schedule_kind("zero_bubble"), ScheduleKind::kZeroBubble);
  EXPECT_EQ(schedule_kind("auto"), std::nullopt);
}

}  // namespace
}  // namespace dsv3::plan
