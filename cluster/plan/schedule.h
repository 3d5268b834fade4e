// Pipeline schedules as data: what each stage does, in order; and how long that takes.
//
// Laws: PURE. An action list is complete (every micro-batch of every chunk goes forward once and
// backward once) and runs without a deadlock; a rank's list depends on the shape alone, so the
// executor and the predictor read the same one. A stage sends without waiting for the receiver.
// 1F1B: PipeDream-Flush (Narayanan et al. 2021, arXiv 2104.04473), interleaved: the same paper;
// zero_bubble: ZB-H1 (Qi et al. 2023, arXiv 2401.10241), which holds no more than 1F1B does.
//
// Bubble beside M·(F + B + W) of equal stages, F, B, W of a whole stage, B without W:
//   afab, 1f1b    (PP − 1)(F + B + W)
//   interleaved   (PP − 1)(F + B + W) / VPP
//   zero_bubble   (PP − 1)(F + B − W) where F = W; B ≥ W
// With full recomputation what W needs isn't kept: it is part of B, zero_bubble's W does nothing,
// and its bubble is 1F1B's.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace dsv3::plan {

enum class ScheduleKind : uint8_t { kAfab, k1F1B, kInterleaved, kZeroBubble };

// "afab", "1f1b", "interleaved", "zero_bubble"; absent for any other word.
std::optional<ScheduleKind> schedule_kind(std::string_view name);

struct PipelineShape {
  ScheduleKind schedule = ScheduleKind::k1F1B;
  int64_t stages = 1;         // PP
  int64_t chunks = 1;         // VPP: of a rank; more than 1 under interleaved only
  int64_t micro_batches = 1;  // M; interleaved: a multiple of PP
  auto operator<=>(const PipelineShape&) const = default;
};

enum class ActionKind : uint8_t {
  kForward,
  kBackward,        // input and weight gradients together
  kBackwardInput,   // what the stage before waits for
  kBackwardWeight,  // any time after kBackwardInput
};

struct Action {
  ActionKind kind = ActionKind::kForward;
  int32_t micro_batch = 0;
  int32_t chunk = 0;  // of this rank; the model's virtual stage is chunk·PP + stage
  bool operator==(const Action&) const = default;
};

// What `stage` of the pipeline does in one step, in order.
std::vector<Action> stage_actions(const PipelineShape& shape, int64_t stage);

// Seconds of one micro-batch on one virtual stage.
struct ChunkTime {
  double forward_s = 0;
  double backward_s = 0;  // without the weight gradients
  double weight_s = 0;
  double busy_s() const { return forward_s + backward_s + weight_s; }
};

// From the first action's start to the last one's end: every action starts when its stage is free
// and what it needs has arrived, `send_s` after the neighbour made it. `times` are by virtual
// stage, stages·chunks of them. Work: actions, 3·M·PP·VPP at most.
// Example: 1f1b, 4 stages, 8 micro-batches, F 1, B and W 1 each, send 0: 8·3 + 3·3 = 33.
double simulate(const PipelineShape& shape, const std::vector<ChunkTime>& times, double send_s);

// What a recorded step would have taken without other delays than those of its actions: each
// stage's busy seconds, and the end of the last action.
struct Replay {
  double step_s = 0;
  std::vector<double> busy_s;  // by stage
  // The share of the stages' time in which they wait: 1 − Σ busy / (PP · step). 0 of an empty step.
  double bubble() const;
};
// The same as simulate() with a time for each action: seconds[stage][i] of the i-th of
// stage_actions(). So that what was recorded of a step (runtime/parallel/pipeline.h) is told apart:
// the schedule's own bubble, and what waiting there was beyond it.
// Example: 1f1b, 2 stages, 2 micro-batches, all 1 s: 6 s, 4 busy, bubble 1/3.
Replay replay(const PipelineShape& shape, const std::vector<std::vector<double>>& seconds,
              double send_s);

// The same as simulate() for many micro-batches: what fills and drains is simulated, and what
// repeats between is counted. Equal to simulate() up to exact_micro_batches(), and never below
// pipeline_bound(). Where stages are about equal it is exact; where they differ by four times,
// within 2 %.
int64_t exact_micro_batches(int64_t stages);  // 64, and at least 5 a stage
double pipeline_seconds(const PipelineShape& shape, const std::vector<ChunkTime>& times,
                        double send_s);

// No schedule of this kind takes less: each stage's work, after what reaches it first and before
// what it lets go last. Work: PP·VPP.
double pipeline_bound(const PipelineShape& shape, const std::vector<ChunkTime>& times,
                      double send_s);

}  // namespace dsv3::plan
