// The action lists; see schedule.h. How long they take is schedule_time.cpp's.
#include "cluster/plan/schedule.h"

#include <algorithm>

#include "base/check.h"

namespace dsv3::plan {
namespace {

Action action(ActionKind kind, int64_t micro_batch, int64_t chunk = 0) {
  return {kind, static_cast<int32_t>(micro_batch), static_cast<int32_t>(chunk)};
}

std::vector<Action> afab(const PipelineShape& shape) {
  std::vector<Action> actions;
  actions.reserve(static_cast<size_t>(2 * shape.micro_batches));
  for (int64_t m = 0; m < shape.micro_batches; ++m) {
    actions.push_back(action(ActionKind::kForward, m));
  }
  for (int64_t m = 0; m < shape.micro_batches; ++m) {
    actions.push_back(action(ActionKind::kBackward, m));
  }
  return actions;
}

std::vector<Action> one_forward_one_backward(const PipelineShape& shape, int64_t stage) {
  std::vector<Action> actions;
  actions.reserve(static_cast<size_t>(2 * shape.micro_batches));
  const int64_t ahead = std::min(shape.micro_batches, shape.stages - stage - 1);
  for (int64_t m = 0; m < shape.micro_batches + ahead; ++m) {
    if (m < shape.micro_batches) actions.push_back(action(ActionKind::kForward, m));
    if (m >= ahead) actions.push_back(action(ActionKind::kBackward, m - ahead));
  }
  return actions;
}

// 1F1B with each weight gradient `stage` micro-batches after its input gradient: the later a
// stage's gradients are needed by the stages before it, the longer its weight gradients wait, and
// they fill what would be the bubble at the end.
std::vector<Action> zero_bubble(const PipelineShape& shape, int64_t stage) {
  std::vector<Action> actions;
  actions.reserve(static_cast<size_t>(3 * shape.micro_batches));
  const int64_t last = shape.micro_batches;
  const int64_t ahead = std::min(last, shape.stages - stage - 1);
  for (int64_t m = 0; m < last + ahead; ++m) {
    if (m < last) actions.push_back(action(ActionKind::kForward, m));
    if (m < ahead) continue;
    actions.push_back(action(ActionKind::kBackwardInput, m - ahead));
    const int64_t weight = m - ahead - stage;
    if (weight >= 0) actions.push_back(action(ActionKind::kBackwardWeight, weight));
  }
  for (int64_t m = std::max<int64_t>(0, last - stage); m < last; ++m) {
    actions.push_back(action(ActionKind::kBackwardWeight, m));
  }
  return actions;
}

// The k-th pass of a stage: PP micro-batches through chunk 0, the same through chunk 1, …, then the
// next PP micro-batches.
Action interleaved_pass(const PipelineShape& shape, int64_t k, bool forward) {
  const int64_t group = shape.stages * shape.chunks;
  const int64_t chunk = k % group / shape.stages;
  return action(forward ? ActionKind::kForward : ActionKind::kBackward,
                k / group * shape.stages + k % shape.stages,
                forward ? chunk : shape.chunks - 1 - chunk);
}

std::vector<Action> interleaved(const PipelineShape& shape, int64_t stage) {
  const int64_t passes = shape.micro_batches * shape.chunks;
  const int64_t ahead =
      std::min(passes, 2 * (shape.stages - stage - 1) + (shape.chunks - 1) * shape.stages);
  std::vector<Action> actions;
  actions.reserve(static_cast<size_t>(2 * passes));
  for (int64_t k = 0; k < passes + ahead; ++k) {
    if (k < passes) actions.push_back(interleaved_pass(shape, k, true));
    if (k >= ahead) actions.push_back(interleaved_pass(shape, k - ahead, false));
  }
  return actions;
}

}  // namespace

std::optional<ScheduleKind> schedule_kind(std::string_view name) {
  if (name == "afab") return ScheduleKind::kAfab;
  if (name == "1f1b") return ScheduleKind::k1F1B;
  if (name == "interleaved") return ScheduleKind::kInterleaved;
  if (name == "zero_bubble") return ScheduleKind::kZeroBubble;
  return std::nullopt;
}

std::vector<Action> stage_actions(const PipelineShape& shape, int64_t stage) {
  DSV3_CHECK(shape.stages >= 1 && shape.chunks >= 1 && shape.micro_batches >= 1);
  DSV3_CHECK(stage >= 0 && stage < shape.stages);
  DSV3_CHECK(shape.chunks == 1 || shape.schedule == ScheduleKind::kInterleaved);
  switch (shape.schedule) {
    case ScheduleKind::kAfab:
      return afab(shape);
    case ScheduleKind::k1F1B:
      return one_forward_one_backward(shape, stage);
    case ScheduleKind::kInterleaved:
      DSV3_CHECK(shape.micro_batches % shape.stages == 0 || shape.chunks == 1);
      return shape.chunks == 1 ? one_forward_one_backward(shape, stage) : interleaved(shape, stage);
    case ScheduleKind::kZeroBubble:
      return zero_bubble(shape, stage);
  }
  return {};
}

}  // namespace dsv3::plan
