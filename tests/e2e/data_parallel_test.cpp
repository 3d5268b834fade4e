// One job on several ranks: the same training as on one, seen from outside.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

constexpr int kSteps = 6;

// Trains to the end on `ranks` data ranks, four sequences a step; the job id.
std::string train(const Home& home, const std::string& config, int ranks) {
  const Outcome done = home.ctl(
      {"submit", config, "--set", fmt::format("parallel.data_parallel_size={}", ranks), "--set",
       "training.micro_batch_size=1", "--set", "training.eval_interval_steps=3", "--wait"},
      60);
  EXPECT_EQ(done.code, 0) << done.err;
  return done.out.substr(0, done.out.find('\n'));
}

void expect_same_training(const Home& home, const std::string& one, const std::string& many) {
  const std::vector<Json> a = home.json_lines({"metrics", one});
  const std::vector<Json> b = home.json_lines({"metrics", many});
  ASSERT_EQ(a.size(), static_cast<size_t>(kSteps));
  ASSERT_EQ(b.size(), a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(b[i]["step"], a[i]["step"]);
    EXPECT_EQ(b[i]["tokens"], a[i]["tokens"]);
    for (const char* field : {"loss", "aux_loss", "grad_norm"}) {
      const double expected = a[i][field];
      EXPECT_NEAR(b[i][field].get<double>(), expected, 1e-5 * std::abs(expected) + 1e-9)
          << field << " of step " << a[i]["step"];
    }
  }
}

TEST(DataParallel, TrainsAsOneRankDoes) {
  const Home home;
  const std::string config = home.write_config("dp", home.prepare_text(), kSteps);
  const std::string one = train(home, config, 1);
  const std::string two = train(home, config, 2);
  const std::string four = train(home, config, 4);
  expect_same_training(home, one, two);
  expect_same_training(home, one, four);
  const Json job = home.job(four);
  EXPECT_EQ(job["ranks"], 4);
  EXPECT_EQ(job["layout"]["dp"], 4);
  EXPECT_EQ(job["layout"]["zero_stage"], 1);

  // Every token is counted, once.
  const Json experts = home.json({"experts", four});
  int64_t tokens = 0;
  for (const Json& count : experts["layers"][0]["tokens"]) tokens += count.get<int64_t>();
  EXPECT_EQ(tokens, kTokensPerStep * kTopK);
  // Validation looks at the same samples.
  const Json rows = home.sql("SELECT job, step, loss, tokens FROM validations ORDER BY step, job");
  ASSERT_EQ(rows.size(), 6u) << rows;
  for (size_t i = 0; i < rows.size(); i += 3) {
    for (size_t j = 1; j < 3; ++j) {
      EXPECT_EQ(rows[i + j]["tokens"], rows[i]["tokens"]);
      EXPECT_NEAR(rows[i + j]["loss"].get<double>(), rows[i]["loss"].get<double>(), 1e-5);
    }
  }
  EXPECT_EQ(home.json({"memory", four})["ranks"].size(), 4u);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_TRUE(std::filesystem::exists(
        fmt::format("{}/jobs/{}/logs/rank-{}.log", home.state_dir(), four, rank)));
  }
}

TEST(DataParallel, StopsAndResumesOnAllRanks) {
  const Home home;
  const std::string config = home.write_config("dp", home.prepare_text(), 1'000'000);
  const Outcome submitted = home.ctl({"submit", config, "--set", "parallel.data_parallel_size=2",
                                      "--set", "training.micro_batch_size=2"});
  ASSERT_EQ(submitted.code, 0) << submitted.err;
  const std::string id = submitted.out.substr(0, submitted.out.find('\n'));
  ASSERT_TRUE(wait_until([&] { return home.step(id) > 2; }, 60)) << home.job(id).dump(1);
  EXPECT_EQ(home.processes("dsv3-worker").size(), 2u);
  ASSERT_EQ(home.ctl({"checkpoint", id}).code, 0);
  EXPECT_TRUE(wait_until([&] { return home.job(id)["checkpoint"].is_object(); }));
  ASSERT_EQ(home.ctl({"cancel", id}, 60).code, 0);
  EXPECT_TRUE(home.processes("dsv3-worker").empty());
  const Json job = home.job(id);
  EXPECT_EQ(job["checkpoint"]["step"], job["step"]) << "all ranks stop after the same step";
}

}  // namespace
}  // namespace dsv3::e2e
