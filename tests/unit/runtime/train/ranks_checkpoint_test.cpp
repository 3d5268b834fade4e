// Checkpoints of a run on two ranks: each writes its part while training goes on; what goes on from
// them, on two ranks or on one, is what would have gone on without them.
#include <gtest/gtest.h>
#include <omp.h>

#include <filesystem>
#include <functional>

#include "base/file.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/train/trainer_fixture.h"

namespace dsv3::train {
namespace {

using testing_support::expect_equal_checkpoints;
using testing_support::Recorder;

class RanksCheckpoint : public testing_support::TrainerFixture {
 protected:
  RanksCheckpoint() {
    ::omp_set_num_threads(1);  // no pool of threads that later forks would lack
    job_.model.num_layers = 2;
    job_.checkpoint.interval_steps = 2;
    job_.training.eval_batches = 1;
  }
  // Trains on two ranks; each gives its outcome to `check`.
  using Check = std::function<void(int rank, const Result<TrainSummary>&, const Recorder&)>;
  void run_two(TrainOptions options, int64_t stop_after, const Check& check) {
    options.spec.parallel.data_parallel_size = 2;
    const std::string rendezvous = comm::unique_rendezvous();
    comm::all_ranks(2, [&](int rank) {
      const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, 2));
      const comm::RankGroups groups(*mesh, plan::Layout{.dp = 2, .zero_stage = 0}, false);
      Recorder recorder;
      recorder.stop_after = stop_after;
      TrainOptions own = options;
      own.groups = &groups.groups();
      const Result<TrainSummary> summary = train(own, recorder);
      check(rank, summary, recorder);
    });
  }
  void run_two(const TrainOptions& options, int64_t stop_after = -1) {
    run_two(options, stop_after,
            [](int rank, const Result<TrainSummary>& summary, const Recorder& recorder) {
              comm::expect(summary.ok(), summary.ok() ? "" : summary.status().to_string());
              comm::expect(recorder.checkpoints.empty() == (rank != 0), "rank 0 alone reports");
            });
  }
};

TEST_F(RanksCheckpoint, GoOnBitForBit) {
  run_two(options("straight"));
  run_two(options("resumed"), 3);
  run_two(options("resumed", 2));
  job_.checkpoint.async = false;
  run_two(options("waiting"));
  const std::string last = (folder_ / "straight") + "/step-00000006";
  expect_equal_checkpoints(last, (folder_ / "resumed") + "/step-00000006");
  expect_equal_checkpoints(last, (folder_ / "waiting") + "/step-00000006");
  EXPECT_TRUE(path_exists(last + "/rank-00001-shard-00001-of-00001.safetensors"));
  // The same bytes, whether they were written while training went on or not.
  for (const char* file : {"/rank-00000-shard-00001-of-00001.safetensors",
                           "/rank-00001-shard-00001-of-00001.safetensors"})
    EXPECT_EQ(read_file(last + file).value(),
              read_file((folder_ / "waiting") + "/step-00000006" + file).value());
}

TEST_F(RanksCheckpoint, OneRankGoesOnFromTwoAndTwoFromOne) {
  run_two(options("saved"), 3);
  Recorder alone;
  alone.stop_after = 1;
  run(alone, "saved", 2);
  EXPECT_EQ(alone.start.first_step, 3);
  EXPECT_TRUE(path_exists((folder_ / "saved") + "/step-00000004/shard-00001-of-00001.safetensors"));
  run_two(options("saved", 3), -1,
          [](int, const Result<TrainSummary>& summary, const Recorder& recorder) {
            comm::expect(summary.ok() && recorder.start.first_step == 4, "from step 4");
          });
}

TEST_F(RanksCheckpoint, AFullDiskOfOneRankIsToldAndTrainingGoesOn) {
  for (const bool async : {true, false}) {
    job_.checkpoint.async = async;
    const TrainOptions base = options(async ? "async" : "waiting");
    comm::Shared& shared = comm::shared_memory();
    TrainOptions own = base;
    own.checkpoint_probe = [&shared](std::string_view point) {
      // The first flush of whichever rank comes first.
      const bool fails = point == "flush" && shared.count.fetch_add(1) == 0;
      return fails ? Status(Code::kFailed, "No space left on device") : Status();
    };
    run_two(own, -1, [](int rank, const Result<TrainSummary>& summary, const Recorder& recorder) {
      comm::expect(summary.ok() && summary->steps == 6, "all steps");
      comm::expect(recorder.notes.size() == (rank == 0 ? 1 : 0), "one note");
      if (rank == 0)
        for (const char* part : {"step 2", "rank ", "No space left", "goes on"})
          comm::expect(recorder.notes[0].find(part) != std::string::npos, recorder.notes[0]);
    });
    EXPECT_FALSE(path_exists(base.checkpoint_dir + "/step-00000002"));
    EXPECT_EQ(checkpoint::newest_valid(base.checkpoint_dir).value().step, 6);
  }
}

// Rank 0 alone looks for one; what it finds all are told.
TEST_F(RanksCheckpoint, WithNoneUsableAllRanksEndAlike) {
  run_two(options("saved"), 3);
  for (const char* step : {"/step-00000002", "/step-00000003"})
    std::filesystem::remove((folder_ / "saved") + step +
                            "/rank-00001-shard-00001-of-00001.safetensors");
  run_two(options("saved", 2), -1, [](int, const Result<TrainSummary>& summary, const Recorder&) {
    comm::expect(!summary.ok(), "nothing can be used");
    const Status& status = summary.status();
    comm::expect(status.code() == Code::kCheckpointUnusable, status.to_string());
    comm::expect(status.message().find("rank-00001") != std::string::npos, status.message());
  });
}

}  // namespace
}  // namespace dsv3::train
