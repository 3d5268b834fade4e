// The training loop: a resumed run goes on bit for bit, validation changes nothing, and every bad
// end has its code.
#include "runtime/train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/file.h"
#include "tests/unit/runtime/train/trainer_fixture.h"

namespace dsv3::train {
namespace {

using testing_support::expect_equal_checkpoints;
using testing_support::Recorder;

class Trainer : public testing_support::TrainerFixture {};

TEST_F(Trainer, AResumedRunGoesOnBitForBit) {
  Recorder straight, first, second;
  run(straight, "straight");
  first.stop_after = 3;
  const TrainSummary stopped = run(first, "resumed");
  EXPECT_TRUE(stopped.stopped);
  EXPECT_EQ(stopped.steps, 3);
  const TrainSummary rest = run(second, "resumed", 2);
  EXPECT_FALSE(rest.stopped);
  EXPECT_EQ(second.start.first_step, 3);
  ASSERT_EQ(second.steps.size(), 3u);
  EXPECT_EQ(second.steps[0].step, 4);

  std::vector<double> pieces = first.losses();
  for (double loss : second.losses()) pieces.push_back(loss);
  EXPECT_EQ(straight.losses(), pieces);
  EXPECT_EQ(straight.validations.back().loss, second.validations.back().loss);
  ASSERT_FALSE(straight.checkpoints.empty() || second.checkpoints.empty());
  expect_equal_checkpoints(straight.checkpoints.back().path, second.checkpoints.back().path);
}

TEST_F(Trainer, Bf16MomentsResumeBitForBitToo) {
  job_.training.moments_dtype = "bf16";
  job_.training.dtype = "bf16";
  Recorder straight, first, second;
  run(straight, "straight");
  first.stop_after = 2;
  run(first, "resumed");
  run(second, "resumed", 2);
  expect_equal_checkpoints(straight.checkpoints.back().path, second.checkpoints.back().path);
}

TEST_F(Trainer, TheLossFallsAndReportsAddUp) {
  job_.training.max_steps = 40;
  job_.training.lr_warmup_steps = 4;
  Recorder recorder;
  const TrainSummary summary = run(recorder);
  EXPECT_EQ(summary.steps, 40);
  EXPECT_NEAR(summary.first_loss, 1.3 * std::log(50.0), 0.4);  // lm + 0.3 · mtp, both near ln 50
  EXPECT_LT(recorder.steps.back().lm_loss, 3.0);
  EXPECT_LT(summary.validation_loss, 3.3);
  for (const StepReport& s : recorder.steps) {
    EXPECT_DOUBLE_EQ(s.loss, s.lm_loss + 0.3 * s.mtp_loss + s.aux_loss + s.z_loss);
    EXPECT_EQ(s.tokens, 64);
    EXPECT_GT(s.mfu, 0);
    EXPECT_GT(s.memory_bytes, 0);
  }
  EXPECT_EQ(recorder.counts.size(), 40u * 3u);  // two MoE layers and the MTP module's
  for (const auto& [key, counts] : recorder.counts) {
    int64_t sum = 0;
    for (int64_t count : counts) sum += count;
    EXPECT_EQ(sum, 64 * 2);
    EXPECT_GE(key.second, 1);
    EXPECT_LE(key.second, 3);
  }
  EXPECT_FALSE(recorder.memory.empty());
  EXPECT_GT(recorder.start.unigram_entropy, 0);
}

TEST_F(Trainer, ValidationDoesNotChangeTheRun) {
  Recorder without, with;
  run(without);
  job_.training.eval_interval_steps = 1;
  run(with);
  EXPECT_EQ(without.losses(), with.losses());
  EXPECT_EQ(without.validations.size(), 1u);
  EXPECT_EQ(with.validations.size(), 6u);
  EXPECT_EQ(without.validations.back().loss, with.validations.back().loss);
}

TEST_F(Trainer, MicroBatchesChangeTheLossByRoundingOnly) {
  Recorder two, four;
  run(two);
  job_.training.micro_batch_size = 4;
  run(four);
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(two.losses()[i], four.losses()[i], 1e-4);
}

TEST_F(Trainer, CheckpointsComeByIntervalOnRequestAndAtTheEnd) {
  job_.checkpoint.interval_steps = 4;
  Recorder recorder;
  recorder.checkpoint_after = 3;
  run(recorder, "saved");
  std::vector<int64_t> steps;
  for (const CheckpointReport& c : recorder.checkpoints) steps.push_back(c.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{3, 4, 6}));
}

TEST_F(Trainer, AFinishedJobTrainsNoMore) {
  Recorder first, second;
  run(first, "saved");
  run(second, "saved", 2);
  EXPECT_TRUE(second.steps.empty());
  EXPECT_EQ(second.validations.back().loss, first.validations.back().loss);
}

TEST_F(Trainer, StartsFromAGivenCheckpoint) {
  Recorder first, second, straight;
  run(straight);
  first.stop_after = 4;
  run(first, "saved");
  job_.checkpoint.load = first.checkpoints.back().path;
  run(second, "elsewhere");
  EXPECT_EQ(second.start.first_step, 4);
  EXPECT_EQ(second.losses().back(), straight.losses().back());
}

TEST_F(Trainer, AFolderOfCheckpointsToStartFromMeansItsNewest) {
  Recorder first, second;
  first.stop_after = 4;
  first.checkpoint_after = 2;
  run(first, "saved");
  job_.checkpoint.load = folder_ / "saved";
  run(second, "elsewhere");
  EXPECT_EQ(second.start.first_step, 4);
}

TEST_F(Trainer, AnAttemptThatHasBegunKeepsEarlierOnesOut) {
  const double rate = job_.training.learning_rate;
  job_.training.learning_rate = 1e30;  // attempt 2 begins and ends before it saves anything
  TrainOptions options{.job = "tiny", .attempt = 2, .checkpoint_dir = folder_ / "saved"};
  options.spec = job_;
  EXPECT_EQ(failure(options).code(), Code::kLossNotFinite);
  options.spec.training.learning_rate = rate;
  options.attempt = 1;
  EXPECT_EQ(failure(options).code(), Code::kConflict);
}

TEST_F(Trainer, ALossThatIsNotFiniteEndsTheRunByItsStep) {
  job_.training.learning_rate = 1e30;
  job_.training.lr_warmup_steps = 0;
  const Status status = failure({.spec = job_});
  EXPECT_EQ(status.code(), Code::kLossNotFinite);
  EXPECT_NE(status.message().find("step 2"), std::string::npos) << status.message();
}

TEST_F(Trainer, ACheckpointOfAnotherModelIsRefusedByItsTensor) {
  Recorder recorder;
  run(recorder, "saved");
  job_.model.dense_intermediate_size = 64;
  const Status status =
      failure({.spec = job_, .job = "tiny", .attempt = 2, .checkpoint_dir = folder_ / "saved"});
  EXPECT_EQ(status.code(), Code::kCheckpointUnusable);
  EXPECT_NE(status.message().find("mlp."), std::string::npos) << status.message();
}

TEST_F(Trainer, ACheckpointOfALargerModelIsRefusedByItsTensor) {
  Recorder recorder;
  run(recorder, "saved");
  job_.model.mtp_layers = 0;
  const Status status =
      failure({.spec = job_, .job = "tiny", .attempt = 2, .checkpoint_dir = folder_ / "saved"});
  EXPECT_EQ(status.code(), Code::kCheckpointUnusable);
  EXPECT_NE(status.message().find("layers.3."), std::string::npos) << status.message();
}

TEST_F(Trainer, ACheckpointOfAnotherSeedBatchOrLengthIsRefused) {
  Recorder recorder;
  run(recorder, "saved");
  const TrainOptions options{.job = "tiny", .attempt = 2, .checkpoint_dir = folder_ / "saved"};
  TrainOptions seed = options, batch = options, length = options;
  seed.spec = batch.spec = length.spec = job_;
  seed.spec.training.seed = 4321;
  batch.spec.training.global_batch_size = 2;
  EXPECT_EQ(failure(seed).code(), Code::kCheckpointUnusable);
  EXPECT_EQ(failure(batch).code(), Code::kCheckpointUnusable);
  length.spec.training.seq_length = 8;
  EXPECT_EQ(failure(length).code(), Code::kCheckpointUnusable);
}

// Beginning afresh would replace what a repaired disk might give back.
TEST_F(Trainer, DamagedCheckpointsAreNotTakenForNone) {
  Recorder recorder;
  run(recorder, "saved");
  for (const CheckpointReport& c : recorder.checkpoints)
    ASSERT_TRUE(write_file(c.path + "/manifest.json", "{}").ok());
  EXPECT_EQ(
      failure({.spec = job_, .job = "tiny", .attempt = 2, .checkpoint_dir = folder_ / "saved"})
          .code(),
      Code::kCheckpointUnusable);
}

// Which layouts a job can be cut in is the planner's rule, and its sentence.
TEST_F(Trainer, ALayoutThatTheJobCannotBeCutInIsRefused) {
  const auto refusal = [this](const plan::Layout& layout) {
    comm::Groups groups;
    groups.layout = layout;
    TrainOptions given = options();
    given.groups = &groups;
    const Status status = failure(given);
    EXPECT_EQ(status.code(), Code::kInvalid);
    return status.message();
  };
  EXPECT_EQ(refusal({.tp = 4}), "num_heads 2 is not divisible by TP 4");
  EXPECT_EQ(refusal({.pp = 4}), "PP 4 is more than num_layers 3");
  EXPECT_EQ(refusal({.cp = 3}), "seq_length 16 is not divisible by 2·CP 6: 12 or 18 would do");
  EXPECT_NE(refusal({.dp = 3}).find("global_batch_size 4"), std::string::npos);
  job_.training.global_batch_size = 5;
  EXPECT_NE(refusal({.pp = 2}).find("global_batch_size 5"), std::string::npos);
}

TEST_F(Trainer, MissingDataIsNamed) {
  job_.data.path = {{folder_ / "nowhere", 1.0}};
  const Status status = failure({.spec = job_});
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("nowhere"), std::string::npos);
}

}  // namespace
}  // namespace dsv3::train
