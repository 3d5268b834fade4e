// Jobs that are interfered with while they run: cancelled, watched, saved, and left without a
// coordinator.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "base/file.h"
#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

constexpr int kForEver = 10'000'000;  // steps; nobody waits for them

uint64_t size_of(const std::string& file) {
  std::error_code error;
  const auto size = std::filesystem::file_size(file, error);
  return error ? 0 : size;
}

TEST(RunningJob, CancelEndsEveryProcessOfIt) {
  const Home home;
  const std::string id = home.start_job(kForEver);
  const Json running = home.job(id);
  EXPECT_EQ(running["state"], "RUNNING");
  ASSERT_TRUE(running["last_step_age_s"].is_number()) << running;
  EXPECT_LT(running["last_step_age_s"], 60);
  EXPECT_TRUE(running["checkpoint_note"].is_null());
  EXPECT_NE(home.ctl({"status", id}).out.find(" ago\n"), std::string::npos);
  EXPECT_EQ(home.processes("dsv3-worker").size(), 1u);
  EXPECT_EQ(home.processes("dsv3-agent").size(), 1u);
  const Outcome cancelled = home.ctl({"cancel", id, "--json"}, 60);
  EXPECT_EQ(cancelled.code, 0) << cancelled.err;
  EXPECT_EQ(Json::parse(cancelled.out, nullptr, false)["job"]["state"], "CANCELLED")
      << cancelled.out;
  EXPECT_EQ(home.processes().size(), 1u) << "only the coordinator";
  EXPECT_EQ(home.ctl({"wait", id}).code, 1);
  EXPECT_EQ(home.ctl({"cancel", id}).code, 7) << "it has ended";
}

TEST(RunningJob, DownEndsItFirstAndSaysSo) {
  const Home home;
  const std::string id = home.start_job(kForEver);
  const Outcome down = home.ctl({"down"}, 60);
  EXPECT_EQ(down.code, 0) << down.err;
  EXPECT_NE(down.err.find("ending job " + id), std::string::npos) << down.err;
  EXPECT_TRUE(wait_until([&] { return home.processes().empty(); }, 10));
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  EXPECT_EQ(home.job(id)["state"], "CANCELLED");
}

TEST(RunningJob, OutlivesAKilledCoordinatorAndIsAdoptedByTheNext) {
  const Home home;
  constexpr int kSteps = 1500;
  const std::string id = home.start_job(kSteps);
  const std::string log = fmt::format("{}/jobs/{}/logs/rank-0.log", home.state_dir(), id);
  const auto workers = home.processes("dsv3-worker");
  ASSERT_EQ(workers.size(), 1u);
  const pid_t pid = home.coordinator_pid();
  ASSERT_EQ(::kill(pid, SIGKILL), 0);
  ASSERT_TRUE(wait_until([&] { return home.processes("dsv3d").empty(); }));
  const uint64_t logged = size_of(log);
  EXPECT_TRUE(wait_until([&] { return size_of(log) > logged + 200; }))
      << "it does not go on while there is no coordinator";
  EXPECT_EQ(home.processes("dsv3-worker"), workers)
      << "it had ended before the coordinator was killed: give it more steps";
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const Outcome wait = home.ctl({"wait", id, "--timeout", "80"}, 90);
  EXPECT_EQ(wait.code, 0) << wait.err;

  const Json job = home.job(id);
  EXPECT_EQ(job["state"], "COMPLETED") << job;
  EXPECT_EQ(job["attempt"], 1) << "adopted, not started again";
  EXPECT_EQ(job["restarts"], 0);
  EXPECT_EQ(job["lost_steps"], 0);
  const Json steps = home.sql(
      "SELECT count(*) AS n, count(DISTINCT step) AS distinct_steps, min(step) AS first, max(step) "
      "AS last FROM metrics");
  EXPECT_EQ(steps[0],
            (Json{{"n", kSteps}, {"distinct_steps", kSteps}, {"first", 1}, {"last", kSteps}}));
  const Json tokens = home.sql("SELECT sum(tokens) AS tokens FROM expert_usage");
  EXPECT_EQ(tokens[0]["tokens"], kSteps * kTokensPerStep * kTopK);
  EXPECT_EQ(
      home.sql("SELECT count(*) AS n FROM events WHERE event = 'coordinator_started'")[0]["n"], 2);
}

