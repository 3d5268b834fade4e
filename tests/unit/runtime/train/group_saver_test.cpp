// Saves of several ranks when something goes wrong, or takes its time: published only when all have
// written, failed on all alike when one fails, and the older checkpoints stay.
#include "runtime/train/group_saver.h"

#include <gtest/gtest.h>

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/train/rank_text.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::train {
namespace {

using checkpoint::SaveOutcome;
using comm::expect;

constexpr int kRanks = 3;
constexpr int64_t kRowsEach = 2, kCols = 300;

// This rank's rows of one tensor.
struct Rows {
  std::vector<int32_t> values;
  checkpoint::SaveRequest request;
  checkpoint::PartsTarget target;

  Rows(const std::string& dir, int64_t step, int rank, int64_t attempt = 1) {
    for (int64_t i = 0; i < kRowsEach * kCols; ++i)
      values.push_back(static_cast<int32_t>(1'000'000 * step + rank * 10'000 + i));
    request.dir = dir;
    request.job = "job-1";
    request.attempt = attempt;
    request.step = step;
    request.rank = rank;
    request.world = kRanks;
    request.tensors.push_back({.name = "w",
                               .dtype = DType::kI32,
                               .shape = {kRowsEach * kRanks, kCols},
                               .data = values.data(),
                               .box = checkpoint::Box{rank * kRowsEach, kRowsEach, 0, kCols}});
    target = {dir, attempt, step};
  }
  GroupSaver::WritePart write() const {
    return [this](const std::string& folder) { return checkpoint::write_part(folder, request); };
  }
};

bool holds(const std::string& dir, int64_t step) {
  const auto saved = checkpoint::Checkpoint::open(fmt::format("{}/step-{:08}", dir, step));
  if (!saved.ok()) return false;
  std::vector<int32_t> all(kRanks * kRowsEach * kCols);
  if (!saved->read("w", std::as_writable_bytes(std::span(all))).ok()) return false;
  for (int rank = 0; rank < kRanks; ++rank) {
    const Rows rows(dir, step, rank);
    if (!std::equal(rows.values.begin(), rows.values.end(), all.begin() + rank * kRowsEach * kCols))
      return false;
  }
  return true;
}

int64_t leftovers(const std::string& dir) {
  int64_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir))
    count += entry.path().filename().string().starts_with(".tmp");
  return count;
}

SaveOutcome save(comm::Communicator& world, const Rows& rows) {
  return GroupSaver(world).save(rows.target, 10, rows.write());
}
void expect_saved(const SaveOutcome& outcome) {
  expect(outcome.saved.ok(), outcome.saved.ok() ? "" : outcome.saved.status().to_string());
}
// The same failure, in words too, on every rank.
void expect_failed(comm::Communicator& world, const SaveOutcome& outcome, Code code,
                   const std::string& part) {
  expect(!outcome.saved.ok(), "it was saved");
  const Status& status = outcome.saved.status();
  expect(status.code() == code, status.to_string());
  expect(status.message().find(part) != std::string::npos, status.message());
  expect(broadcast_text(world, "test", status.message()) == status.message(), "other words");
}

void with_world(const std::function<void(int, comm::Communicator&)>& body) {
  const std::string rendezvous = comm::unique_rendezvous();
  comm::all_ranks(kRanks, [&](int rank) {
    const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, kRanks));
    const auto world = mesh->create_group("world", comm::all_of(kRanks));
    body(rank, *world);
  });
}

TEST(GroupSaver, WritesOnePartEach) {
  const TemporaryFolder folder;
  with_world([&](int rank, comm::Communicator& world) {
    const SaveOutcome outcome = save(world, Rows(folder.path(), 10, rank));
    expect_saved(outcome);
    expect(outcome.saved->path == folder / "step-00000010", outcome.saved->path);
    expect(outcome.saved->bytes > kRanks * kRowsEach * kCols * 4, "bytes of all");
  });
  EXPECT_TRUE(holds(folder.path(), 10));
  EXPECT_EQ(leftovers(folder.path()), 0);
}

