// How long a pipeline's action lists take; see schedule.h.
#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "cluster/plan/schedule.h"

namespace dsv3::plan {
namespace {

// Runs all lists to their ends. Times are max-plus sums, so the order in which stages are visited
// doesn't matter.
//
// SecondsOf(stage, index, action): how long the stage's action of that index takes.
template <typename SecondsOf>
class Simulation {
 public:
  Simulation(const PipelineShape& shape, const SecondsOf& seconds_of, double send_s)
      : shape_(shape),
        seconds_of_(seconds_of),
        send_s_(shape.stages > 1 ? send_s : 0),
        last_(shape.stages * shape.chunks - 1),
        forward_(cells(), kNever),
        backward_(cells(), kNever) {
    for (int64_t stage = 0; stage < shape.stages; ++stage) {
      queues_.push_back({.actions = stage_actions(shape, stage)});
    }
  }

  double run() {
    bool moved = true;
    while (moved) {
      moved = false;
      for (int64_t stage = 0; stage < shape_.stages; ++stage) {
        while (step(stage)) moved = true;
      }
    }
    double end = 0;
    for (const Queue& queue : queues_) {
      DSV3_CHECK(queue.next == queue.actions.size());  // else the lists deadlock
      end = std::max(end, queue.free_s);
    }
    return end;
  }

 private:
  struct Queue {
    std::vector<Action> actions;
    size_t next = 0;
    double free_s = 0;
  };
  static constexpr double kNever = -1;

  size_t cells() const {
    return static_cast<size_t>(shape_.stages * shape_.chunks * shape_.micro_batches);
  }
  size_t cell(int64_t virtual_stage, int64_t micro_batch) const {
    return static_cast<size_t>(virtual_stage * shape_.micro_batches + micro_batch);
  }

  // When what the action needs is there; kNever: not made yet.
  double ready(const Action& action, int64_t at) const {
    const int64_t m = action.micro_batch;
    switch (action.kind) {
      case ActionKind::kForward: {
        if (at == 0) return 0;
        const double made = forward_[cell(at - 1, m)];
        return made < 0 ? kNever : made + send_s_;
      }
      case ActionKind::kBackward:
      case ActionKind::kBackwardInput: {
        const double own = forward_[cell(at, m)];
        if (at == last_ || own < 0) return own;
        const double made = backward_[cell(at + 1, m)];
        return made < 0 ? kNever : std::max(own, made + send_s_);
      }
      case ActionKind::kBackwardWeight:
        return backward_[cell(at, m)];
    }
    return kNever;
  }

  bool step(int64_t stage) {
    Queue& queue = queues_[static_cast<size_t>(stage)];
    if (queue.next == queue.actions.size()) return false;
    const Action& action = queue.actions[queue.next];
    const int64_t at = action.chunk * shape_.stages + stage;
    const double start = ready(action, at);
    if (start < 0) return false;
    double& free = queue.free_s;
    free = std::max(free, start) + seconds_of_(stage, queue.next, action);
    switch (action.kind) {
      case ActionKind::kForward:
        forward_[cell(at, action.micro_batch)] = free;
        break;
      case ActionKind::kBackward:
      case ActionKind::kBackwardInput:
        backward_[cell(at, action.micro_batch)] = free;
        break;
      case ActionKind::kBackwardWeight:
        break;
    }
    ++queue.next;
    return true;
  }