TEST(RunningJob, WritesACheckpointWhenAsked) {
  const Home home;
  const std::string id = home.start_job(kForEver);
  EXPECT_TRUE(home.job(id)["checkpoint"].is_null());
  const Outcome asked = home.ctl({"checkpoint", id});
  EXPECT_EQ(asked.code, 0) << asked.err;
  ASSERT_TRUE(wait_until([&] { return home.job(id)["checkpoint"].is_object(); }))
      << home.ctl({"logs", id}).out;
  const Json job = home.job(id);
  EXPECT_EQ(job["state"], "RUNNING");
  const std::string folder = job["checkpoint"]["path"];
  EXPECT_TRUE(std::filesystem::exists(folder + "/complete")) << folder;
  const int64_t saved = job["checkpoint"]["step"];
  EXPECT_TRUE(wait_until([&] { return home.step(id) > saved; })) << "it goes on";
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST(RunningJob, WaitHasATimeOut) {
  const Home home;
  const std::string id = home.start_job(kForEver);
  const Outcome wait = home.ctl({"wait", id, "--timeout", "0.2"});
  EXPECT_EQ(wait.code, 124) << wait.err;
  EXPECT_EQ(home.job(id)["state"], "RUNNING");

  Running following(home.ctl_words({"logs", id, "-f"}), home.environment());
  EXPECT_TRUE(wait_until([&] { return following.out().find("step 2/") != std::string::npos; }));
  ::kill(following.pid(), SIGINT);
  const Outcome detached = following.finish(10);
  EXPECT_EQ(detached.code, 130);
  EXPECT_NE(detached.err.find("detached"), std::string::npos) << detached.err;

  Running waiting(home.ctl_words({"wait", id}), home.environment());
  EXPECT_TRUE(wait_until([&] { return !command_of(waiting.pid()).empty() && home.step(id) > 2; }));
  ::kill(waiting.pid(), SIGTERM);
  EXPECT_EQ(waiting.finish(10).code, 143);
  EXPECT_EQ(home.job(id)["state"], "RUNNING") << "detaching must not end it";
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST(RunningJob, ARankThatASignalEndsIsTriedAgainFromItsCheckpoint) {
  const Home home;
  const std::string id = home.start_job(kForEver);
  const auto workers = home.processes("dsv3-worker");
  ASSERT_EQ(workers.size(), 1u);
  ASSERT_EQ(::kill(workers[0], SIGTERM), 0);
  ASSERT_TRUE(wait_until([&] { return home.job(id)["attempt"] == 2; }));
  const int64_t saved = home.job(id)["checkpoint"]["step"];
  EXPECT_GT(saved, 0);
  EXPECT_TRUE(wait_until([&] { return home.step(id) > saved; })) << home.job(id);
  EXPECT_EQ(home.job(id)["state"], "RUNNING") << "its steps are not done: it has not completed";
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST(RunningJob, WithoutItsDataItIsRefusedBeforeItStarts) {
  const Home home;
  const std::string config = home.write_config("nodata", home.path() + "/data/absent", 3);
  const Outcome outcome = home.ctl({"submit", config, "--wait"}, 60);
  EXPECT_EQ(outcome.code, 6);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("/data/absent.idx"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("dsv3ctl data prepare"), std::string::npos) << outcome.err;
}

TEST(RunningJob, WithDamagedDataItFailsNamingTheFile) {
  const Home home;
  const std::string prefix = home.path() + "/data/damaged";
  ASSERT_TRUE(dsv3::make_dirs(home.path() + "/data").ok());
  ASSERT_TRUE(dsv3::write_file(prefix + ".idx", "not an index").ok());
  ASSERT_TRUE(dsv3::write_file(prefix + ".bin", "tokens").ok());
  const std::string config = home.write_config("damaged", prefix, 3);
  const Outcome outcome = home.ctl({"submit", config, "--wait"}, 60);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("FAILED"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("/data/damaged"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("dsv3ctl logs tiny-1"), std::string::npos)
      << "what to do next: " << outcome.err;
}

TEST(RunningJob, TheNextWaitsForTheNodeInTheQueue) {
  const Home home;
  const std::string first = home.start_job(kForEver);
  const Outcome second =
      home.ctl({"submit", home.write_config("next", home.path() + "/data/bytes", 2)});
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(second.out, "tiny-2\n");
  EXPECT_EQ(home.job("tiny-2")["state"], "QUEUED");
  EXPECT_NE(home.job("tiny-2")["reason"], "");
  EXPECT_EQ(home.ctl({"cancel", first}, 60).code, 0);
  EXPECT_EQ(home.ctl({"wait", "tiny-2"}, 60).code, 0);
}

// Both call their first job the same.
TEST(RunningJob, AnotherStateDirectorysCheckpointsAreNotTaken) {
  const Home first;
  const Home second;
  const std::vector<std::string> there = {"--set", "checkpoint.path=" + first.path() + "/shared"};
  const std::string id = first.submit_job(3, there);
  ASSERT_EQ(first.ctl({"wait", id}, 60).code, 0);
  const std::string newest = first.path() + "/shared/" + id + "/latest_checkpointed_iteration.txt";
  ASSERT_EQ(read_file(newest, 64).value(), "3\n");
  ASSERT_EQ(second.submit_job(5, there), id);
  EXPECT_EQ(second.ctl({"wait", id}, 60).code, 1);
  std::string reason = second.job(id)["reason"];
  EXPECT_NE(reason.find("it is another job's"), std::string::npos) << reason;
  // A later attempt may find checkpoints: only the folder's claim tells whose they are.
  ASSERT_EQ(second.ctl({"resume", id}).code, 0);
  EXPECT_EQ(second.ctl({"wait", id}, 60).code, 1);
  reason = second.job(id)["reason"];
  EXPECT_NE(reason.find("another state directory"), std::string::npos) << reason;
  EXPECT_NE(reason.find("checkpoint.path"), std::string::npos) << reason;
  EXPECT_EQ(read_file(newest, 64).value(), "3\n");
}

}  // namespace
}  // namespace dsv3::e2e
