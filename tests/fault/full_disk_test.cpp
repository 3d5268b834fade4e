// A disk that is really full, while everything that dsv3ctl writes is written: checkpoints, a
// rank's log, the database, prepared data, imports and exports.
//
// Law: it costs what could not be written and nothing else, and says so in a sentence with the
// path; no half of anything stays; with room again everything goes on by itself.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/text.h"
#include "tests/fault/gang.h"
#include "tests/fault/small_disk.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;

constexpr int kForEver = 10'000'000;  // steps
constexpr const char* kNoSpace = "o space left on device";

#define SKIP_WITHOUT_MOUNTS() \
  if (const std::string why = why_no_mounts(); !why.empty()) GTEST_SKIP() << why

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != ".ballast") names.insert(name);
  }
  return names;
}

bool has_temporary(const std::string& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().filename().string().find(".tmp") != std::string::npos) return true;
  }
  return false;
}

// Notes of the job that contain `part`.
int64_t count_notes(const Home& home, const std::string& id, const std::string& part) {
  const Json rows =
      home.sql(fmt::format("SELECT count(*) AS n FROM events WHERE job = '{}' AND event = 'note' "
                           "AND payload LIKE '%{}%'",
                           id, part));
  return rows.empty() ? 0 : rows[0]["n"].get<int64_t>();
}

void expect_one_sentence(const Outcome& outcome, int code, const std::string& part) {
  EXPECT_EQ(outcome.code, code) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find(kNoSpace), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(part), std::string::npos) << "no '" << part << "' in " << outcome.err;
  EXPECT_EQ(errors_of(outcome).size(), 1u) << outcome.err;
}

TEST(FullDisk, UnderAPeriodicCheckpointLeavesTrainingAndTheOlderOnes) {
  SKIP_WITHOUT_MOUNTS();
  const Home home;
  const std::string folder = home.path() + "/ckpt";
  const auto disk = Mount::memory(folder, "size=8m");
  const std::string id = home.submit_job(
      kForEver, set_words({"checkpoint.path=" + folder, "checkpoint.interval_steps=20"}));
  ASSERT_TRUE(wait_until([&] { return home.job(id)["checkpoint"].is_object(); }));
  disk->fill();
  ASSERT_TRUE(wait_until([&] {
    return count_notes(home, id, "was not written%No space left") > 0;
  })) << home.ctl({"logs", id}).out;
  const Json job = home.job(id);
  EXPECT_EQ(job["state"], "RUNNING");
  EXPECT_EQ(job["attempt"], 1);
  const std::string kept = job["checkpoint"]["path"];
  EXPECT_TRUE(fs::exists(kept + "/complete")) << kept;
  const int64_t step = home.step(id);
  EXPECT_TRUE(wait_until([&] { return home.step(id) > step; })) << "training goes on";
  disk->empty();
  const int64_t saved = job["checkpoint"]["step"];
  EXPECT_TRUE(wait_until([&] { return home.job(id)["checkpoint"]["step"] > saved; }));
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
  EXPECT_FALSE(has_temporary(folder));
}

TEST(FullDisk, UnderTheLastCheckpointIsAnErrorAndResumeGoesOnWithRoom) {
  SKIP_WITHOUT_MOUNTS();
  const Home home;
  const std::string folder = home.path() + "/ckpt";
  const auto disk = Mount::memory(folder, "size=8m");
  disk->fill(32 << 10);  // the folder can be claimed, and no checkpoint written
  const std::string id = home.submit_job(8, set_words({"checkpoint.path=" + folder}));
  const Outcome waited = home.ctl({"wait", id}, 60);
  EXPECT_EQ(waited.code, 1);
  const Json job = home.job(id);
  EXPECT_EQ(job["state"], "FAILED");
  const std::string reason = job["reason"];
  EXPECT_NE(reason.find("the state after step 8 was not saved"), std::string::npos) << reason;
  EXPECT_NE(reason.find(kNoSpace), std::string::npos) << reason;
  EXPECT_NE(reason.find(folder), std::string::npos) << reason;
  EXPECT_FALSE(has_temporary(folder));
  disk->empty();
  EXPECT_EQ(home.ctl({"resume", id}).code, 0);
  EXPECT_EQ(home.ctl({"wait", id}, 60).code, 0) << home.job(id).dump(1);
  EXPECT_EQ(home.job(id)["checkpoint"]["step"], 8);
}

