// SIGINT, SIGTERM and SIGHUP for the processes of a job, at its stages: its ranks meet, train,
// write a checkpoint; and for its agent and its coordinator.
//
// Law: a rank that is told to end saves and ends, and the next attempt loses nothing; one that
// can't listen is ended; the coordinator's end leaves the job as it is.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "tests/fault/freeze.h"
#include "tests/fault/gang.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;

constexpr int kForEver = 10'000'000;  // steps
constexpr int kTriesMax = 20;

class JobSignal : public testing::Test {
 protected:
  void SetUp() override { default_signals(); }
};

bool is_rank(pid_t pid, int rank) {
  return command_of(pid).find(fmt::format("--rank {} ", rank)) != std::string::npos;
}

// Whether the process has its handler: a rank that has just begun would end by the signal itself.
bool catches_sigterm(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("SigCgt:"))
      return (std::strtoull(line.c_str() + 7, nullptr, 16) >> (SIGTERM - 1) & 1) != 0;
  }
  return false;
}

// A coordinator whose first rank 1 stops before it is a dsv3-worker: its programs stand in a folder
// of their own, where that one is a script.
void start_with_a_rank_that_stops(const Home& home) {
  const fs::path here = home.path() + "/bin", built = DSV3_BIN_DIR;
  fs::create_directory(here);
  for (const char* program : {"dsv3ctl", "dsv3d", "dsv3-agent"})
    fs::copy_file(built / program, here / program);
  const fs::path worker = here / "dsv3-worker", once = here / "stopped";
  std::ofstream(worker) << fmt::format(
      "#!/bin/sh\n"
      "case \" $* \" in *' --rank 1 '*) [ -e {0} ] || {{ : >{0}; kill -STOP $$; }} ;; esac\n"
      "exec {1} \"$@\"\n",
      once.string(), (built / "dsv3-worker").string());
  fs::permissions(worker, fs::perms::owner_all);
  EXPECT_EQ(run({here / "dsv3ctl", "up"}, home.environment()).code, 0);
}

// A job of two ranks of which one waits for the other, which is stopped on its way.
struct Meeting {
  std::string job;
  pid_t waiting = 0;
};
Meeting hold_meeting(const Home& home) {
  start_with_a_rank_that_stops(home);
  Meeting meeting{home.submit_job(kForEver, gang_words(0))};
  pid_t stopped = 0;
  EXPECT_TRUE(wait_until([&] {
    for (const pid_t pid : home.processes("dsv3-worker"))
      (is_rank(pid, 1) ? stopped : meeting.waiting) = pid;
    return stopped > 0 && is_stopped(stopped) && meeting.waiting > 0 &&
           catches_sigterm(meeting.waiting);
  }));
  return meeting;
}

double seconds_since(int64_t begin_ns) {
  return static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9;
}

// Exit code of a rank in the event log; -1 while there is none.
int64_t exit_code_of(const Home& home, const std::string& id, int rank) {
  const Json rows = home.sql(fmt::format(
      "SELECT json_extract(payload, '$.code') AS code FROM events WHERE job = '{}' AND event = "
      "'rank_exited' AND attempt = 1 AND json_extract(payload, '$.rank') = {}",
      id, rank));
  return rows.empty() ? -1 : rows[0]["code"].get<int64_t>();
}

TEST_F(JobSignal, WhileTheRanksMeetARankEndsAtOnceAndIsTriedAgain) {
  const Home home;
  const Meeting meeting = hold_meeting(home);
  ASSERT_GT(meeting.waiting, 0);
  const int64_t begin_ns = system_clock().steady_ns();
  ASSERT_EQ(::kill(meeting.waiting, SIGTERM), 0);
  ASSERT_TRUE(trains(home, meeting.job, 2)) << home.job(meeting.job).dump(1);
  EXPECT_LT(seconds_since(begin_ns), 20);
  EXPECT_EQ(exit_code_of(home, meeting.job, 0), 75);
  EXPECT_EQ(home.ctl({"cancel", meeting.job}, 60).code, 0);
}

TEST_F(JobSignal, WhileTheRanksMeetACancelIsHeard) {
  const Home home;
  const Meeting meeting = hold_meeting(home);
  ASSERT_GT(meeting.waiting, 0);
  EXPECT_EQ(home.ctl({"cancel", meeting.job, "--grace", "1"}, 30).code, 0);
  EXPECT_EQ(home.job(meeting.job)["state"], "CANCELLED");
  EXPECT_EQ(exit_code_of(home, meeting.job, 0), 0) << "it ended when it was asked to";
  EXPECT_TRUE(home.processes("dsv3-worker").empty());
}

