// kill -9 of ranks, of agents and of the coordinator while a job runs: it goes on from its newest
// checkpoint, its losses are those of a run that nobody disturbed, and it gives up when it gets no
// further.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/clock.h"
#include "tests/fault/gang.h"

namespace dsv3::e2e {
namespace {

constexpr int kForEver = 10'000'000;  // steps
constexpr int64_t kSecond = 1'000'000'000;

// A job that has a checkpoint, and what it was then.
struct Saved {
  std::string id;
  int64_t step = 0;
};
Saved start_saved(const Home& home, int max_steps, int interval_steps) {
  Saved job{home.submit_job(max_steps, gang_words(interval_steps))};
  EXPECT_TRUE(wait_until([&] { return home.job(job.id)["checkpoint"].is_object(); }));
  job.step = home.job(job.id)["checkpoint"]["step"];
  return job;
}

// From now to the first finished step of an attempt, in seconds.
double until_trained(const Home& home, const std::string& id, int attempt) {
  const int64_t begin_ns = system_clock().steady_ns();
  EXPECT_TRUE(trains(home, id, attempt)) << home.job(id).dump(1);
  return static_cast<double>(system_clock().steady_ns() - begin_ns) / kSecond;
}

TEST(Restart, OfAKilledRankLosesNoMoreThanSinceTheCheckpoint) {
  const Home home;
  const Saved job = start_saved(home, kForEver, 50);
  const std::vector<pid_t> ranks = wait_for_ranks(home);
  const int64_t known = home.step(job.id);
  kill_all({ranks.front()});
  const double seconds = until_trained(home, job.id, 2);
  EXPECT_LT(seconds, 5) << "from the kill to the next finished step";
  RecordProperty("seconds_to_next_step", std::to_string(seconds));
  const Json now = home.job(job.id);
  EXPECT_EQ(now["state"], "RUNNING");
  EXPECT_EQ(now["attempt"], 2);
  EXPECT_EQ(now["restarts"], 1);
  // The steps after the checkpoint that it went on from were lost, and no other; the last of them
  // may have died with rank 0 before they were reported.
  const Json first = home.sql("SELECT first_step FROM starts WHERE attempt = 2");
  const Json reached = home.sql(fmt::format(
      "SELECT cast(json_extract(payload, '$.step') AS INTEGER) AS step FROM events WHERE job = "
      "'{}' AND event = 'rank_exited' AND attempt = 1",
      job.id));
  ASSERT_FALSE(first.empty() || reached.empty());
  const int64_t begin = first[0]["first_step"].get<int64_t>();
  EXPECT_GE(begin, job.step);
  EXPECT_LE(now["lost_steps"].get<int64_t>(), reached[0]["step"].get<int64_t>() - begin);
  EXPECT_GE(now["lost_steps"].get<int64_t>(), known - begin);
  EXPECT_GT(now["effective_time_ratio"].get<double>(), 0);
  EXPECT_LT(now["effective_time_ratio"].get<double>(), 1);
  const Json restarts = home.sql(
      "SELECT json_extract(payload, '$.reason') AS reason FROM events WHERE event = "
      "'job_restarting'");
  ASSERT_EQ(restarts.size(), 1u);
  EXPECT_NE(restarts[0]["reason"].get<std::string>().find("was killed by signal 9 at step "),
            std::string::npos)
      << restarts;
  EXPECT_EQ(home.ctl({"cancel", job.id}, 60).code, 0);
}

TEST(Restart, OfAllRanksKilledAtOnceAndOfTheAgent) {
  const Home home;
  const Saved job = start_saved(home, kForEver, 50);
  std::vector<pid_t> ranks = wait_for_ranks(home);
  kill_all(ranks);
  EXPECT_LT(until_trained(home, job.id, 2), 5);
  ranks = wait_for_ranks(home, ranks);
  const std::vector<pid_t> agents = home.processes("dsv3-agent");
  ASSERT_EQ(agents.size(), 1u);
  const int64_t saved = home.job(job.id)["checkpoint"]["step"];
  ASSERT_TRUE(wait_until([&] { return home.job(job.id)["checkpoint"]["step"] > saved; }));
  kill_all(agents);
  EXPECT_LT(until_trained(home, job.id, 3), 5);
  for (const pid_t rank : wait_for_ranks(home, ranks))
    EXPECT_EQ(std::count(ranks.begin(), ranks.end(), rank), 0) << "ranks die with their agent";
  EXPECT_EQ(home.processes("dsv3-agent").size(), 1u);
  EXPECT_EQ(home.ctl({"cancel", job.id}, 60).code, 0);
}

TEST(Restart, GivesTheLossesOfARunThatNobodyDisturbed) {
  constexpr int kSteps = 600;
  const Home home;
  const std::vector<std::string> settings = gang_words(60);
  std::vector<std::string> words = settings;
  words.emplace_back("--wait");
  const std::string calm = home.submit_job(kSteps, words);
  EXPECT_EQ(home.job(calm)["state"], "COMPLETED");
  const Saved job = start_saved(home, kSteps, 60);
  const std::vector<pid_t> ranks = wait_for_ranks(home);
  kill_all(ranks, SIGSTOP);  // in the middle, and not at its end
  ASSERT_LT(home.step(job.id), kSteps);
  kill_all(ranks);
  EXPECT_EQ(home.ctl({"wait", job.id}, 60).code, 0) << home.job(job.id).dump(1);
  EXPECT_EQ(home.job(job.id)["attempt"], 2);
  const auto expected = losses(home, calm);
  ASSERT_EQ(expected.size(), static_cast<size_t>(kSteps));
  EXPECT_EQ(losses(home, job.id), expected) << "each step once, bit by bit";
  EXPECT_EQ(home.job(job.id)["validation"]["loss"], home.job(calm)["validation"]["loss"]);
  const Json tokens = home.sql(fmt::format(
      "SELECT count(DISTINCT step) AS steps, sum(tokens) AS tokens FROM expert_usage WHERE job = "
      "'{}'",
      job.id));
  EXPECT_EQ(tokens[0]["steps"], kSteps);
  EXPECT_EQ(tokens[0]["tokens"], kSteps * kTokensPerStep * kTopK);
}

TEST(Restart, GivesUpWithoutProgressAndCanBeResumed) {
  const Home home;
  const std::string id = home.submit_job(kForEver, gang_words(0));
  std::vector<pid_t> ranks;
  for (int attempt = 1; attempt <= 3; ++attempt) {
    ASSERT_TRUE(trains(home, id, attempt)) << home.job(id).dump(1);
    ranks = wait_for_ranks(home, ranks);
    EXPECT_EQ(home.ctl({"resume", id}).code, 7) << "it has not ended";
    kill_all({ranks.back()});
  }
  ASSERT_TRUE(reaches(home, id, "FAILED"));
  const std::string reason = home.job(id)["reason"];
  EXPECT_TRUE(reason.starts_with("attempts 1, 2 and 3 ended without a new checkpoint; last: rank "))
      << reason;
  EXPECT_NE(reason.find("was killed by signal 9 at step "), std::string::npos) << reason;
  EXPECT_EQ(home.processes().size(), 1u) << "only the coordinator";

  const Json resumed = home.json({"resume", id});
  EXPECT_EQ(resumed["job"], id);
  ASSERT_TRUE(trains(home, id, 4)) << home.job(id).dump(1);
  EXPECT_EQ(home.job(id)["state"], "RUNNING");
  EXPECT_EQ(home.ctl({"resume", "nothing-9"}).code, 5);
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST(Restart, DoesNotBeginAfreshWhereTheCheckpointsHaveVanished) {
  const Home home;
  const Saved job = start_saved(home, kForEver, 50);
  const std::vector<pid_t> ranks = wait_for_ranks(home);
  kill_all(ranks, SIGSTOP);  // they write none while the folder goes
  std::filesystem::remove_all(fmt::format("{}/jobs/{}/checkpoints", home.state_dir(), job.id));
  kill_all(ranks);
  ASSERT_TRUE(reaches(home, job.id, "FAILED"));
  const std::string reason = home.job(job.id)["reason"];
  EXPECT_NE(reason.find(" has saved step "), std::string::npos) << reason;
}

TEST(Restart, IsMadeByTheNextCoordinatorWhenOneDiesBefore) {
  const Home home;
  const std::string id = home.submit_job(kForEver, gang_words(0));
  std::vector<pid_t> ranks;
  for (int attempt = 1; attempt <= 2; ++attempt) {
    ASSERT_TRUE(trains(home, id, attempt));
    ranks = wait_for_ranks(home, ranks);
    if (attempt == 1) kill_all({ranks.front()});
  }
  const pid_t coordinator = home.coordinator_pid();
  kill_all({ranks.front()});
  // The second restart without progress comes after a second.
  ASSERT_TRUE(reaches(home, id, "RESTARTING"));
  kill_all({coordinator});
  ASSERT_TRUE(wait_until([&] { return home.processes("dsv3d").empty(); }));
  EXPECT_TRUE(home.processes().empty()) << "nothing runs while it is RESTARTING";
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  ASSERT_TRUE(trains(home, id, 3)) << home.job(id).dump(1);
  EXPECT_EQ(home.job(id)["restarts"], 2);
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

}  // namespace
}  // namespace dsv3::e2e
