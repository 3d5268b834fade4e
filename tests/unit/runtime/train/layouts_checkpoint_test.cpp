// A run stops in one layout and goes on in another: with the losses of one process that never
// stopped; in the same layout, with the same bits.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "runtime/comm/cpu/rank_groups.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/train/trainer_fixture.h"

namespace dsv3::train {
namespace {

using testing_support::expect_equal_checkpoints;
using testing_support::Recorder;

class LayoutCheckpoint : public testing_support::TrainerFixture {
 protected:
  LayoutCheckpoint() {
    ::omp_set_num_threads(1);  // no pool of threads that later forks would lack
    job_.training.max_steps = 6;
    job_.training.global_batch_size = 8;
    job_.training.eval_batches = 1;
    job_.model.num_layers = 4;
    job_.model.moe.use_aux_loss_free = true;
    job_.checkpoint.interval_steps = 2;
  }

  // Trains until `stop_after` steps are done by this call (−1: to the end); each rank's losses,
  // from step first + 1 on, must be those of `want`.
  void go_on(const plan::Layout& layout, const std::string& folder, int64_t attempt, int64_t first,
             int64_t stop_after, const std::vector<double>& want) {
    SCOPED_TRACE(plan::to_string(layout));
    const int world = static_cast<int>(layout.world_size());
    const std::string rendezvous = comm::unique_rendezvous();
    comm::all_ranks(world, [&](int rank) {
      ::omp_set_num_threads(1);
      const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, world));
      const comm::RankGroups owned(*mesh, layout, plan::copies_embedding(job_.model, layout));
      TrainOptions given = options(folder, attempt);
      given.groups = &owned.groups();
      Recorder recorder;
      recorder.stop_after = stop_after;
      const auto summary = train(given, recorder);
      comm::expect(summary.ok(), summary.ok() ? "" : summary.status().to_string());
      comm::expect(recorder.start.first_step == first, "another first step");
      comm::expect(!recorder.steps.empty(), "no steps");
      for (const StepReport& step : recorder.steps) {
        const double loss = want[static_cast<size_t>(step.step - 1)];
        comm::expect(std::abs(step.loss - loss) < tolerance_ * loss,
                     fmt::format("step {}: loss {}, not {}", step.step, step.loss, loss));
      }
    });
  }

  double tolerance_ = 1e-4;  // of a loss
};

TEST_F(LayoutCheckpoint, EveryChangeOfLayoutGoesOnAsIfThereWasNone) {
  Recorder alone;
  run(alone, "alone");
  const std::vector<double> want = alone.losses();
  const std::vector<std::vector<plan::Layout>> chains = {
      {{.tp = 2, .pp = 2, .ep = 2}, {.cp = 2, .dp = 2, .zero_stage = 2}, {}},
      {{}, {.tp = 2, .cp = 2, .etp = 2}, {.pp = 4, .ep = 2}},
      {{.ep = 2, .dp = 2, .zero_stage = 0},
       {.pp = 2, .dp = 2, .schedule = "interleaved", .virtual_stages = 2},
       {.tp = 2, .ep = 4}}};
  for (size_t i = 0; i < chains.size(); ++i) {
    const std::string folder = fmt::format("chain-{}", i);
    int64_t attempt = 1;
    for (const plan::Layout& layout : chains[i]) {
      const int64_t first = 2 * (attempt - 1);
      if (layout.world_size() > 1) {
        go_on(layout, folder, attempt, first, attempt == 3 ? -1 : 2, want);
      } else {
        Recorder one;
        one.stop_after = attempt == 3 ? -1 : 2;
        run(one, folder, attempt);
        EXPECT_EQ(one.start.first_step, first);
        for (const StepReport& step : one.steps)
          EXPECT_NEAR(step.loss, want[static_cast<size_t>(step.step - 1)], 1e-4 * step.loss);
      }
      ++attempt;
    }
  }
}

TEST_F(LayoutCheckpoint, TheSameLayoutGoesOnBitForBit) {
  Recorder alone;
  run(alone);
  const std::vector<double> want = alone.losses();
  for (const plan::Layout& layout : {plan::Layout{.tp = 2, .pp = 2, .ep = 2},
                                     plan::Layout{.cp = 2, .ep = 2, .dp = 2, .zero_stage = 2}}) {
    const std::string name = fmt::format("{}-{}", layout.tp, layout.cp);
    go_on(layout, "straight" + name, 1, 0, -1, want);
    go_on(layout, "resumed" + name, 1, 0, 3, want);
    go_on(layout, "resumed" + name, 2, 3, -1, want);
    expect_equal_checkpoints((folder_ / ("straight" + name)) + "/step-00000006",
                             (folder_ / ("resumed" + name)) + "/step-00000006");
  }
}

// Where bf16 is multiplied a rank under ZeRO 1 has its pieces of the f32 master alone: what it
// saves and goes on from is, bit for bit, what ranks with all of it do. (On a machine without bf16
// all have all of it.)
TEST_F(LayoutCheckpoint, MastersInPiecesAreSavedAndRestoredAsWholeOnes) {
  job_.training.dtype = "bf16";
  job_.training.max_steps = 4;
  job_.checkpoint.interval_steps = 0;  // where a run ends
  tolerance_ = 2e-2;
  Recorder alone;
  run(alone);
  const std::vector<double> want = alone.losses();
  for (plan::Layout layout : {plan::Layout{.dp = 2}, plan::Layout{.pp = 2, .dp = 2},
                              plan::Layout{.tp = 2, .ep = 2, .dp = 2}}) {
    const std::string name = fmt::format("{}-{}-", layout.tp, layout.pp);
    const auto path = [&](const std::string& run) {
      return (folder_ / (name + run)) + "/step-00000004";
    };
    plan::Layout whole = layout;
    whole.zero_stage = 0;
    go_on(whole, name + "whole", 1, 0, -1, want);
    go_on(layout, name + "pieces", 1, 0, -1, want);
    expect_equal_checkpoints(path("whole"), path("pieces"));
    // From pieces to pieces, to whole masters, and back.
    const std::vector<std::pair<plan::Layout, plan::Layout>> changes{
        {layout, layout}, {layout, whole}, {whole, layout}};
    for (size_t i = 0; i < changes.size(); ++i) {
      const std::string resumed = "resumed-" + std::to_string(i);
      go_on(changes[i].first, name + resumed, 1, 0, 2, want);
      go_on(changes[i].second, name + resumed, 2, 2, -1, want);
      expect_equal_checkpoints(path("whole"), path(resumed));
    }
    // And on one rank.
    const std::string last = name + "alone";
    go_on(layout, last, 1, 0, 2, want);
    Recorder one;
    run(one, last, 2);
    EXPECT_EQ(one.start.first_step, 2);
    for (const StepReport& step : one.steps)
      EXPECT_NEAR(step.loss, want[static_cast<size_t>(step.step - 1)], tolerance_ * step.loss);
  }
}

}  // namespace
}  // namespace dsv3::train