TEST_F(JobSignal, BetweenStepsARankSavesAndNothingIsLost) {
  const Home home;
  const std::string id = home.start_job(kForEver, gang_words(0));
  std::vector<pid_t> ranks;
  int attempt = 1;
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    ASSERT_TRUE(trains(home, id, attempt));
    ranks = wait_for_ranks(home, ranks);
    kill_all({ranks.front()}, signal);
    ASSERT_TRUE(wait_until([&] { return home.job(id)["attempt"] == attempt + 1; }));
    ++attempt;
  }
  ASSERT_TRUE(trains(home, id, attempt));
  EXPECT_EQ(home.job(id)["lost_steps"], 0);
  EXPECT_EQ(home.job(id)["state"], "RUNNING");
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST_F(JobSignal, WhileACheckpointIsWrittenItIsFinished) {
  const Home home;
  const std::string folder = home.path() + "/ckpt";
  for (const int rank : {0, 1}) {
    SCOPED_TRACE(rank);
    std::vector<std::string> words = gang_words(10);
    const auto more = set_words({"checkpoint.path=" + folder});
    words.insert(words.end(), more.begin(), more.end());
    const std::string id = home.start_job(kForEver, words);
    const auto ranks = wait_for_ranks(home);
    const pid_t writer =
        *std::find_if(ranks.begin(), ranks.end(), [](pid_t pid) { return is_rank(pid, 0); });
    const pid_t target =
        *std::find_if(ranks.begin(), ranks.end(), [&](pid_t pid) { return is_rank(pid, rank); });
    ASSERT_TRUE(wait_until([&] { return fs::exists(folder + "/" + id); }));
    bool caught = false;
    for (int i = 0; i < kTriesMax && !caught; ++i)
      caught = Watch(folder + "/" + id, ".tmp-step-").freeze([&] { return writer; });
    ASSERT_TRUE(caught);
    ::kill(target, SIGTERM);
    ::kill(writer, SIGCONT);
    ASSERT_TRUE(trains(home, id, 2)) << home.job(id).dump(1);
    EXPECT_EQ(home.job(id)["lost_steps"], 0);
    EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
    for (const auto& entry : fs::directory_iterator(folder + "/" + id))
      EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp-")) << entry.path();
  }
}

TEST_F(JobSignal, AnAgentSavesItsRanksAndTheNextAttemptLosesNothing) {
  const Home home;
  const std::string id = home.start_job(kForEver, gang_words(0));
  int attempt = 1;
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    ASSERT_TRUE(trains(home, id, attempt));
    pid_t agent = 0;
    ASSERT_TRUE(wait_until([&] {
      const auto agents = home.processes("dsv3-agent");
      if (agents.size() == 1) agent = agents.front();
      return agents.size() == 1;
    }));
    kill_all({agent}, signal);
    ASSERT_TRUE(wait_until([&] { return home.job(id)["attempt"] == attempt + 1; }));
    ++attempt;
  }
  ASSERT_TRUE(trains(home, id, attempt));
  EXPECT_EQ(home.job(id)["lost_steps"], 0);
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST_F(JobSignal, ACoordinatorLeavesItsJobsRunning) {
  const Home home;
  const std::string id = home.start_job(kForEver);
  const auto workers = home.processes("dsv3-worker");
  const pid_t first = home.coordinator_pid();
  kill_all({first}, SIGHUP);  // it has no terminal to lose
  EXPECT_EQ(home.coordinator_pid(), first);
  for (const int signal : {SIGINT, SIGTERM}) {
    SCOPED_TRACE(signal);
    kill_all({home.coordinator_pid()}, signal);
    ASSERT_TRUE(wait_until([&] { return home.processes("dsv3d").empty(); }));
    EXPECT_EQ(home.ctl({"status"}).code, 3);
    ASSERT_EQ(home.ctl({"up"}).code, 0);
    ASSERT_TRUE(reaches(home, id, "RUNNING"));
  }
  EXPECT_EQ(home.processes("dsv3-worker"), workers);
  EXPECT_EQ(home.job(id)["attempt"], 1);
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST_F(JobSignal, ACoordinatorThatEndsDuringASubmitTakesTheJobOrNot) {
  const Home home;
  const std::string config = home.write_config("tiny", home.prepare_text(), 2);
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const pid_t coordinator = home.coordinator_pid();
  kill_all({coordinator}, SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return is_stopped(coordinator); }));
  Running submit(home.ctl_words({"submit", config}), home.environment());
  ASSERT_TRUE(wait_until([&] { return is_connected(submit.pid()); }));
  kill_all({coordinator}, SIGTERM);
  kill_all({coordinator}, SIGCONT);
  const Outcome outcome = submit.finish(20);
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const Json jobs = home.json({"status"})["jobs"];
  if (outcome.code == 0) {
    ASSERT_EQ(jobs.size(), 1u) << "it was acknowledged";
    EXPECT_EQ(home.ctl({"wait", jobs[0]["id"].get<std::string>()}, 60).code, 0);
  } else {
    EXPECT_EQ(outcome.code, 3) << outcome.err;
    EXPECT_EQ(errors_of(outcome).size(), 1u) << outcome.err;
    EXPECT_TRUE(jobs.empty()) << "it was not acknowledged";
  }
}

}  // namespace
}  // namespace dsv3::e2e
