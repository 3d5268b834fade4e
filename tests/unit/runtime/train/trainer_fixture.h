// What the training loop's tests share: a tiny job on a text of its own, an observer that remembers
// everything, and checkpoints compared bit by bit.
//
// Law: the same on every run; all files lie in a folder of the test's own.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/data/indexed_dataset.h"
#include "runtime/train/trainer.h"
#include "tests/unit/runtime/temporary_folder.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::train::testing_support {

// Remembers everything; asks to stop after `stop_after` steps and for a checkpoint after
// `checkpoint_after`.
struct Recorder : TrainObserver {
  int64_t stop_after = -1;
  int64_t checkpoint_after = -1;
  TrainStart start;
  std::vector<StepReport> steps;
  std::vector<ValidationReport> validations;
  std::vector<CheckpointReport> checkpoints;
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> counts;  // (step, layer)
  std::vector<MemoryEntry> memory;
  std::vector<std::string> notes;

  void on_start(const TrainStart& s) override { start = s; }
  void on_step(const StepReport& s) override { steps.push_back(s); }
  void on_validation(const ValidationReport& v) override { validations.push_back(v); }
  void on_checkpoint(const CheckpointReport& c) override { checkpoints.push_back(c); }
  void on_expert_counts(int64_t step, int64_t layer, std::span<const int64_t> c) override {
    counts[{step, layer}] = {c.begin(), c.end()};
  }
  void on_memory(const std::vector<MemoryEntry>& m) override { memory = m; }
  void on_note(const std::string& text) override { notes.push_back(text); }
  bool stop_requested() override { return static_cast<int64_t>(steps.size()) == stop_after; }
  bool checkpoint_requested() override {
    if (static_cast<int64_t>(steps.size()) != checkpoint_after) return false;
    checkpoint_after = -1;
    return true;
  }
  std::vector<double> losses() const {
    std::vector<double> result;
    for (const StepReport& s : steps) result.push_back(s.loss);
    return result;
  }
};

class TrainerFixture : public testing::Test {
 protected:
  TrainerFixture() {
    write_dataset();
    job_ = dsv3::testing_support::tiny_job();
    job_.data.path = {{folder_ / "data", 1.0}};
    job_.data.split = {0.8, 0.2};
    job_.checkpoint.keep_last = 10;
  }

  // 40 documents of 30 tokens in which each token follows from the one before, so that there is
  // something to learn.
  void write_dataset() {
    auto builder = data::IndexedDatasetBuilder::create(folder_ / "data", data::TokenType::kU16);
    ASSERT_TRUE(builder.ok()) << builder.status().to_string();
    const CounterRng rng(5, 6);
    for (uint64_t document = 0; document < 40; ++document) {
      std::vector<int32_t> tokens;
      for (uint64_t i = 0; i < 30; ++i) {
        const auto noise = static_cast<int32_t>(rng.below(document * 30 + i, 3));
        tokens.push_back(i == 0 ? noise : (tokens.back() * 7 + 3 + noise) % 50);
      }
      ASSERT_TRUE(builder->add_document(tokens).ok());
    }
    ASSERT_TRUE(builder->finish().ok());
  }

  TrainOptions options(const std::string& checkpoints = {}, int64_t attempt = 1) const {
    TrainOptions options{.spec = job_, .job = "tiny", .attempt = attempt};
    if (!checkpoints.empty()) options.checkpoint_dir = folder_ / checkpoints;
    return options;
  }
  TrainSummary run(Recorder& recorder, const std::string& checkpoints = {}, int64_t attempt = 1) {
    return run(recorder, options(checkpoints, attempt));
  }
  TrainSummary run(Recorder& recorder, const TrainOptions& options) {
    auto summary = train(options, recorder);
    EXPECT_TRUE(summary.ok()) << summary.status().to_string();
    return summary.ok() ? *summary : TrainSummary{};
  }
  Status failure(const TrainOptions& options) {
    Recorder recorder;
    auto summary = train(options, recorder);
    return summary.ok() ? Status() : summary.status();
  }

  TemporaryFolder folder_;
  spec::JobSpec job_;
};

// Every tensor of two checkpoints, bit by bit.
inline void expect_equal_checkpoints(const std::string& a_path, const std::string& b_path) {
  const auto a = checkpoint::Checkpoint::open(a_path), b = checkpoint::Checkpoint::open(b_path);
  ASSERT_TRUE(a.ok() && b.ok());
  ASSERT_EQ(a->tensors().size(), b->tensors().size());
  EXPECT_GT(a->tensors().size(), 100u);
  for (const checkpoint::TensorInfo& tensor : a->tensors()) {
    const size_t bytes = static_cast<size_t>(tensor.num_elements()) * dtype_bytes(tensor.dtype);
    std::vector<std::byte> x(bytes), y(bytes);
    ASSERT_TRUE(a->read(tensor.name, x).ok() && b->read(tensor.name, y).ok()) << tensor.name;
    EXPECT_EQ(x, y) << tensor.name;
  }
}

}  // namespace dsv3::train::testing_support