TEST(GroupSaver, PublishesOnlyWhenTheLastRankHasWritten) {
  const TemporaryFolder folder;
  comm::Shared& shared = comm::shared_memory();
  with_world([&](int rank, comm::Communicator& world) {
    const Rows rows(folder.path(), 10, rank);
    GroupSaver saver(world);
    expect(!saver.poll() && !saver.wait(), "nothing is under way");
    saver.start(rows.target, 10, [&](const std::string& in) {
      while (rank == 1 && shared.flags[0] == 0) ::sched_yield();
      return checkpoint::write_part(in, rows.request);
    });
    // As training does between steps; what the others have written is not published.
    for (int step = 0; step < 20; ++step) {
      expect(saver.busy() && !saver.poll(), "rank 1 stands at the gate");
      expect(!path_exists(folder / "step-00000010"), "published too early");
    }
    world.barrier("all have looked");
    shared.flags[0] = 1;
    const std::optional<SaveOutcome> outcome = saver.wait();
    expect(outcome.has_value() && !saver.busy(), "an outcome, once");
    expect_saved(*outcome);
    expect(!saver.poll(), "taken");
  });
  EXPECT_TRUE(holds(folder.path(), 10));
}

TEST(GroupSaver, PollingAloneBringsItToItsEnd) {
  const TemporaryFolder folder;
  with_world([&](int rank, comm::Communicator& world) {
    GroupSaver saver(world);
    for (const int64_t step : {10, 20, 30}) {
      const Rows rows(folder.path(), step, rank);
      saver.start(rows.target, 2, rows.write());
      std::optional<SaveOutcome> outcome;
      while (!(outcome = saver.poll())) ::sched_yield();
      expect_saved(*outcome);
      expect(!saver.busy(), "an outcome ends it");
    }
  });
  EXPECT_TRUE(holds(folder.path(), 30) && holds(folder.path(), 20));
  EXPECT_FALSE(path_exists(folder / "step-00000010")) << "keep_last is 2";
}

// A limit on file sizes stands in for the full disk, on one rank.
TEST(GroupSaver, AFullDiskOfOneRankFailsTheSaveOnAllAndKeepsTheOlderOnes) {
  const TemporaryFolder folder;
  with_world([&](int rank, comm::Communicator& world) {
    expect_saved(save(world, Rows(folder.path(), 10, rank)));
    rlimit before{};
    ::getrlimit(RLIMIT_FSIZE, &before);
    if (rank == 2) {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit small{1000, before.rlim_max};
      ::setrlimit(RLIMIT_FSIZE, &small);
    }
    const Rows rows(folder.path(), 20, rank);
    expect_failed(world, save(world, rows), Code::kFailed, "rank 2: cannot write");
    GroupSaver saver(world);
    saver.start(rows.target, 10, rows.write());
    expect_failed(world, *saver.wait(), Code::kFailed, "rank 2: cannot write");
    world.barrier("all have seen it");
    expect(leftovers(folder.path()) == 0, "the folder is deleted");
    expect(checkpoint::newest_valid(folder.path())->step == 10, "the older one stays");
    world.barrier("all have looked");
    ::setrlimit(RLIMIT_FSIZE, &before);
    expect_saved(save(world, Rows(folder.path(), 20, rank)));
  });
  EXPECT_TRUE(holds(folder.path(), 10) && holds(folder.path(), 20));
}

TEST(GroupSaver, AFenceAtAnyPointFailsTheSaveOnAll) {
  for (const bool early : {true, false}) {
    const TemporaryFolder folder;
    with_world([&](int rank, comm::Communicator& world) {
      const Rows rows(folder.path(), 10, rank);
      const auto claim = [&] {
        if (rank == 0) expect(checkpoint::claim(folder.path(), 2).ok(), "claim");
      };
      if (early) claim();
      const SaveOutcome outcome =
          GroupSaver(world).save(rows.target, 10, [&](const std::string& in) {
            if (!early) claim();
            return checkpoint::write_part(in, rows.request);
          });
      expect_failed(world, outcome, Code::kConflict, "attempt 2 has begun");
    });
    EXPECT_EQ(leftovers(folder.path()), 0);
    EXPECT_FALSE(path_exists(folder / "step-00000010"));
  }
}