TEST(FullDisk, UnderARanksLogCostsLinesOnly) {
  SKIP_WITHOUT_MOUNTS();
  const Home home;
  const auto disk = Mount::memory(home.state_dir() + "/jobs", "size=2m");
  const std::string id =
      home.start_job(kForEver, set_words({"checkpoint.path=" + home.path() + "/ckpt"}));
  disk->fill();
  ASSERT_TRUE(wait_until([&] { return count_notes(home, id, "log of rank 0") > 0; }));
  const int64_t step = home.step(id);
  ASSERT_TRUE(wait_until([&] { return home.step(id) > step + 5; })) << home.job(id).dump(1);
  EXPECT_EQ(home.job(id)["attempt"], 1);
  EXPECT_EQ(count_notes(home, id, "log of rank 0"), 1) << "said once";
  disk->empty();
  const int64_t later = home.step(id);
  EXPECT_TRUE(wait_until([&] {
    const std::string log = home.ctl({"logs", id}).out;
    const size_t at = log.rfind("\nstep ");
    return at != std::string::npos && std::atoll(log.c_str() + at + 6) > later;
  })) << "with room the log goes on";
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST(FullDisk, UnderTheDatabaseRefusesWhatIsAskedAndLosesNothing) {
  SKIP_WITHOUT_MOUNTS();
  const Home home;
  const auto disk = Mount::memory(home.state_dir(), "size=8m");
  const std::vector<std::string> elsewhere =
      set_words({"checkpoint.path=" + home.path() + "/ckpt"});
  const std::string first = home.start_job(kForEver, elsewhere);
  const pid_t coordinator = home.coordinator_pid();
  const auto ranks = home.processes("dsv3-worker");
  disk->fill();
  // There may still be room in the log's last page: the first events need not be refused.
  const std::string config = home.write_config("next", home.path() + "/data/bytes", 2);
  std::set<std::string> accepted;
  Outcome refused;
  for (int i = 0; i < 50 && refused.code != 1; ++i) {
    refused = home.ctl({"submit", config});
    if (refused.code == 0) accepted.insert(split(refused.out, '\n')[0]);
  }
  expect_one_sentence(refused, 1, home.state_dir() + "/dsv3d.db");
  expect_one_sentence(home.ctl({"cancel", first}), 1, "make room");
  EXPECT_EQ(home.ctl({"status"}).code, 0) << "it is still read";
  EXPECT_EQ(home.json({"status"})["jobs"].size(), accepted.size() + 1);
  EXPECT_EQ(home.processes("dsv3-worker"), ranks) << "the job goes on";

  disk->empty();
  const Outcome later = home.ctl({"submit", config});
  EXPECT_EQ(later.code, 0) << later.err;
  accepted.insert(split(later.out, '\n')[0]);
  EXPECT_EQ(home.ctl({"cancel", first}, 60).code, 0);
  for (const std::string& id : accepted) EXPECT_EQ(home.ctl({"wait", id}, 60).code, 0) << id;
  EXPECT_EQ(home.coordinator_pid(), coordinator) << "without a restart";
  EXPECT_EQ(home.job(first)["attempt"], 1);
  const Json steps = home.sql(
      fmt::format("SELECT count(*) AS n, max(step) AS last FROM metrics WHERE job = '{}'", first));
  EXPECT_EQ(steps[0]["n"], steps[0]["last"]) << "no step is missing";
  EXPECT_EQ(steps[0]["last"], home.job(first)["checkpoint"]["step"]);
}

TEST(FullDisk, UnderACoordinatorThatEndsAndStarts) {
  SKIP_WITHOUT_MOUNTS();
  const Home home;
  const auto disk = Mount::memory(home.state_dir(), "size=8m");
  const std::string id =
      home.start_job(kForEver, set_words({"checkpoint.path=" + home.path() + "/ckpt"}));
  const auto ranks = home.processes("dsv3-worker");
  disk->fill();
  ASSERT_EQ(::kill(home.coordinator_pid(), SIGTERM), 0);
  ASSERT_TRUE(wait_until([&] { return home.processes("dsv3d").empty(); }, 10));
  const Outcome up = home.ctl({"up"});
  EXPECT_EQ(up.code, 1) << up.err;
  EXPECT_EQ(std::count(up.err.begin(), up.err.end(), '\n'), 1) << up.err;
  EXPECT_EQ(home.processes("dsv3-worker"), ranks);
  disk->empty();
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  ASSERT_TRUE(reaches(home, id, "RUNNING"));
  const int64_t step = home.step(id);
  EXPECT_TRUE(wait_until([&] { return home.step(id) > step; }));
  EXPECT_EQ(home.job(id)["attempt"], 1);
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST(FullDisk, UnderDataPrepareKeepsTheOlderDataset) {
  SKIP_WITHOUT_MOUNTS();
  const Home home;
  const std::string folder = home.path() + "/small", prefix = folder + "/bytes";
  const auto disk = Mount::memory(folder, "size=1m");
  std::ofstream(home.path() + "/small.txt") << "a few words\n\nand some more\n";
  std::ofstream(home.path() + "/large.txt") << std::string(3 << 20, 'x');
  const auto prepare = [&](const std::string& text, const std::string& out) {
    return home.ctl(
        {"data", "prepare", "--input", home.path() + text, "--tokenizer", "byte", "--out", out});
  };
  expect_one_sentence(prepare("/large.txt", prefix), 1, prefix + ".bin");
  EXPECT_EQ(names_in(folder), std::set<std::string>{}) << "no half of a dataset";
  ASSERT_EQ(prepare("/small.txt", prefix).code, 0);
  const std::set<std::string> whole = names_in(folder);
  expect_one_sentence(prepare("/large.txt", prefix), 1, prefix + ".bin");
  EXPECT_EQ(names_in(folder), whole);
  const Outcome again = prepare("/small.txt", prefix);
  EXPECT_NE(again.err.find("up to date"), std::string::npos) << again.err;
  // Room for the tokens, and none for what goes with them.
  disk->fill();
  expect_one_sentence(prepare("/small.txt", folder + "/other"), 1, folder + "/other");
  EXPECT_EQ(names_in(folder), whole);
}

TEST(FullDisk, UnderExportAndImportTakesBackWhatWasWritten) {
  SKIP_WITHOUT_MOUNTS();
  const Home home;
  const std::string id = home.start_job(2);
  ASSERT_EQ(home.ctl({"wait", id}, 60).code, 0);
  const std::string hf = home.path() + "/hf", folder = home.path() + "/small";
  ASSERT_EQ(home.ctl({"export", id, "--format", "hf", "--out", hf}).code, 0);
  // Files run out before bytes do, so that what looks at the free bytes first finds enough.
  const auto disk = Mount::memory(folder, "size=16m,nr_inodes=3");
  expect_one_sentence(home.ctl({"export", id, "--format", "hf", "--out", folder + "/hf"}), 1,
                      folder);
  EXPECT_EQ(names_in(folder), std::set<std::string>{});
  expect_one_sentence(home.ctl({"import", hf, "--out", folder + "/ckpt"}), 1, folder);
  EXPECT_EQ(names_in(folder), std::set<std::string>{});
  // Too few bytes are seen before anything is written.
  const auto tiny = Mount::memory(home.path() + "/tiny", "size=64k");
  const Outcome refused = home.ctl({"import", hf, "--out", home.path() + "/tiny/ckpt"});
  EXPECT_EQ(refused.code, 6) << refused.err;
  EXPECT_EQ(names_in(home.path() + "/tiny"), std::set<std::string>{});
}

}  // namespace
}  // namespace dsv3::e2e
