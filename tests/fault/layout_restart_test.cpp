// The same faults in a job that is cut along several axes: a rank is killed, a checkpoint is
// damaged; the job ends like one that nobody disturbed.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "tests/fault/gang.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;
constexpr int kSteps = 300;
constexpr int kInterval = 30;
constexpr int kCutRanks = 4;

// Two tensor ranks in each of two stages.
std::vector<std::string> cut_words() {
  return set_words({"parallel.tensor_parallel_size=2", "parallel.pipeline_parallel_size=2",
                    "training.micro_batch_size=1",
                    "checkpoint.interval_steps=" + std::to_string(kInterval)});
}

std::string calm_job(const Home& home) {
  std::vector<std::string> words = cut_words();
  words.emplace_back("--wait");
  const std::string id = home.submit_job(kSteps, words);
  EXPECT_EQ(home.job(id)["state"], "COMPLETED");
  return id;
}

void expect_undisturbed(const Home& home, const std::string& id, const std::string& calm) {
  const auto expected = losses(home, calm);
  ASSERT_EQ(expected.size(), static_cast<size_t>(kSteps));
  EXPECT_EQ(losses(home, id), expected) << "each step once, bit by bit";
  EXPECT_EQ(home.job(id)["validation"]["loss"], home.job(calm)["validation"]["loss"]);
}

TEST(LayoutRestart, OfARankOfAStageGivesTheLossesOfARunThatNobodyDisturbed) {
  const Home home;
  const std::string calm = calm_job(home);
  const std::string id = home.submit_job(kSteps, cut_words());
  ASSERT_TRUE(wait_until([&] { return home.job(id)["checkpoint"].is_object(); }, 60));
  const std::vector<pid_t> ranks = wait_for_ranks(home, {}, kCutRanks);
  kill_all(ranks, SIGSTOP);  // in the middle, and not at its end
  ASSERT_LT(home.step(id), kSteps);
  for (const pid_t rank : ranks) {
    if (command_of(rank).find("--rank 3 ") != std::string::npos) kill_all({rank});
  }
  for (const pid_t rank : ranks) ::kill(rank, SIGCONT);  // the agent may have ended them by now
  EXPECT_EQ(home.ctl({"wait", id}, 100).code, 0) << home.job(id).dump(1);
  EXPECT_EQ(home.job(id)["attempt"], 2);
  expect_undisturbed(home, id, calm);
}

// ---- damaged checkpoints

std::string newest_checkpoint(const Home& home, const std::string& id) {
  std::string newest;
  for (const auto& entry :
       fs::directory_iterator(home.state_dir() + "/jobs/" + id + "/checkpoints")) {
    const std::string name = entry.path().filename();
    if (name.starts_with("step-") && entry.path().string() > newest) newest = entry.path();
  }
  return newest;
}

// The largest file of tensors.
std::string a_shard(const std::string& checkpoint) {
  std::string largest;
  for (const auto& entry : fs::directory_iterator(checkpoint)) {
    if (entry.path().extension() != ".safetensors") continue;
    if (largest.empty() || entry.file_size() > fs::file_size(largest)) largest = entry.path();
  }
  return largest;
}

void flip_a_byte(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto at = static_cast<std::streamoff>(fs::file_size(path)) - 5;
  file.seekg(at);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(at);
  file.put(byte);
}

void expect_the_one_before_is_used(const std::function<void(const std::string&)>& damage) {
  const Home home;
  const std::string calm = calm_job(home);
  const std::string id = home.submit_job(kSteps, cut_words());
  ASSERT_TRUE(wait_until(
      [&] {
        const Json job = home.job(id);
        return job["checkpoint"].is_object() && job["checkpoint"]["step"] >= 2 * kInterval;
      },
      60));
  ASSERT_EQ(home.ctl({"cancel", id}, 60).code, 0);  // saves where it stops
  const std::string newest = newest_checkpoint(home, id);
  ASSERT_NE(newest, "");
  damage(a_shard(newest));
  ASSERT_EQ(home.ctl({"resume", id}).code, 0);
  EXPECT_EQ(home.ctl({"wait", id}, 100).code, 0) << home.job(id).dump(1);
  expect_undisturbed(home, id, calm);
  const std::string name = fs::path(newest).filename();
  EXPECT_TRUE(fs::exists(fs::path(newest).parent_path() / ("unusable-" + name)));
  const Json notes =
      home.sql("SELECT payload FROM events WHERE event = 'note' AND payload LIKE '%set aside%'");
  ASSERT_EQ(notes.size(), 1u) << notes;
  EXPECT_NE(notes[0]["payload"].get<std::string>().find(name), std::string::npos) << notes;
}

TEST(LayoutRestart, ACheckpointWithAWrongChecksumIsSetAside) {
  expect_the_one_before_is_used(flip_a_byte);
}

TEST(LayoutRestart, ACheckpointThatLacksAShardIsSetAside) {
  expect_the_one_before_is_used([](const std::string& shard) { fs::remove(shard); });
}

}  // namespace
}  // namespace dsv3::e2e