TEST(GroupSaver, ARankThatWritesNothingOfItsOwnIsNoticed) {
  const TemporaryFolder folder;
  with_world([&](int rank, comm::Communicator& world) {
    Rows rows(folder.path(), 10, rank);
    if (rank == 1) rows.request.tensors.clear();
    expect_failed(world, save(world, rows), Code::kInvalid, "1200 of 1800 elements");
  });
  EXPECT_EQ(leftovers(folder.path()), 0);
}

TEST(GroupSaver, AKilledRankLeavesTheOlderOnesAndTheNextAttemptCleansUp) {
  const TemporaryFolder folder;
  with_world([&](int rank, comm::Communicator& world) {
    expect_saved(save(world, Rows(folder.path(), 10, rank)));
  });
  const std::string rendezvous = comm::unique_rendezvous();
  const auto results = comm::run_ranks(kRanks, [&](int rank) -> std::string {
    const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, kRanks));
    const auto world = mesh->create_group("world", comm::all_of(kRanks));
    const Rows rows(folder.path(), 20, rank);
    GroupSaver saver(*world);
    try {
      saver.start(rows.target, 10, [&](const std::string& in) {
        if (rank == 1) ::kill(::getpid(), SIGKILL);
        return checkpoint::write_part(in, rows.request);
      });
      static_cast<void>(saver.wait());
    } catch (const Failure& failure) {
      static_cast<void>(saver.abandon());
      return failure.what();
    }
    return "went on";
  });
  EXPECT_EQ(results[1].signal, SIGKILL);
  for (const int rank : {0, 2}) {
    EXPECT_FALSE(results[static_cast<size_t>(rank)].failed);
    EXPECT_NE(results[static_cast<size_t>(rank)].text, "went on");
  }
  EXPECT_EQ(leftovers(folder.path()), 1);
  EXPECT_EQ(checkpoint::newest_valid(folder.path()).value().step, 10);
  ASSERT_TRUE(checkpoint::claim(folder.path(), 2).ok());
  with_world([&](int rank, comm::Communicator& world) {
    expect_saved(save(world, Rows(folder.path(), 20, rank, 2)));
  });
  EXPECT_EQ(leftovers(folder.path()), 0);
  EXPECT_TRUE(holds(folder.path(), 20));
}

TEST(RankText, TextsOfAnyLengthComeWhole) {
  with_world([&](int rank, comm::Communicator& world) {
    for (const size_t length : {0u, 1u, 3u, 4u, 5u, 100'000u}) {
      const std::string own(length + static_cast<size_t>(rank), static_cast<char>('a' + rank));
      expect(broadcast_text(world, "text", own, 2) == std::string(length + 2, 'c'), "from rank 2");
      const std::vector<std::string> texts = gather_texts(world, "texts", own);
      expect(texts.size() == (rank == 0 ? kRanks : 0u), "on rank 0 alone");
      for (size_t r = 0; r < texts.size(); ++r)
        expect(texts[r] == std::string(length + r, static_cast<char>('a' + r)), "as it was");
    }
  });
}

TEST(RankText, TheLowestRankThatFailsIsNamedEverywhere) {
  with_world([&](int rank, comm::Communicator& world) {
    expect(agree(world, "test", Status()).ok(), "nobody failed");
    const Status own = rank == 0 ? Status() : Status(Code::kDevice, fmt::format("r{}", rank), "h");
    const Status agreed = agree(world, "test", own);
    expect(agreed.code() == Code::kDevice && agreed.message() == "rank 1: r1", agreed.to_string());
    expect(agreed.hint() == "h", agreed.hint());
  });
}

}  // namespace
}  // namespace dsv3::train
