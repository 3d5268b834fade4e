// Checkpoints of a running loop: those written in the background hold the step at which they were
// due, one at a time; what fails is told and made good; what cannot be gone on from is set aside.
#include "runtime/train/checkpoint_writer.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <future>
#include <thread>

#include "base/file.h"
#include "tests/unit/runtime/train/trainer_fixture.h"

namespace dsv3::train {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_equal_checkpoints;
using testing_support::Recorder;

const std::string kShard = "/shard-00001-of-00001.safetensors";

class CheckpointWriting : public testing_support::TrainerFixture {
 protected:
  // One layer, so that a step takes no time.
  CheckpointWriting() {
    job_.model.num_layers = 2;
    job_.checkpoint.interval_steps = 2;
    job_.training.eval_batches = 1;
  }
  static std::vector<int64_t> steps_of(const Recorder& recorder) {
    std::vector<int64_t> steps;
    for (const CheckpointReport& c : recorder.checkpoints) steps.push_back(c.step);
    return steps;
  }
  void damage(const std::string& folder) {
    std::string bytes = read_file(folder + kShard).value();
    bytes[bytes.size() / 2] ^= 1;
    overwrite(folder + kShard, bytes);
  }
};

// Does something when a step is done, and knows its thread.
struct Acting final : Recorder {
  std::function<void(int64_t step)> act = [](int64_t) {};
  std::function<void()> act_at_checkpoint = [] {};
  std::thread::id thread = std::this_thread::get_id();
  std::vector<int64_t> steps_at_checkpoint;  // steps done when it was reported

