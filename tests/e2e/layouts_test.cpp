// Jobs cut along several axes, and rehearsals of them, as their users meet them.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "base/file.h"
#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

constexpr int kSteps = 4;

// "--set key=value" for each, with micro-batches of one sequence.
std::vector<std::string> cut(const std::vector<std::string>& sizes) {
  std::vector<std::string> words = {"--set", "training.micro_batch_size=1"};
  for (const std::string& size : sizes) words.insert(words.end(), {"--set", "parallel." + size});
  return words;
}

std::string train(const Home& home, const std::string& config, std::vector<std::string> words) {
  words.insert(words.begin(), {"submit", config});
  words.emplace_back("--wait");
  const Outcome done = home.ctl(words, 100);
  EXPECT_EQ(done.code, 0) << done.err;
  return done.out.substr(0, done.out.find('\n'));
}

void expect_same_losses(const Home& home, const std::string& one, const std::string& many) {
  const std::vector<Json> a = home.json_lines({"metrics", one});
  const std::vector<Json> b = home.json_lines({"metrics", many});
  ASSERT_EQ(a.size(), static_cast<size_t>(kSteps));
  ASSERT_EQ(b.size(), a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    for (const char* field : {"loss", "aux_loss", "grad_norm"}) {
      const double expected = a[i][field];
      EXPECT_NEAR(b[i][field].get<double>(), expected, 1e-5 * std::abs(expected) + 1e-9)
          << field << " of step " << a[i]["step"];
    }
  }
}

TEST(Layouts, TensorAndPipelineRanksTrainAsOneDoesAndReportTheirMemory) {
  const Home home;
  const std::string config = home.write_config("cut", home.prepare_text(), kSteps);
  const std::string one = train(home, config, cut({}));
  const std::string id =
      train(home, config, cut({"tensor_parallel_size=2", "pipeline_parallel_size=2"}));
  expect_same_losses(home, one, id);
  const Json job = home.job(id);
  EXPECT_EQ(job["ranks"], 4);
  EXPECT_EQ(job["layout"]["tp"], 2);
  EXPECT_EQ(job["layout"]["pp"], 2);
  // Tokens of an expert are counted once, whoever held them.
  const Json experts = home.json({"experts", id});
  int64_t tokens = 0;
  for (const Json& count : experts["layers"][0]["tokens"]) tokens += count.get<int64_t>();
  EXPECT_EQ(tokens, kTokensPerStep * kTopK);

  const Json ranks = home.json({"memory", id})["ranks"];
  ASSERT_EQ(ranks.size(), 4u);
  for (size_t r = 0; r < 4; ++r) {
    EXPECT_EQ(ranks[r]["global_rank"], r);
    EXPECT_EQ(ranks[r]["tp_rank"], r % 2);
    EXPECT_EQ(ranks[r]["pp_stage"], r / 2);
    EXPECT_GT(ranks[r]["predicted_bytes"], 0);
    EXPECT_GT(ranks[r]["measured_bytes"], 0);
    const std::string log =
        read_file(fmt::format("{}/jobs/{}/logs/rank-{}.log", home.state_dir(), id, r)).value();
    EXPECT_NE(
        log.find(fmt::format("rank {} of 4: tp {}, cp 0, pp {}, ep 0, dp 0", r, r % 2, r / 2)),
        std::string::npos)
        << log;
  }
  // The prediction is the stage's own.
  EXPECT_EQ(ranks[0]["predicted_bytes"], ranks[1]["predicted_bytes"]);
  EXPECT_NE(ranks[0]["predicted_bytes"], ranks[2]["predicted_bytes"]);
  const Json third = home.json({"memory", id, "--rank", "3"})["ranks"];
  ASSERT_EQ(third.size(), 1u);
  EXPECT_EQ(third[0], ranks[3]);
  EXPECT_EQ(home.ctl({"memory", id, "--rank", "4"}).code, 5);
  const std::string text = home.ctl({"memory", id}).out;
  EXPECT_NE(text.find("rank 3 (tp 1, pp 1)"), std::string::npos) << text;
  EXPECT_NE(text.find("TOTALS"), std::string::npos) << text;
}

TEST(Layouts, ExpertContextAndDataRanksTrainAsOneDoes) {
  const Home home;
  const std::string config = home.write_config("cut", home.prepare_text(), kSteps);
  const std::string one = train(home, config, cut({}));
  expect_same_losses(
      home, one, train(home, config, cut({"expert_parallel_size=2", "context_parallel_size=2"})));
  expect_same_losses(home, one,
                     train(home, config,
                           cut({"expert_parallel_size=2", "data_parallel_size=2", "zero_stage=2",
                                "recompute=full"})));
}

