// Choosing what a run goes on from: whatever is torn, damaged or foreign is named and set aside,
// once, and only where an older checkpoint takes its place.
#include "runtime/checkpoint/select.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "runtime/checkpoint/folder.h"
#include "tests/unit/runtime/checkpoint/saved.h"

namespace dsv3::checkpoint {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const std::string kShard = "/shard-00001-of-00001.safetensors";

Status fits_all(const Checkpoint&) {
  return {};
}

struct Damage {
  std::string name;
  std::function<void(const std::string& path)> apply;
  std::string says;  // in the reason
};

const std::vector<Damage>& damages() {
  static const std::vector<Damage> all = {
      {"truncated shard", [](const std::string& p) { fs::resize_file(p + kShard, 900); }, "shard"},
      {"empty shard", [](const std::string& p) { fs::resize_file(p + kShard, 0); }, "shard"},
      {"flipped byte", [](const std::string& p) { flip_byte(p + kShard, 1500); }, "checksum"},
      {"no shard", [](const std::string& p) { fs::remove(p + kShard); }, "shard"},
      {"no complete", [](const std::string& p) { fs::remove(p + "/complete"); }, "never completed"},
      {"no manifest", [](const std::string& p) { fs::remove(p + "/manifest.json"); }, "manifest"},
      {"torn manifest", [](const std::string& p) { fs::resize_file(p + "/manifest.json", 99); },
       "checksum"},
      {"an empty folder",
       [](const std::string& p) {
         fs::remove_all(p);
         fs::create_directory(p);
       },
       "never completed"},
      {"a file",
       [](const std::string& p) {
         fs::remove_all(p);
         overwrite(p, "x");
       },
       "never completed"},
      {"another step's folder",
       [](const std::string& p) {
         fs::remove_all(p);
         fs::copy(fs::path(p).parent_path() / "step-00000010", p, fs::copy_options::recursive);
       },
       "holds step 10"},
  };
  return all;
}

TEST(SelectCheckpoint, SetsEveryKindOfDamageAsideAndTakesTheOneBefore) {
  for (const Damage& damage : damages()) {
    const TemporaryFolder folder;
    ASSERT_TRUE(claim(folder.path(), 1).ok());
    for (const int64_t step : {10, 20}) ASSERT_TRUE(save(Saved(folder.path(), step).request).ok());
    damage.apply(folder / "step-00000020");
    const auto selected = select_checkpoint(folder.path(), "job-1", 1, fits_all);
    ASSERT_TRUE(selected.ok()) << damage.name << ": " << selected.status().to_string();
    EXPECT_EQ(selected->path, folder / "step-00000010") << damage.name;
    EXPECT_EQ(selected->step, 10);
    ASSERT_EQ(selected->set_aside.size(), 1u) << damage.name;
    const SetAside& aside = selected->set_aside[0];
    EXPECT_EQ(aside.path, folder / "step-00000020");
    EXPECT_EQ(aside.moved_to, folder / "unusable-step-00000020");
    EXPECT_NE(aside.reason.find(damage.says), std::string::npos) << aside.reason;
    EXPECT_NE(aside.reason.find("step-00000020"), std::string::npos) << aside.reason;
    EXPECT_TRUE(fs::exists(aside.moved_to)) << damage.name;
    // From now on it is nobody's business: said once, not listed, not deleted.
    EXPECT_TRUE(select_checkpoint(folder.path(), "job-1", 1, fits_all).value().set_aside.empty());
    EXPECT_EQ(list_checkpoints(folder.path()).size(), 1u);
    ASSERT_TRUE(save(Saved(folder.path(), 20).request).ok());
    ASSERT_TRUE(keep_last(folder.path(), 1).ok());
    EXPECT_TRUE(fs::exists(aside.moved_to)) << damage.name;
  }
}

TEST(SelectCheckpoint, KeepsTwoOfTheSameNameApart) {
  const TemporaryFolder folder;
  ASSERT_TRUE(claim(folder.path(), 1).ok());
  ASSERT_TRUE(save(Saved(folder.path(), 10).request).ok());
  for (const char* name :
       {"unusable-step-00000020", "unusable-step-00000020-2", "unusable-step-00000020-3"}) {
    ASSERT_TRUE(save(Saved(folder.path(), 20).request).ok());
    fs::remove(folder / "step-00000020/complete");
    const auto selected = select_checkpoint(folder.path(), "job-1", 1, fits_all);
    ASSERT_TRUE(selected.ok());
    EXPECT_EQ(selected->set_aside.at(0).moved_to, folder / name);
  }
  EXPECT_EQ(count_in(folder.path(), "unusable-"), 3);
}

TEST(SelectCheckpoint, AnotherJobsAndAnotherModelsAreSetAsideToo) {
  const TemporaryFolder folder;
  Saved foreign(folder / "other", 5);
  foreign.request.job = "job-2";
  ASSERT_TRUE(save(foreign.request).ok());
  for (const int64_t step : {10, 20}) ASSERT_TRUE(save(Saved(folder.path(), step).request).ok());
  fs::rename(folder / "other/step-00000005", folder / "step-00000005");
  ASSERT_TRUE(claim(folder.path(), 2).ok());
  const auto fits = [](const Checkpoint& saved) {
    return saved.step() == 20 ? Status(Code::kCheckpointUnusable, "tensor w has another shape")
                              : Status();
  };
  const auto selected = select_checkpoint(folder.path(), "job-1", 2, fits);
  ASSERT_TRUE(selected.ok()) << selected.status().to_string();
  EXPECT_EQ(selected->step, 10);
  ASSERT_EQ(selected->set_aside.size(), 2u);
  EXPECT_EQ(selected->set_aside[0].reason, "tensor w has another shape");
  EXPECT_NE(selected->set_aside[1].reason.find("job 'job-2', not 'job-1'"), std::string::npos)
      << "although it is older: it would keep this job from publishing";
  EXPECT_TRUE(save(Saved(folder.path(), 30, 2).request).ok());
}

TEST(SelectCheckpoint, WithNoneLeftNamesEachAndMovesNothing) {
  const TemporaryFolder folder;
  ASSERT_TRUE(claim(folder.path(), 1).ok());
  EXPECT_EQ(select_checkpoint(folder.path(), "job-1", 1, fits_all).status().code(),
            Code::kNotFound);
  for (const int64_t step : {10, 20}) ASSERT_TRUE(save(Saved(folder.path(), step).request).ok());
  flip_byte((folder / "step-00000010") + kShard, 1500);
  fs::remove(folder / "step-00000020/complete");
  const auto none = select_checkpoint(folder.path(), "job-1", 1, fits_all);
  EXPECT_EQ(none.status().code(), Code::kCheckpointUnusable);
  for (const char* step : {"step-00000010", "step-00000020"})
    EXPECT_NE(none.status().message().find(step), std::string::npos) << none.status().message();
  EXPECT_EQ(count_in(folder.path(), "step-"), 2);
  EXPECT_EQ(count_in(folder.path(), "unusable-"), 0);
  const auto foreign = select_checkpoint(folder.path(), "job-9", 1, fits_all);
  EXPECT_EQ(foreign.status().code(), Code::kCheckpointUnusable);
}

TEST(SelectCheckpoint, OnlyTheHolderOfTheClaimSetsAside) {
  const TemporaryFolder folder;
  for (const int64_t step : {10, 20}) ASSERT_TRUE(save(Saved(folder.path(), step).request).ok());
  fs::remove(folder / "step-00000020/complete");
  EXPECT_EQ(select_checkpoint(folder.path(), "job-1", 1, fits_all).status().code(),
            Code::kConflict);
  ASSERT_TRUE(claim(folder.path(), 2).ok());
  EXPECT_EQ(select_checkpoint(folder.path(), "job-1", 1, fits_all).status().code(),
            Code::kConflict);
  EXPECT_TRUE(fs::exists(folder / "step-00000020"));
  EXPECT_TRUE(select_checkpoint(folder.path(), "job-1", 2, fits_all).ok());
  EXPECT_FALSE(fs::exists(folder / "step-00000020"));
}

}  // namespace
}  // namespace dsv3::checkpoint
