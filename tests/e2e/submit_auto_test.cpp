// `submit auto`: the coordinator looks at its machine, picks, plans and starts, and says in the
// job's record what it chose and why. On a machine without GPUs, which is what these tests hide
// theirs as.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/e2e/home.h"

namespace dsv3::e2e {
namespace {

// Few steps of the smallest shape, on a text that is there; the pick itself stays the
// coordinator's.
std::vector<std::string> small_words(const std::string& prefix) {
  std::vector<std::string> words = {"submit", "auto"};
  for (const std::string& set :
       {"data.path=" + prefix, std::string("training.max_steps=3"),
        std::string("model.num_layers=2"), std::string("model.vocab_size=512"),
        std::string("training.seq_length=32"), std::string("training.global_batch_size=4"),
        std::string("training.micro_batch_size=4"), std::string("training.eval_interval_steps=0"),
        std::string("training.lr_warmup_steps=0")}) {
    words.insert(words.end(), {"--set", set});
  }
  return words;
}

bool has_gpus(const Home& home) {
  for (const Json& device : home.json({"nodes"})["nodes"][0]["devices"]) {
    if (device["kind"] == "cuda") return true;
  }
  return false;
}

TEST(SubmitAuto, PicksPlansStartsAndRecordsWhy) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  if (has_gpus(home)) GTEST_SKIP() << "with GPUs the refusal is tested instead";
  std::vector<std::string> words = small_words(home.prepare_text());
  const Outcome dry = home.ctl([&] {
    std::vector<std::string> all = words;
    all.insert(all.end(), {"--dry-run", "--json"});
    return all;
  }());
  ASSERT_EQ(dry.code, 0) << dry.err;
  EXPECT_EQ(Json::parse(dry.out)["config"], "demo");
  EXPECT_TRUE(home.json({"status"})["jobs"].empty()) << "a dry run submits nothing";

  words.emplace_back("--wait");
  words.emplace_back("--json");
  const Outcome outcome = home.ctl(words, 60);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json job = home.json({"status", "demo-1"})["job"];
  EXPECT_EQ(job["state"], "COMPLETED");
  const std::string why = job["why"].get<std::string>();
  EXPECT_NE(why.find("demo"), std::string::npos) << why;
  EXPECT_NE(why.find("no GPUs"), std::string::npos) << why;
  bool planned = false;
  for (const Json& event : home.json_lines({"events", "demo-1"})) {
    if (event["event"] != "job_planned") continue;
    planned = true;
    EXPECT_EQ(event["reason"], why);
  }
  EXPECT_TRUE(planned);
  EXPECT_NE(home.ctl({"status", "demo-1"}).out.find("chosen"), std::string::npos);
  std::ifstream file(job["folder"].get<std::string>() + "/plan.json");
  const Json plan = Json::parse(file, nullptr, false);
  ASSERT_TRUE(plan.is_object());
  EXPECT_EQ(plan["layout"], job["layout"]);
  EXPECT_NE(why.find(plan["why"].get<std::string>()), std::string::npos);
}

TEST(SubmitAuto, OnlyWhatRunsHereIsTaken) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const Outcome refused =
      home.ctl({"submit", "auto", "--set", "parallel.zero_stage=3", "--set",
                "parallel.data_parallel_size=2", "--set", "training.micro_batch_size=4"});
  EXPECT_EQ(refused.code, 6) << refused.err;
  EXPECT_NE(refused.err.find("can't be run yet: ZeRO-3"), std::string::npos) << refused.err;
  EXPECT_TRUE(home.json({"status"})["jobs"].empty());
}

TEST(SubmitAuto, BadWordsAreRefusedByTheirCode) {
  const Home home;
  const Outcome here = home.ctl({"submit", "auto", "--dry-run"});
  EXPECT_TRUE(here.code == 0 || here.code == 6) << here.err;  // 6: with GPUs nothing is taken yet
  EXPECT_TRUE(home.processes("dsv3d").empty()) << "a dry run starts nothing";
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const std::vector<std::pair<std::vector<std::string>, int>> cases = {
      {{"submit", "auto", "--set", "training.nosuch=1"}, 2},
      {{"submit", "auto", "--set", "model.moe.num_experts_per_token=99"}, 2},
      {{"submit", "auto", "--overlay", "nosuch"}, 5},
      {{"submit", "auto", "--tokens", "many"}, 2},
      {{"submit", "auto", "--launcher", "slurm"}, 2},
      {{"submit", "demo", "--tokens", "1M"}, 2},
  };
  for (const auto& [words, code] : cases) {
    const Outcome outcome = home.ctl(words);
    EXPECT_EQ(outcome.code, code) << words.back() << ": " << outcome.err;
    EXPECT_EQ(outcome.out, "") << words.back();
    EXPECT_FALSE(outcome.err.empty()) << words.back();
  }
  EXPECT_TRUE(home.json({"status"})["jobs"].empty());
}

TEST(SubmitAuto, TokensBecomeSteps) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  if (has_gpus(home)) GTEST_SKIP() << "with GPUs nothing is taken yet";
  const std::string prefix = home.prepare_text();
  std::vector<std::string> words = small_words(prefix);
  words.insert(words.end(), {"--tokens", "500"});  // 128 a step: 4 steps
  const Outcome outcome = home.ctl(words);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "demo-1\n");
  EXPECT_EQ(home.job("demo-1")["max_steps"], 4);
  EXPECT_EQ(home.ctl({"wait", "demo-1"}, 60).code, 0);
}

}  // namespace
}  // namespace dsv3::e2e