TEST(Layouts, WhatDoesNotDivideIsRefusedBeforeAnythingStarts) {
  const Home home;
  const std::string config = home.write_config("cut", home.prepare_text(), kSteps);
  struct Case {
    std::vector<std::string> settings;
    std::string part, would;
  };
  const std::vector<Case> cases = {
      {{"parallel.tensor_parallel_size=4"}, "num_heads=2 % TP=4 != 0", "TP can be 1, 2"},
      {{"parallel.tensor_parallel_size=2", "model.vocab_size=261"},
       "vocab_size=261 % TP=2 != 0",
       "pad vocab_size to 262"},
      {{"parallel.expert_parallel_size=3"}, "num_experts=4 % EP=3 != 0", "EP can be 1, 2, 4"},
      {{"parallel.expert_parallel_size=4", "parallel.tensor_parallel_size=2"},
       "num_experts=4 % (EP*TP=4*2=8)",
       "EP*TP can be 1, 2, 4"},
      {{"parallel.pipeline_parallel_size=3"}, "PP=3 > num_layers=2", "use at most 2"},
      {{"parallel.data_parallel_size=3"}, "global_batch_size=4", "the nearest is"},
      {{"parallel.context_parallel_size=2", "training.seq_length=30"},
       "seq_length=30 % (2*CP=2*2=4) != 0",
       "for example 32"},
      {{"parallel.tensor_parallel_size=2", "training.seq_length=31"},
       "seq_length=31 % (CP*TP=1*2=2) != 0",
       "multiple of 2"},
  };
  for (const Case& c : cases) {
    for (const char* verb : {"validate", "plan", "submit"}) {
      std::vector<std::string> words = {verb, config};
      for (const std::string& setting : c.settings) words.insert(words.end(), {"--set", setting});
      const Outcome outcome = home.ctl(words);
      SCOPED_TRACE(fmt::format("{} {}", verb, c.settings[0]));
      EXPECT_EQ(outcome.code, 2) << outcome.err << outcome.out;
      const std::string said = outcome.err + outcome.out;
      EXPECT_NE(said.find(c.part), std::string::npos) << said;
      EXPECT_NE(said.find(c.would), std::string::npos) << said;
    }
  }
  EXPECT_TRUE(home.processes().empty()) << "a refused submission started something";
}

// ---- rehearsals

// Rehearsals leave their folder in TMPDIR: one that this test sees.
Environment with_tmpdir(const Home& home) {
  Environment environment = home.environment();
  environment.emplace_back("TMPDIR", home.path());
  return environment;
}
std::set<std::string> entries(const Home& home) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(home.path()))
    names.insert(entry.path().filename());
  return names;
}

const std::vector<std::string> kRehearsed = {"rehearse", "10b",
                                             "--gpus",   "8",
                                             "--set",    "parallel.tensor_parallel_size=2",
                                             "--set",    "parallel.pipeline_parallel_size=2",
                                             "--set",    "parallel.expert_parallel_size=2"};

TEST(Rehearse, ProvesALayoutAndLeavesNothingBehind) {
  const Home home;
  std::vector<std::string> words = kRehearsed;
  words.insert(words.end(), {"--ranks-max", "8", "--steps", "2", "--json"});
  const auto before = entries(home);
  const Outcome outcome = run(home.ctl_words(words), with_tmpdir(home), 110);
  ASSERT_EQ(outcome.code, 0) << outcome.err << outcome.out;
  const Json report = Json::parse(outcome.out);
  expect_fields(report,
                {{"proved", "bool"},
                 {"config", "string"},
                 {"gpus", "int"},
                 {"planned", "object"},
                 {"rehearsed", "object"},
                 {"resumed", "object"},
                 {"folded", "array"},
                 {"changed", "array"},
                 {"runs", "array"},
                 {"steps", "array"},
                 {"largest_relative", "number"},
                 {"seconds", "number"}},
                "rehearse");
  EXPECT_EQ(report["proved"], true);
  for (const char* axis : {"tp", "pp", "ep"}) EXPECT_EQ(report["rehearsed"][axis], 2) << axis;
  EXPECT_NE(report["resumed"], report["rehearsed"]);
  EXPECT_EQ(report["steps"].size(), 4u);
  std::set<double> losses;
  for (const Json& step : report["steps"]) losses.insert(step["one_process"].get<double>());
  EXPECT_EQ(losses.size(), 4u) << "it trains: every step's loss is another";
  EXPECT_EQ(entries(home), before);
  EXPECT_TRUE(home.processes("dsv3-worker").empty());
}

TEST(Rehearse, NamesTheRankThatFailed) {
  const Home home;
  std::vector<std::string> words = kRehearsed;
  words.insert(words.end(), {"--ranks-max", "2", "--steps", "1000"});
  const auto before = entries(home);
  Running rehearsal(home.ctl_words(words), with_tmpdir(home));
  std::vector<pid_t> ranks;
  ASSERT_TRUE(wait_until([&] {
    ranks.clear();
    for (const pid_t pid : home.processes("dsv3-worker")) {
      if (command_of(pid).find("--rank 1 ") != std::string::npos) ranks.push_back(pid);
    }
    return ranks.size() == 1;
  }));
  ASSERT_EQ(::kill(ranks[0], SIGKILL), 0);
  const Outcome outcome = rehearsal.finish(60);
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_NE(outcome.err.find("rank 1 of 2 was killed by signal 9"), std::string::npos)
      << outcome.err;
  EXPECT_EQ(entries(home), before);
  EXPECT_TRUE(wait_until([&] { return home.processes("dsv3-worker").empty(); }));
}

TEST(Rehearse, WithoutAPlanThereIsNone) {
  const Home home;
  const Outcome outcome = home.ctl({"rehearse", "671b", "--gpus", "1", "--gpu-memory", "80"});
  EXPECT_EQ(outcome.code, 6);
  EXPECT_NE(outcome.err.find("671b needs"), std::string::npos) << outcome.err;
  EXPECT_EQ(home.ctl({"rehearse", "671b", "--ranks-max", "1"}).code, 2);
}

}  // namespace
}  // namespace dsv3::e2e
