// cancel in every state, and of ranks that don't listen: when it returns, no process of the job is
// left. resume after it goes on from the checkpoint that the ranks wrote at their end.
#include <fmt/format.h>

#include "tests/fault/gang.h"

namespace dsv3::e2e {
namespace {

constexpr int kForEver = 10'000'000;  // steps

// Cancels and looks at once: nothing is waited for after cancel has returned.
void expect_cancel_ends_all(const Home& home, const std::string& id,
                            const std::vector<std::string>& more = {}) {
  std::vector<std::string> words = {"cancel", id, "--json"};
  words.insert(words.end(), more.begin(), more.end());
  const Outcome cancelled = home.ctl(words, 60);
  const std::vector<pid_t> ranks = home.processes("dsv3-worker");
  const std::vector<pid_t> agents = home.processes("dsv3-agent");
  EXPECT_TRUE(ranks.empty()) << ranks.size();
  EXPECT_TRUE(agents.empty()) << agents.size();
  EXPECT_EQ(cancelled.code, 0) << cancelled.err;
  EXPECT_EQ(Json::parse(cancelled.out, nullptr, false)["job"]["state"], "CANCELLED")
      << cancelled.out;
}

TEST(Cancel, WhileRunningSavesAndResumeGoesOnFromThere) {
  const Home home;
  const std::string id = home.start_job(kForEver, gang_words(0));
  expect_cancel_ends_all(home, id);
  const Json job = home.job(id);
  const int64_t saved = job["checkpoint"]["step"];
  EXPECT_EQ(saved, job["step"]);
  EXPECT_EQ(job["next_action"], "dsv3ctl resume " + id);
  EXPECT_EQ(home.ctl({"resume", id}).out, id + "\n");
  ASSERT_TRUE(trains(home, id, 2)) << home.job(id).dump(1);
  EXPECT_EQ(home.job(id)["lost_steps"], 0);
  const Json first = home.sql("SELECT min(step) AS step FROM metrics WHERE attempt = 2");
  EXPECT_EQ(first[0]["step"], saved + 1);
  expect_cancel_ends_all(home, id);
}

TEST(Cancel, WhileLaunching) {
  const Home home;
  const std::string first = home.submit_job(kForEver, gang_words(0));
  expect_cancel_ends_all(home, first, {"--grace", "5"});  // whatever it has come to
  const std::string second = home.submit_job(kForEver, gang_words(0));
  ASSERT_TRUE(wait_until([&] { return !home.processes("dsv3-agent").empty(); }));
  expect_cancel_ends_all(home, second, {"--grace", "0"});
}

TEST(Cancel, WhileRestarting) {
  const Home home;
  const std::string id = home.submit_job(kForEver, gang_words(0));
  std::vector<pid_t> ranks;
  for (int attempt = 1; attempt <= 2; ++attempt) {
    ranks = wait_for_ranks(home, ranks);
    ASSERT_TRUE(trains(home, id, attempt));
    kill_all({ranks.front()});
  }
  ASSERT_TRUE(reaches(home, id, "RESTARTING"));
  expect_cancel_ends_all(home, id);
  EXPECT_EQ(home.job(id)["attempt"], 2) << "it is not tried again";
}

TEST(Cancel, OfAStoppedRankKillsItAfterTheGrace) {
  const Home home;
  const std::string id = home.start_job(kForEver, gang_words(0));
  const std::vector<pid_t> ranks = wait_for_ranks(home);
  kill_all({ranks.back()}, SIGSTOP);
  expect_cancel_ends_all(home, id, {"--grace", "0.3"});
  const Json exits = home.sql(
      "SELECT json_extract(payload, '$.code') AS code, json_extract(payload, '$.signal') AS signal "
      "FROM events WHERE event = 'rank_exited' AND json_extract(payload, '$.signal') = 9");
  ASSERT_GE(exits.size(), 1u);
  EXPECT_EQ(exits[0]["code"], 143) << "killed by its agent";
}

TEST(Cancel, RightAfterItsAgentWasKilled) {
  const Home home;
  const std::string id = home.start_job(kForEver, gang_words(0));
  const std::vector<pid_t> agents = home.processes("dsv3-agent");
  ASSERT_EQ(agents.size(), 1u);
  kill_all(agents);
  // The next attempt may be anywhere between its start and its first step.
  expect_cancel_ends_all(home, id, {"--grace", "0"});
}

}  // namespace
}  // namespace dsv3::e2e
