// What one layout saved another goes on from: the losses are those of the run that never stopped,
// and on the same layout they, and every byte of the state, are the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/train/trainer.h"
#include "tests/parity/run.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/train/trainer_fixture.h"

namespace dsv3::parity {
namespace {

using train::testing_support::expect_equal_checkpoints;
using train::testing_support::Recorder;

constexpr double kTolerance = 1e-5;  // of the loss

// What the leading rank of a training run saw.
struct Trained {
  std::vector<double> losses;  // by step
  double validation_loss = 0;
  int64_t first_step = 0;
  std::string checkpoint;  // the last
};

struct Journey {
  plan::Layout from, to;
};

class ParityOfCheckpoints : public testing::Test {
 protected:
  ParityOfCheckpoints() { write_text(folder_ / "data"); }

  // train() on every rank of the layout, until the end or `stop_after` more steps.
  Trained run(const plan::Layout& layout, const std::string& checkpoints, int64_t stop_after = -1,
              int64_t attempt = 1) {
    const Case c{.variant = {}, .layout = completed(layout)};
    const std::string rendezvous = comm::unique_rendezvous();
    comm::all_ranks(static_cast<int>(layout.world_size()), [&](int rank) {
      const auto peers = meet(c, rendezvous, rank);
      train::TrainOptions options{.spec = parity_job(c, folder_ / "data"), .job = "parity"};
      options.attempt = attempt;
      if (!checkpoints.empty()) options.checkpoint_dir = folder_ / checkpoints;
      options.groups = &peers->groups;
      Recorder recorder;
      recorder.stop_after = stop_after;
      const auto summary = train::train(options, recorder);
      if (!summary.ok() && peers->mesh) peers->mesh->abort(summary.status().to_string());
      comm::expect(summary.ok(), summary.status().to_string());
      if (rank == 0) write(recorder);
    });
    return read();
  }

  TemporaryFolder folder_;

 private:
  void write(const Recorder& recorder) {
    std::ofstream file(folder_ / "run");
    file << recorder.start.first_step << " "
         << (recorder.validations.empty() ? 0.0 : recorder.validations.back().loss) << " "
         << (recorder.checkpoints.empty() ? "none" : recorder.checkpoints.back().path);
    file << std::hexfloat;
    for (const double loss : recorder.losses()) file << " " << loss;
  }
  Trained read() {
    Trained trained;
    std::ifstream file(folder_ / "run");
    file >> trained.first_step >> trained.validation_loss >> trained.checkpoint;
    for (std::string word; file >> word;)
      trained.losses.push_back(std::strtod(word.c_str(), nullptr));
    return trained;
  }
};

class ParityOfJourney : public ParityOfCheckpoints, public testing::WithParamInterface<Journey> {};

TEST_P(ParityOfJourney, GoesOnAsTheRunThatNeverStopped) {
  const auto& [from, to] = GetParam();
  const Trained straight = run({}, "");
  ASSERT_EQ(straight.losses.size(), static_cast<size_t>(2 * kSteps));
  const Trained first = run(from, "saved", kSteps);
  ASSERT_EQ(first.losses.size(), static_cast<size_t>(kSteps));
  const Trained second = run(to, "saved", -1, 2);
  EXPECT_EQ(second.first_step, kSteps);
  std::vector<double> losses = first.losses;
  losses.insert(losses.end(), second.losses.begin(), second.losses.end());
  ASSERT_EQ(losses.size(), straight.losses.size());
  for (size_t i = 0; i < losses.size(); ++i) {
    EXPECT_NEAR(losses[i], straight.losses[i], kTolerance * straight.losses[i])
        << "step " << i + 1 << " on " << plan::to_string(i < kSteps ? from : to);
  }
  EXPECT_NEAR(second.validation_loss, straight.validation_loss,
              kTolerance * straight.validation_loss);
}

// First those where TP, PP, EP, DP and the ZeRO stage all change, then CP, ETP, chunks and one
// rank.
const Journey kJourneys[] = {
    {{.tp = 2, .pp = 2, .zero_stage = 0}, {.ep = 2, .dp = 2, .zero_stage = 1}},
    {{.ep = 2, .dp = 2, .zero_stage = 1}, {.tp = 2, .pp = 2, .zero_stage = 0}},
    {{.tp = 2, .ep = 2, .zero_stage = 0}, {.pp = 2, .dp = 2, .zero_stage = 1}},
    {{.pp = 2, .dp = 2, .zero_stage = 1}, {.tp = 2, .ep = 2, .zero_stage = 0}},
    {{.tp = 2, .dp = 2, .zero_stage = 1}, {.pp = 2, .ep = 2, .zero_stage = 0}},
    {{.pp = 4, .ep = 2, .zero_stage = 1}, {.tp = 2, .dp = 2, .zero_stage = 0}},
    {{.cp = 2, .ep = 2, .zero_stage = 1}, {.tp = 2, .pp = 2, .etp = 2, .zero_stage = 0}},
    {{.pp = 2, .dp = 2, .zero_stage = 1, .schedule = "interleaved", .virtual_stages = 2},
     {.tp = 4, .etp = 4, .zero_stage = 0}},
    {{.zero_stage = 0}, {.tp = 2, .pp = 2, .ep = 2, .zero_stage = 1}},
    {{.tp = 2, .pp = 2, .ep = 2, .zero_stage = 1}, {.zero_stage = 0}},
    {{.dp = 2, .zero_stage = 0}, {.dp = 4, .zero_stage = 1}},
};

INSTANTIATE_TEST_SUITE_P(All, ParityOfJourney, testing::ValuesIn(kJourneys), [](const auto& test) {
  return test_name({.layout = test.param.from}) + "_to_" + test_name({.layout = test.param.to});
});

TEST_F(ParityOfCheckpoints, OnTheSameLayoutARunGoesOnBitForBit) {
  const plan::Layout layouts[] = {
      {.dp = 2, .zero_stage = 1},
      {.tp = 2, .pp = 2, .dp = 2, .zero_stage = 1},
      {.cp = 2, .ep = 2, .zero_stage = 1, .recompute = "full"},
  };
  for (const plan::Layout& layout : layouts) {
    const std::string name = test_name({.layout = layout});
    const Trained straight = run(layout, name + "-straight");
    const Trained first = run(layout, name, kSteps);
    const Trained second = run(layout, name, -1, 2);
    std::vector<double> losses = first.losses;
    losses.insert(losses.end(), second.losses.begin(), second.losses.end());
    EXPECT_EQ(losses, straight.losses) << name;
    EXPECT_EQ(second.validation_loss, straight.validation_loss) << name;
    expect_equal_checkpoints(straight.checkpoint, second.checkpoint);
  }
}

}  // namespace
}  // namespace dsv3::parity