  const PipelineShape& shape_;
  const SecondsOf& seconds_of_;
  double send_s_;
  int64_t last_;
  std::vector<double> forward_, backward_;  // ends, by virtual stage and micro-batch
  std::vector<Queue> queues_;
};

double busy_of_stage(const PipelineShape& shape, const std::vector<ChunkTime>& times,
                     int64_t stage) {
  double busy = 0;
  for (int64_t chunk = 0; chunk < shape.chunks; ++chunk) {
    busy += times[static_cast<size_t>(chunk * shape.stages + stage)].busy_s();
  }
  return busy;
}

}  // namespace

double simulate(const PipelineShape& shape, const std::vector<ChunkTime>& times, double send_s) {
  DSV3_CHECK(static_cast<int64_t>(times.size()) == shape.stages * shape.chunks);
  const auto seconds_of = [&](int64_t stage, size_t, const Action& action) {
    const ChunkTime& time = times[static_cast<size_t>(action.chunk * shape.stages + stage)];
    switch (action.kind) {
      case ActionKind::kForward:
        return time.forward_s;
      case ActionKind::kBackward:
        return time.backward_s + time.weight_s;
      case ActionKind::kBackwardInput:
        return time.backward_s;
      case ActionKind::kBackwardWeight:
        return time.weight_s;
    }
    return 0.0;
  };
  return Simulation(shape, seconds_of, send_s).run();
}

double Replay::bubble() const {
  const double busy = std::accumulate(busy_s.begin(), busy_s.end(), 0.0);
  return step_s > 0 ? 1 - busy / (static_cast<double>(busy_s.size()) * step_s) : 0;
}

Replay replay(const PipelineShape& shape, const std::vector<std::vector<double>>& seconds,
              double send_s) {
  DSV3_CHECK(static_cast<int64_t>(seconds.size()) == shape.stages);
  Replay result;
  for (int64_t stage = 0; stage < shape.stages; ++stage) {
    const std::vector<double>& own = seconds[static_cast<size_t>(stage)];
    DSV3_CHECK(own.size() == stage_actions(shape, stage).size(), "a time for each action");
    result.busy_s.push_back(std::accumulate(own.begin(), own.end(), 0.0));
  }
  const auto seconds_of = [&](int64_t stage, size_t index, const Action&) {
    return seconds[static_cast<size_t>(stage)][index];
  };
  result.step_s = Simulation(shape, seconds_of, send_s).run();
  return result;
}

double pipeline_bound(const PipelineShape& shape, const std::vector<ChunkTime>& times,
                      double send_s) {
  const double batches = static_cast<double>(shape.micro_batches);
  const bool split = shape.schedule == ScheduleKind::kZeroBubble;
  double forward_all = 0;    // of the whole model
  double backward_rest = 0;  // of the virtual stages after the one at hand
  for (const ChunkTime& time : times) {
    forward_all += time.forward_s;
    backward_rest += time.backward_s + (split ? 0 : time.weight_s);
  }
  double bound = 0;
  double fill = 0;   // before a stage's first forward
  double drain = 0;  // after its last backward
  for (int64_t stage = 0; stage < shape.stages; ++stage) {
    const ChunkTime& time = times[static_cast<size_t>(stage)];
    const double work = batches * busy_of_stage(shape, times, stage);
    bound = std::max(bound, fill + work + drain);
    backward_rest -= time.backward_s + (split ? 0 : time.weight_s);
    if (shape.chunks == 1 && shape.schedule != ScheduleKind::kAfab) {
      // The first backward waits for the whole model; no more than PP − stage forwards can come
      // before it.
      const double before = std::min(batches, static_cast<double>(shape.stages - stage));
      bound = std::max(bound, forward_all + backward_rest + work - before * time.forward_s);
    }
    fill += time.forward_s + send_s;
    // Weight gradients may come after all that other stages wait for.
    if (!split) drain += time.backward_s + time.weight_s + send_s;
  }
  return bound;
}

int64_t exact_micro_batches(int64_t stages) {
  return std::max<int64_t>(64, 5 * stages);
}

double pipeline_seconds(const PipelineShape& shape, const std::vector<ChunkTime>& times,
                        double send_s) {
  const double batches = static_cast<double>(shape.micro_batches);
  if (shape.stages == 1) return batches * busy_of_stage(shape, times, 0);
  const int64_t exact = exact_micro_batches(shape.stages);
  if (shape.micro_batches <= exact) return simulate(shape, times, send_s);
  // Rounds of PP micro-batches repeat once the pipeline is full.
  PipelineShape few = shape;
  few.micro_batches = exact - (exact - shape.micro_batches % shape.stages) % shape.stages;
  const double longer = simulate(few, times, send_s);
  const double rounds =
      static_cast<double>((shape.micro_batches - few.micro_batches) / shape.stages);
  few.micro_batches -= shape.stages;
  const double round = longer - simulate(few, times, send_s);
  return std::max(longer + rounds * round, pipeline_bound(shape, times, send_s));
}

}  // namespace dsv3::plan
