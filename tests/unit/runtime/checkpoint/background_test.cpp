// Checkpoints written from an image in memory: the bytes of a synchronous save, whole or absent at
// whatever point the write fails or its process is killed; one at a time in the background.
#include "runtime/checkpoint/background.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <future>

#include "runtime/checkpoint/direct_file.h"
#include "runtime/checkpoint/folder.h"
#include "tests/unit/runtime/checkpoint/saved.h"

namespace dsv3::checkpoint {
namespace {

using namespace testing_support;

const std::vector<std::string> kPoints = {"shard",    "flush",   "manifest",
                                          "complete", "publish", "latest"};

// An image of `source` in memory of its own.
struct Imaged {
  std::vector<std::byte> memory;
  Image image;

  explicit Imaged(const Saved& source, size_t misaligned = 0) {
    memory.resize(static_cast<size_t>(image_bytes_max(source.request).value()) + misaligned);
    image = make_image(source.request, std::span(memory).subspan(misaligned)).value();
    for (size_t i = 0; i < image.targets.size(); ++i) {
      const void* data = source.request.tensors[i].data;
      if (data) std::memcpy(image.targets[i].data(), data, image.targets[i].size());
    }
  }
};

TEST(Image, IsWrittenAsTheFilesOfASynchronousSave) {
  for (const int64_t shard_bytes : {int64_t{64}, int64_t{1} << 30}) {
    const TemporaryFolder folder;
    for (const size_t misaligned : {0, 1, 4095}) {
      Saved source(folder / "direct");
      source.request.shard_bytes_max = shard_bytes;
      source.request.step = 100 + static_cast<int64_t>(misaligned);
      const Imaged imaged(source, misaligned);
      const auto direct = save(imaged.image);
      ASSERT_TRUE(direct.ok()) << direct.status().to_string();
      source.request.dir = folder / "streamed";
      const auto streamed = save(source.request);
      ASSERT_TRUE(streamed.ok());
      EXPECT_EQ(direct->bytes, streamed->bytes);
      EXPECT_EQ(files_in(direct->path), files_in(streamed->path));
      EXPECT_TRUE(Checkpoint::open(direct->path).ok());
    }
  }
}

TEST(Image, LargerThanOneWriteIsWholeToo) {
  const TemporaryFolder folder;
  Saved source(folder.path());
  const std::vector<uint32_t> large = random_words((33 << 20) / 4 + 7, "large");
  source.request.tensors.push_back(
      {"large", DType::kF32, {static_cast<int64_t>(large.size())}, large.data()});
  const auto saved = save(Imaged(source).image);
  ASSERT_TRUE(saved.ok()) << saved.status().to_string();
  const auto checkpoint = Checkpoint::open(saved->path).value();
  const auto bytes = checkpoint.bytes("large");
  ASSERT_EQ(bytes.size(), large.size() * 4);
  EXPECT_EQ(std::memcmp(bytes.data(), large.data(), bytes.size()), 0);
}

TEST(Image, NeedsTheMemoryThatItAskedFor) {
  const TemporaryFolder folder;
  Saved source(folder.path());
  source.request.step = 99999999;
  std::vector<std::byte> memory(static_cast<size_t>(image_bytes_max(source.request).value()));
  EXPECT_TRUE(make_image(source.request, memory).ok());
  memory.resize(4096);
  EXPECT_EQ(make_image(source.request, memory).status().code(), Code::kInvalid);
  source.request.tensors[0].shape = {2, 4};  // and its data is another piece's size: not looked at
  source.request.tensors.push_back(source.request.tensors[0]);
  EXPECT_EQ(make_image(source.request, memory).status().code(), Code::kInvalid) << "twice";
}

TEST(Image, AFullDiskNamesThePathAndKeepsTheOlderOnes) {
  const TemporaryFolder folder;
  ASSERT_TRUE(save(Saved(folder.path(), 10).request).ok());
  const Imaged imaged{Saved(folder.path(), 20)};
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{2000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto failed = save(imaged.image);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(failed.status().code(), Code::kFailed);
  EXPECT_NE(failed.status().message().find(folder.path()), std::string::npos);
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
  EXPECT_EQ(newest_valid(folder.path()).value().step, 10);
  EXPECT_TRUE(save(imaged.image).ok()) << "and the same image serves again";
}

TEST(Image, AFailureAtAnyPointLeavesTheOlderOnesAndNothingElse) {
  for (const std::string& point : kPoints) {
    const TemporaryFolder folder;
    ASSERT_TRUE(save(Saved(folder.path(), 10).request).ok());
    Saved source(folder.path(), 20);
    source.request.probe = [&](std::string_view at) {
      return at == point ? Status(Code::kFailed, "the disk is full") : Status();
    };
    EXPECT_EQ(save(Imaged(source).image).status().code(), Code::kFailed) << point;
    // Published, only the marker for scripts is behind: the checkpoint counts.
    EXPECT_EQ(newest_valid(folder.path()).value().step, point == "latest" ? 20 : 10) << point;
    EXPECT_EQ(count_in(folder.path(), ".tmp"), 0) << point;
  }
}

TEST(Image, AKillAtAnyPointLeavesAWholeCheckpointAndTheNextAttemptCleansUp) {
  for (const std::string& point : kPoints) {
    const TemporaryFolder folder;
    ASSERT_TRUE(save(Saved(folder.path(), 10).request).ok());
    Saved source(folder.path(), 20);
    source.request.probe = [&](std::string_view at) {
      if (at == point) ::kill(::getpid(), SIGKILL);
      return Status();
    };
    const Imaged imaged(source);
    const pid_t child = ::fork();
    if (child == 0) {
      static_cast<void>(save(imaged.image).ok());
      ::_exit(0);
    }
    int how = 0;
    ASSERT_EQ(::waitpid(child, &how, 0), child);
    ASSERT_TRUE(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL) << point;
    EXPECT_EQ(count_in(folder.path(), ".tmp"), point == "latest" ? 0 : 1) << point;
    EXPECT_EQ(newest_valid(folder.path()).value().step, point == "latest" ? 20 : 10) << point;
    EXPECT_TRUE(Checkpoint::open(folder / "step-00000010").ok()) << point;
    // The lock has gone with its holder; the next attempt saves the step and leaves no rest.
    ASSERT_TRUE(claim(folder.path(), 2).ok());
    ASSERT_TRUE(save(Imaged(Saved(folder.path(), 20, 2)).image).ok()) << point;
    EXPECT_EQ(count_in(folder.path(), ".tmp"), 0) << point;
    EXPECT_EQ(newest_valid(folder.path()).value().attempt, 2) << point;
  }
}

TEST(Background, ItsThreadAloneStandsBehindAllOthers) {
  const auto standing = [] {
    return std::pair(::getpriority(PRIO_PROCESS, 0), ::sched_getscheduler(0));
  };
  const auto before = standing();
  Background<std::pair<int, int>> background;
  background.start(standing);
  EXPECT_EQ(*background.wait(), std::pair(19, SCHED_BATCH));
  EXPECT_EQ(standing(), before);
}

TEST(BackgroundSaver, HandsOverOneOutcomeWhenTheWriteIsDone) {
  const TemporaryFolder folder;
  std::promise<void> open_gate;
  Saved source(folder.path(), 10);
  source.request.probe = [gate = open_gate.get_future().share()](std::string_view point) {
    if (point == "flush") gate.wait();
    return Status();
  };
  Imaged imaged(source);
  BackgroundSaver saver;
  EXPECT_FALSE(saver.wait().has_value());
  saver.start(imaged.image, 2);
  EXPECT_TRUE(saver.busy());
  EXPECT_FALSE(saver.poll().has_value()) << "it stands at the gate";
  EXPECT_EQ(newest_valid(folder.path()).status().code(), Code::kNotFound);
  open_gate.set_value();
  const auto outcome = saver.wait();
  ASSERT_TRUE(outcome && outcome->saved.ok() && outcome->retired.ok());
  EXPECT_EQ(outcome->saved->path, folder / "step-00000010");
  EXPECT_FALSE(saver.busy());
  EXPECT_FALSE(saver.poll().has_value());
}

TEST(BackgroundSaver, KeepsTheLastAndTheNewestValidOne) {
  const TemporaryFolder folder;
  BackgroundSaver saver;
  for (const int64_t step : {10, 20, 30}) {
    Imaged imaged{Saved(folder.path(), step)};
    saver.start(imaged.image, 2);
    ASSERT_TRUE(saver.wait()->saved.ok());
    // The one just written is damaged afterwards, so that it looks newest but is not valid.
    if (step == 30) flip_byte(folder / "step-00000030/shard-00001-of-00001.safetensors", 1000);
  }
  EXPECT_EQ(count_in(folder.path(), "step-"), 2);
  EXPECT_EQ(newest_valid(folder.path()).value().step, 20);
  // Nobody knows of the damage: a count alone would delete step 20.
  ASSERT_TRUE(keep_last(folder.path(), 1).ok());
  EXPECT_EQ(newest_valid(folder.path()).value().step, 20);
  // A write that fails deletes nothing.
  Saved source(folder.path(), 40);
  source.request.probe = [](std::string_view point) {
    return point == "publish" ? Status(Code::kFailed, "no room") : Status();
  };
  Imaged imaged(source);
  saver.start(imaged.image, 1);
  EXPECT_FALSE(saver.wait()->saved.ok());
  EXPECT_EQ(newest_valid(folder.path()).value().step, 20);
}

}  // namespace
}  // namespace dsv3::checkpoint
