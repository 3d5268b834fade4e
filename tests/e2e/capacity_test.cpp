// Experts with a capacity: what they drop, told in the same number by the log, metrics, SQL,
// experts and the job's own metrics.jsonl, and bounded by the experts' counts.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <string>

#include "base/file.h"
#include "base/text.h"
#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

constexpr int kSteps = 3;
constexpr int64_t kSequences = 4;
constexpr int64_t kChoices = kTokensPerStep * kTopK;
// Half of the mean 32 · 2 / 4 that an expert would take of a sequence.
constexpr int64_t kCapacity = 8;

struct Trained {
  std::string id, summary;
};
Trained train(const Home& home, const std::string& config, const std::vector<std::string>& more) {
  std::vector<std::string> words = {"submit", config, "--wait"};
  for (const std::string& setting : more) words.insert(words.end(), {"--set", setting});
  const Outcome done = home.ctl(words, 100);
  EXPECT_EQ(done.code, 0) << done.err;
  return {split(done.out, '\n')[0], done.err};
}

// step → what its line in rank 0's log says was dropped; 0 where it says nothing.
std::map<int64_t, int64_t> logged(const Home& home, const std::string& id) {
  const std::string path = fmt::format("{}/jobs/{}/logs/rank-0.log", home.state_dir(), id);
  std::map<int64_t, int64_t> dropped;
  for (const std::string& line : split(read_file(path).value(), '\n')) {
    std::smatch step, number;
    if (!std::regex_search(line, step, std::regex("^step (\\d+)/"))) continue;
    std::string digits = "0";
    if (std::regex_search(line, number, std::regex(" dropped ([\\d,]+) "))) digits = number[1];
    std::erase(digits, ',');
    dropped[std::stoll(step[1])] = std::stoll(digits);
  }
  return dropped;
}

// Each sequence brings at most kCapacity choices to an expert, so that what an expert was chosen
// for beyond kSequences times as many was dropped for sure.
int64_t dropped_at_least(const Json& layer) {
  int64_t sum = 0;
  for (const int64_t count : layer["tokens"])
    sum += std::max<int64_t>(0, count - kSequences * kCapacity);
  return sum;
}

TEST(Capacity, WhatItDropsIsTheSameNumberWhereverItIsAsked) {
  const Home home;
  const std::string config = home.write_config("full", home.prepare_text(), kSteps);
  const Trained job =
      train(home, config,
            {"model.moe.capacity_factor=0.5", "logging.interval_steps=1", "logging.jsonl=true"});
  const std::map<int64_t, int64_t> lines = logged(home, job.id);
  ASSERT_EQ(lines.size(), static_cast<size_t>(kSteps));
  const std::vector<Json> rows = home.json_lines({"metrics", job.id});
  const Json sql = home.sql("SELECT step, dropped FROM metrics ORDER BY step");
  const auto own = split(
      read_file(fmt::format("{}/jobs/{}/metrics.jsonl", home.state_dir(), job.id)).value(), '\n');
  ASSERT_EQ(rows.size(), static_cast<size_t>(kSteps));
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t step = rows[i]["step"], dropped = rows[i]["dropped"];
    EXPECT_EQ(dropped, lines.at(step)) << "step " << step;
    EXPECT_EQ(sql[i]["dropped"], dropped);
    Json line = rows[i];
    line.erase("schema_version");
    EXPECT_EQ(Json::parse(own[i]), line) << "metrics.jsonl is what metrics --json prints";
    const Json experts = home.json({"experts", job.id, "--step", std::to_string(step)});
    EXPECT_EQ(experts["dropped"], dropped);
    EXPECT_DOUBLE_EQ(experts["dropped_share"],
                     static_cast<double>(dropped) / static_cast<double>(kChoices));
    EXPECT_GE(dropped, dropped_at_least(experts["layers"][0]));
    EXPECT_GE(dropped, kChoices - kExperts * kCapacity * kSequences) << "more has no place";
    EXPECT_LT(dropped, kChoices);
  }
  const std::string share =
      fmt::format("{:.3g} % of the choices", 100.0 * lines.at(kSteps) / double(kChoices));
  const std::string experts = home.ctl({"experts", job.id}).out;
  EXPECT_NE(
      experts.find(fmt::format("{} ({} of {}) were dropped", share, lines.at(kSteps), kChoices)),
      std::string::npos)
      << experts;
  EXPECT_NE(job.summary.find("\n  dropped       " + share), std::string::npos) << job.summary;
  const auto table = split(home.ctl({"metrics", job.id, "--last", "1"}).out, '\n');
  EXPECT_TRUE(table[0].ends_with("  DROPPED")) << table[0];
  EXPECT_TRUE(table[1].ends_with(fmt::format(" {}", lines.at(kSteps)))) << table[1];

  // Ranks that share a sequence and its experts drop the same choices: those of the first step,
  // before any rounding has moved a weight.
  const Trained cut =
      train(home, config,
            {"model.moe.capacity_factor=0.5", "training.micro_batch_size=1",
             "parallel.expert_parallel_size=2", "parallel.context_parallel_size=2"});
  const std::vector<Json> shared = home.json_lines({"metrics", cut.id});
  ASSERT_EQ(shared.size(), rows.size());
  EXPECT_EQ(shared[0]["dropped"], rows[0]["dropped"]);
}

TEST(Capacity, WithoutOneNothingIsDroppedAndNothingIsSaidOfIt) {
  const Home home;
  const Trained job = train(home, home.write_config("open", home.prepare_text(), kSteps), {});
  for (const Json& row : home.json_lines({"metrics", job.id})) EXPECT_EQ(row["dropped"], 0);
  const Json experts = home.json({"experts", job.id});
  EXPECT_EQ(experts["dropped"], 0);
  EXPECT_EQ(experts["dropped_share"], 0.0);
  for (const std::string& text :
       {job.summary, home.ctl({"experts", job.id}).out, home.ctl({"metrics", job.id}).out})
    for (const char* word : {"dropped", "DROPPED"})
      EXPECT_EQ(text.find(word), std::string::npos) << text;
}

}  // namespace
}  // namespace dsv3::e2e
