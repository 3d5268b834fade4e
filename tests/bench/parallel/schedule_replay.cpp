// Pipeline schedules: recorded times of their actions, replayed. bench_schedule_replay, no
// arguments; two cores, quiet; about a minute.
//
// First table: the time of a micro-batch's forward, input gradient and weight gradient in each
// layer, a stage of its own, recorded with one micro-batch under way (so that ranks don't share
// cores), put through plan::simulate() for 2, 4 and 8 stages; its bubble beside the formula's,
// which takes all stages to be equal. Second: two stages on two cores, the bubble as it really was,
// beside the replay of that run's own times. Formulas: Narayanan et al. 2021, arXiv 2104.04473
// (1F1B, interleaved); Qi et al. 2023, arXiv 2401.10241 (zero bubble, H1).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <sstream>
#include <thread>
#include <tuple>

#include "cluster/plan/schedule.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/train/step.h"
#include "tests/parity/run.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::bench {
namespace {

using plan::ActionKind;

constexpr int64_t kLayers = 8;  // of the parity suite's model
constexpr int64_t kMicroBatches = 8;
constexpr int kFirstSteps = 4;  // not looked at
// Of one micro-batch, each action once in each; of whole batches.
constexpr int kAloneSteps = 200, kTogetherSteps = 20;

const char* const kSchedules[] = {"afab", "1f1b", "interleaved", "zero_bubble"};

// All layers alike, small ends: what differs between stages is noise.
spec::JobSpec bench_job(const plan::Layout& layout, const std::string& data, int64_t batch) {
  spec::JobSpec job = parity::parity_job({.layout = layout}, data);
  job.model.d_model = 256;
  job.model.dense_intermediate_size = 512;
  job.model.max_context_length = 256;
  job.model.mtp_layers = 0;
  job.model.mla = {.kv_lora_rank = 64,
                   .q_lora_rank = 128,
                   .qk_nope_head_dim = 32,
                   .qk_rope_head_dim = 16,
                   .v_head_dim = 32};
  job.model.moe.expert_intermediate_size = 96;
  job.model.moe.first_k_dense = 0;
  // Every token to every expert: where they choose, the first layers, whose hidden states are
  // little more than a token's own, load experts less evenly than the last, and take a tenth
  // longer.
  job.model.moe.num_experts = job.model.moe.num_experts_per_token = 4;
  job.model.moe.n_group = job.model.moe.topk_group = 1;
  // Long enough (2 ms an action) that it counts for little how warm a stage finds its caches: the
  // last ones' backward passes follow their forwards closely.
  job.training.seq_length = 256;
  job.training.global_batch_size = batch;
  return job;
}

// One action of one step on one stage; seconds.
struct Timed {
  int step = 0, stage = 0, kind = 0, chunk = 0;
  double begin_s = 0, ready_s = 0, end_s = 0;
};

// The first stage's forward is to begin as all others do, after waiting while other stages work or
// wait: not beside their optimizers, nor from caches that its own has just filled. Without it, it
// took up to a tenth less than theirs.
void stand_alone(comm::Communicator& world) {
  world.barrier("next step");
  if (world.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

std::string record(const plan::Layout& layout, const std::string& folder, int64_t micro_batches,
                   int steps, const std::string& rendezvous, int rank) {
  plan::Layout whole = layout;
  whole.grad_accumulation = micro_batches;
  const spec::JobSpec job = bench_job(layout, folder + "/data", micro_batches);
  const auto peers = parity::meet(whole, job.model, rendezvous, rank);
  auto opened = train::open_session(job, &peers->groups);
  comm::expect(opened.ok(), opened.status().to_string());
  train::Session& session = **opened;
  session.model->params().initialise(1);
  std::vector<parallel::ActionTime> times;
  session.pipeline->record_into(&times);
  std::string text;
  for (int step = 0; step < kFirstSteps + steps; ++step) {
    if (micro_batches == 1) stand_alone(*peers->groups.world);
    const auto done = train::run_step(session);
    comm::expect(done.ok(), done.status().to_string());
    if (step < kFirstSteps) continue;
    for (const parallel::ActionTime& t : times) {
      text += fmt::format(
          "{} {} {} {} {:.9f} {:.9f} {:.9f}\n", step, rank, static_cast<int>(t.action.kind),
          t.action.chunk, static_cast<double>(t.begin_ns) * 1e-9,
          static_cast<double>(t.ready_ns) * 1e-9, static_cast<double>(t.end_ns) * 1e-9);
    }
  }
  return text;
}

std::vector<Timed> run(const plan::Layout& layout, const std::string& folder, int64_t micro_batches,
                       int steps) {
  const std::string rendezvous = comm::unique_rendezvous();
  std::vector<Timed> all;
  for (const auto& result : comm::run_ranks(static_cast<int>(layout.pp), [&](int rank) {
         return record(layout, folder, micro_batches, steps, rendezvous, rank);
       })) {
    if (result.failed) {
      fmt::print(stderr, "{}: {}\n", plan::to_string(layout), result.text);
      std::exit(1);
    }
    std::istringstream lines(result.text);
    for (Timed t;
         lines >> t.step >> t.stage >> t.kind >> t.chunk >> t.begin_s >> t.ready_s >> t.end_s;) {
      all.push_back(t);
    }
  }
  return all;
}

double least(const std::vector<double>& values) {
  return values.empty() ? 0 : *std::min_element(values.begin(), values.end());
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// By virtual stage, the least of each action: what else runs on the machine only adds. Without
// recorded weight gradients backward_s holds both.
std::vector<plan::ChunkTime> chunk_times(const std::vector<Timed>& all, int64_t stages,
                                         int64_t chunks) {
  std::map<std::tuple<int64_t, int>, std::vector<double>> values;
  for (const Timed& t : all) {
    values[{t.chunk * stages + t.stage, t.kind}].push_back(t.end_s - t.ready_s);
  }
  const auto of = [&](int64_t stage, ActionKind kind) {
    return least(values[{stage, static_cast<int>(kind)}]);
  };
  std::vector<plan::ChunkTime> times;
  for (int64_t stage = 0; stage < stages * chunks; ++stage) {
    times.push_back(
        {.forward_s = of(stage, ActionKind::kForward),
         .backward_s = of(stage, ActionKind::kBackward) + of(stage, ActionKind::kBackwardInput),
         .weight_s = of(stage, ActionKind::kBackwardWeight)});
  }
  return times;
}

// Equal stages, f, b and w of a micro-batch and a rank.
double bubble_formula(const plan::PipelineShape& shape, double f, double b, double w) {
  const auto others = static_cast<double>(shape.stages - 1);
  const auto work = static_cast<double>(shape.micro_batches) * (f + b + w);
  double idle = others * (f + b + w);
  if (shape.schedule == plan::ScheduleKind::kInterleaved) idle /= static_cast<double>(shape.chunks);
  if (shape.schedule == plan::ScheduleKind::kZeroBubble) idle = others * std::max(0.0, f + b - w);
  return idle / (work + idle);
}

struct Replay {
  double step_s = 0, bubble = 0, formula = 0;
  double formula_step_s = 0;
};

Replay replay(const plan::PipelineShape& shape, const std::vector<plan::ChunkTime>& times) {
  double f = 0, b = 0, w = 0;
  for (const plan::ChunkTime& time : times) {
    f += time.forward_s;
    b += time.backward_s;
    w += time.weight_s;
  }
  const auto stages = static_cast<double>(shape.stages);
  const double step_s = plan::simulate(shape, times, 0);
  const double busy = static_cast<double>(shape.micro_batches) * (f + b + w) / stages;
  const double formula = bubble_formula(shape, f / stages, b / stages, w / stages);
  return {.step_s = step_s,
          .bubble = 1 - busy / step_s,
          .formula = formula,
          .formula_step_s = busy / (1 - formula)};
}

plan::Layout layout_of(const char* schedule, int64_t stages) {
  plan::Layout layout;
  layout.zero_stage = 0;
  layout.pp = stages;
  layout.schedule = schedule;
  layout.virtual_stages = layout.schedule == "interleaved" ? 2 : 1;
  return layout;
}

plan::PipelineShape shape_of(const char* schedule, int64_t stages) {
  return {.schedule = *plan::schedule_kind(schedule),
          .stages = stages,
          .chunks = std::string(schedule) == "interleaved" ? 2 : 1,
          .micro_batches = kMicroBatches};
}

// Of each layer, with the embedding and the head where they are: one recording for all replays.
std::vector<plan::ChunkTime> layer_times(const std::string& folder) {
  return chunk_times(run(layout_of("zero_bubble", kLayers), folder, 1, kAloneSteps), kLayers, 1);
}

// Times of so many virtual stages.
std::vector<plan::ChunkTime> merged(const std::vector<plan::ChunkTime>& layers, int64_t stages) {
  std::vector<plan::ChunkTime> times(static_cast<size_t>(stages));
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    plan::ChunkTime& time = times[layer * times.size() / layers.size()];
    time.forward_s += layers[layer].forward_s;
    time.backward_s += layers[layer].backward_s;
    time.weight_s += layers[layer].weight_s;
  }
  return times;
}

void replay_alone(const std::string& folder) {
  const std::vector<plan::ChunkTime> layers = layer_times(folder);
  fmt::print("layers, ms of forward + input gradient + weight gradient:");
  for (const plan::ChunkTime& t : layers)
    fmt::print(" {:.2f} + {:.2f} + {:.2f};", 1e3 * t.forward_s, 1e3 * t.backward_s,
               1e3 * t.weight_s);
  fmt::print("\n\n");
  fmt::print(
      "| schedule | stages | micro-batches | replayed step, ms | bubble, replayed | formula | "
      "faster than 1F1B, replayed | formula |\n|---|---|---|---|---|---|---|---|\n");
  for (const int64_t stages : {2, 4, 8}) {
    for (const char* schedule : kSchedules) {
      const plan::PipelineShape shape = shape_of(schedule, stages);
      if (stages * shape.chunks > kLayers) continue;
      const Replay r = replay(shape, merged(layers, stages * shape.chunks));
      const Replay plain = replay(shape_of("1f1b", stages), merged(layers, stages));
      fmt::print("| {} | {} | {} | {:.2f} | {:.1f} % | {:.1f} % | {:.3f} x | {:.3f} x |\n",
                 schedule, stages, kMicroBatches, 1e3 * r.step_s, 100 * r.bubble, 100 * r.formula,
                 plain.step_s / r.step_s, plain.formula_step_s / r.formula_step_s);
    }
  }
}

void measure_together(const std::string& folder) {
  fmt::print(
      "\n| two stages, two cores | measured step, ms | its times replayed, ms | bubble, measured "
      "| replayed | formula |\n|---|---|---|---|---|---|\n");
  for (const char* schedule : kSchedules) {
    const plan::Layout layout = layout_of(schedule, 2);
    const std::vector<Timed> all = run(layout, folder, kMicroBatches, kTogetherSteps);
    struct Span {
      double begin = 1e300, end = 0, busy = 0;
    };
    std::map<int, Span> spans;
    for (const Timed& t : all) {
      Span& span = spans[t.step];
      span.begin = std::min(span.begin, t.begin_s);
      span.end = std::max(span.end, t.end_s);
      span.busy += t.end_s - t.ready_s;
    }
    std::vector<double> steps, bubbles;
    for (const auto& [step, span] : spans) {
      steps.push_back(span.end - span.begin);
      bubbles.push_back(1 - span.busy / 2 / (span.end - span.begin));
    }
    const plan::PipelineShape shape = shape_of(schedule, 2);
    const Replay r = replay(shape, chunk_times(all, 2, shape.chunks));
    fmt::print("| {} | {:.2f} | {:.2f} | {:.1f} % | {:.1f} % | {:.1f} % |\n", schedule,
               1e3 * median(steps), 1e3 * r.step_s, 100 * median(bubbles), 100 * r.bubble,
               100 * r.formula);
  }
}

}  // namespace
}  // namespace dsv3::bench

int main() {
  const dsv3::TemporaryFolder folder;
  dsv3::parity::write_text(folder / "data");
  dsv3::bench::replay_alone(folder.path());
  dsv3::bench::measure_together(folder.path());
}