  void on_step(const StepReport& report) override {
    Recorder::on_step(report);
    act(report.step);
  }
  void on_checkpoint(const CheckpointReport& report) override {
    EXPECT_EQ(std::this_thread::get_id(), thread);
    steps_at_checkpoint.push_back(static_cast<int64_t>(steps.size()));
    Recorder::on_checkpoint(report);
    act_at_checkpoint();
  }
};

TEST_F(CheckpointWriting, ASlowWriteHoldsTheStepAtWhichItWasDue) {
  job_.training.max_steps = 7;
  job_.checkpoint.interval_steps = 3;
  Acting slow;
  Recorder waiting;
  std::promise<void> open_gate;
  std::atomic<bool> passed = false;
  TrainOptions options = this->options("slow");
  options.checkpoint_probe = [&, gate = open_gate.get_future().share()](std::string_view point) {
    if (point == "shard") gate.wait();
    passed = true;
    return Status();
  };
  slow.act = [&](int64_t step) {
    if (step != 5) return;
    EXPECT_FALSE(passed) << "two steps were trained while it was being written";
    open_gate.set_value();
  };
  run(slow, options);
  EXPECT_EQ(steps_of(slow), (std::vector<int64_t>{3, 6, 7}));
  EXPECT_GE(slow.steps_at_checkpoint[0], 5);
  job_.checkpoint.async = false;
  run(waiting, "waiting");
  EXPECT_EQ(waiting.losses(), slow.losses());
  for (const char* step : {"/step-00000003", "/step-00000006", "/step-00000007"}) {
    expect_equal_checkpoints((folder_ / "slow") + step, (folder_ / "waiting") + step);
    EXPECT_EQ(read_file((folder_ / "slow") + step + kShard).value(),
              read_file((folder_ / "waiting") + step + kShard).value());
  }
}

TEST_F(CheckpointWriting, OneIsInFlightAndNoneIsSkipped) {
  job_.checkpoint.interval_steps = 1;
  Acting recorder;
  std::atomic<int> writing = 0, most = 0;
  TrainOptions options = this->options("saved");
  options.checkpoint_probe = [&](std::string_view point) {
    if (point == "shard") most = std::max<int>(most, ++writing);
    if (point == "latest") --writing;
    return Status();
  };
  run(recorder, options);
  EXPECT_EQ(steps_of(recorder), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(most, 1);
  for (const CheckpointReport& c : recorder.checkpoints) {
    EXPECT_GT(c.bytes, 0);
    EXPECT_GE(c.seconds, c.pause_s);
    EXPECT_TRUE(checkpoint::Checkpoint::open(c.path).ok());
  }
}

TEST_F(CheckpointWriting, KeepsTheLastOnes) {
  for (const bool async : {true, false}) {
    job_.checkpoint = {.interval_steps = 1, .keep_last = 2, .async = async};
    Recorder recorder;
    const std::string name = async ? "async" : "sync";
    run(recorder, name);
    std::vector<std::string> left;
    for (const auto& entry : fs::directory_iterator(folder_ / name)) {
      const std::string file = entry.path().filename().string();
      if (!file.starts_with('.') && entry.is_directory()) left.push_back(file);
    }
    std::sort(left.begin(), left.end());
    EXPECT_EQ(left, (std::vector<std::string>{"step-00000005", "step-00000006"}));
  }
}

TEST_F(CheckpointWriting, TheMemoryOfTheCopyStandsInTheLedger) {
  const auto staging = [&](bool async, int64_t interval) {
    job_.checkpoint = {.interval_steps = interval, .async = async};
    Recorder recorder;
    run(recorder, fmt::format("saved-{}-{}", async, interval));
    int64_t bytes = 0;
    for (const MemoryEntry& entry : recorder.memory)
      bytes += entry.name == "checkpoint/staging" ? entry.peak_bytes : 0;
    return bytes;
  };
  Recorder unused;
  const int64_t bytes = staging(true, 3);
  const std::string shard = (folder_ / "saved-true-3") + "/step-00000006" + kShard;
  const auto file_bytes = static_cast<int64_t>(fs::file_size(shard));
  EXPECT_GE(bytes, file_bytes);
  EXPECT_LE(bytes, file_bytes + 3 * 4096);
  EXPECT_EQ(staging(false, 3), 0);
  EXPECT_EQ(staging(true, 0), 0) << "the last one alone needs no copy";
}

TEST_F(CheckpointWriting, AFullDiskIsToldAndTheNextCheckpointIsTriedAtItsTime) {
  for (const bool async : {true, false}) {
    job_.checkpoint.async = async;
    Recorder recorder;
    std::atomic<int> writes = 0;
    TrainOptions options = this->options(async ? "async" : "sync");
    options.checkpoint_probe = [&](std::string_view point) {
      if (point != "flush" || ++writes != 1) return Status();
      return Status(Code::kFailed, "cannot write 'x': No space left on device");
    };
    const TrainSummary summary = run(recorder, options);
    EXPECT_EQ(summary.steps, 6);
    EXPECT_EQ(steps_of(recorder), (std::vector<int64_t>{4, 6}));
    ASSERT_EQ(recorder.notes.size(), 1u);
    for (const char* part : {"step 2", "No space left", "goes on"})
      EXPECT_NE(recorder.notes[0].find(part), std::string::npos) << recorder.notes[0];
  }
}

TEST_F(CheckpointWriting, AFullDiskAtTheEndIsAnError) {
  for (const bool async : {true, false}) {
    job_.checkpoint.async = async;
    Recorder recorder;
    TrainOptions options = this->options(async ? "async" : "sync");
    options.checkpoint_probe = [](std::string_view point) {
      return point == "flush" ? Status(Code::kFailed, "No space left on device") : Status();
    };
    const auto summary = train(options, recorder);
    EXPECT_EQ(summary.status().code(), Code::kFailed);
    EXPECT_NE(summary.status().message().find("step 6"), std::string::npos);
    EXPECT_NE(summary.status().message().find("No space left"), std::string::npos);
    EXPECT_EQ(recorder.steps.size(), 6u) << "but all steps were trained";
    EXPECT_GE(recorder.notes.size(), 2u);
  }
}

TEST_F(CheckpointWriting, AStopDuringAWriteFinishesItAndThenSavesTheLast) {
  struct Stopping final : Recorder {
    std::promise<void> open_gate;
    bool stop_requested() override {
      if (steps.size() != 3) return false;
      open_gate.set_value();
      return true;
    }
  } recorder;
  TrainOptions options = this->options("saved");
  options.checkpoint_probe = [gate = recorder.open_gate.get_future().share()](std::string_view) {
    gate.wait();
    return Status();
  };
  EXPECT_TRUE(run(recorder, options).stopped);
  EXPECT_EQ(steps_of(recorder), (std::vector<int64_t>{2, 3}));
}

TEST_F(CheckpointWriting, ALaterAttemptEndsARunWhoseCheckpointItFencesOff) {
  for (const bool async : {true, false}) {
    job_.checkpoint.async = async;
    Acting recorder;
    const TrainOptions options = this->options(async ? "async" : "sync");
    recorder.act_at_checkpoint = [&] {
      EXPECT_TRUE(checkpoint::claim(options.checkpoint_dir, 2).ok());
    };
    EXPECT_EQ(train(options, recorder).status().code(), Code::kConflict);
    EXPECT_EQ(steps_of(recorder), (std::vector<int64_t>{2}));
  }
}

TEST_F(CheckpointWriting, ADamagedNewestIsSetAsideAndTheRunGoesOnFromTheOneBefore) {
  Recorder straight, first, second;
  run(straight, "straight");
  first.stop_after = 5;
  run(first, "saved");
  damage(folder_ / "saved/step-00000005");
  run(second, "saved", 2);
  EXPECT_EQ(second.start.first_step, 4);
  ASSERT_EQ(second.notes.size(), 1u);
  for (const char* part : {"step-00000005", "checksum", "unusable-step-00000005", "step-00000004"})
    EXPECT_NE(second.notes[0].find(part), std::string::npos) << second.notes[0];
  EXPECT_TRUE(fs::exists(folder_ / "saved/unusable-step-00000005"));
  EXPECT_EQ(second.losses(), (std::vector<double>{straight.losses()[4], straight.losses()[5]}));
  expect_equal_checkpoints(straight.checkpoints.back().path, second.checkpoints.back().path);
}

// Of another job's folder: named, but left where it is.
TEST_F(CheckpointWriting, ADamagedNewestOfALoadedFolderIsSaidAndTheOneBeforeIsUsed) {
  Recorder first, second;
  first.stop_after = 5;
  run(first, "theirs");
  damage(folder_ / "theirs/step-00000005");
  job_.checkpoint.load = folder_ / "theirs";
  run(second, "ours");
  EXPECT_EQ(second.start.first_step, 4);
  ASSERT_EQ(second.notes.size(), 1u);
  for (const char* part : {"checkpoint.load", "step-00000005", "checksum", "step-00000004"})
    EXPECT_NE(second.notes[0].find(part), std::string::npos) << second.notes[0];
  EXPECT_TRUE(fs::exists(folder_ / "theirs/step-00000005"));
}

TEST_F(CheckpointWriting, AnotherModelsNewestIsSetAsideByItsTensor) {
  Recorder other, first, second;
  const spec::JobSpec job = job_;
  job_.training.max_steps = 2;
  run(first, "saved");
  job_.model.dense_intermediate_size = 64;
  job_.training.max_steps = 5;
  run(other, "other");
  fs::rename(folder_ / "other/step-00000005", folder_ / "saved/step-00000005");
  job_ = job;
  run(second, "saved", 2);
  EXPECT_EQ(second.start.first_step, 2);
  ASSERT_EQ(second.notes.size(), 1u);
  EXPECT_NE(second.notes[0].find("mlp."), std::string::npos) << second.notes[0];
  EXPECT_NE(second.notes[0].find(": 64x"), std::string::npos)
      << "its own shape is said: " << second.notes[0];
}

// What a run at step 5 would have saved, but for one moment.
TEST_F(CheckpointWriting, OneThatLacksAMomentIsSetAsideByItsName) {
  Recorder first, second;
  first.stop_after = 4;
  run(first, "saved");
  const auto saved = checkpoint::Checkpoint::open(folder_ / "saved/step-00000004").value();
  checkpoint::SaveRequest request;
  request.dir = folder_ / "saved";
  request.job = "tiny";
  request.step = 5;
  request.state = saved.state();
  request.state.next_sample_idx = 5 * job_.training.global_batch_size;
  request.state.tokens_seen = request.state.next_sample_idx * job_.training.seq_length;
  for (const checkpoint::TensorInfo& tensor : saved.tensors()) {
    if (tensor.name == "exp_avg_sq.model.norm.weight") continue;
    const auto bytes = saved.bytes(tensor.name);
    request.tensors.push_back(
        {.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape, .data = bytes.data()});
  }
  ASSERT_TRUE(checkpoint::save(request).ok());
  run(second, "saved", 2);
  EXPECT_EQ(second.start.first_step, 4);
  ASSERT_EQ(second.notes.size(), 1u);
  for (const char* part : {"exp_avg_sq.model.norm.weight", "unusable-step-00000005"})
    EXPECT_NE(second.notes[0].find(part), std::string::npos) << second.notes[0];
}

// Right in size and tensors, but saved two steps before.
TEST_F(CheckpointWriting, AShardOfAnotherStepIsNamedAndTheOneBeforeIsUsed) {
  Recorder first, second;
  run(first, "saved");
  fs::copy_file(folder_ / "saved/step-00000004" + kShard, folder_ / "saved/step-00000006" + kShard,
                fs::copy_options::overwrite_existing);
  run(second, "saved", 2);
  EXPECT_EQ(second.start.first_step, 4);
  ASSERT_EQ(second.notes.size(), 1u);
  for (const char* part : {"shard-00001", "step '4'", "'6'", "unusable-step-00000006"})
    EXPECT_NE(second.notes[0].find(part), std::string::npos) << second.notes[0];
}

TEST_F(CheckpointWriting, WithNoneUsableNothingIsMovedAndNothingTrained) {
  Recorder first, second;
  run(first, "saved");
  for (const CheckpointReport& c : first.checkpoints) damage(c.path);
  const auto summary = train(options("saved", 2), second);
  EXPECT_EQ(summary.status().code(), Code::kCheckpointUnusable);
  for (const CheckpointReport& c : first.checkpoints) {
    EXPECT_NE(summary.status().message().find(c.path), std::string::npos);
    EXPECT_TRUE(fs::exists(c.path));
  }
  EXPECT_TRUE(second.steps.empty() && second.notes.empty());
}

TEST_F(CheckpointWriting, ARunThatHasSavedDoesNotBeginAfreshWhereNothingIsLeft) {
  Recorder recorder;
  TrainOptions again = options("gone", 2);
  again.saved_step = 4;
  const auto summary = train(again, recorder);
  EXPECT_EQ(summary.status().code(), Code::kCheckpointUnusable);
  EXPECT_NE(summary.status().message().find("has saved step 4"), std::string::npos);
  EXPECT_TRUE(recorder.steps.empty());
}

}  // namespace
}  // namespace dsv3::train
