// Attempts that fail: which of them are tried again, when, for how long, and what a user can do
// after that. Law 3 (replay gives the state) is checked at each end.
#include <gtest/gtest.h>

#include "coordinator/core/restart_policy.h"
#include "tests/unit/coordinator/core/world.h"

namespace dsv3::core {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

AgentKey nth(uint32_t attempt, const std::string& node = "n1") {
  return {"demo-1", attempt, node};
}

// One node, one rank; the attempt runs.
void run_attempt(World& w, uint32_t attempt) {
  w.give(hello(nth(attempt), false, 100 + attempt));
  w.give(RankStartedInput{nth(attempt), 0, 11});
  ASSERT_EQ(w.job("demo-1").state, JobState::kRunning);
  ASSERT_EQ(w.job("demo-1").attempt->number, attempt);
}
void save(World& w, uint32_t attempt, int64_t step) {
  w.give(CheckpointDoneInput{nth(attempt), {step, "/c/step-" + std::to_string(step), 5, 0.5}});
}
void end_rank(World& w, uint32_t attempt, int32_t code, int64_t step = 0) {
  const int32_t signal = code > 128 ? code - 128 : 0;
  w.give(RankExitedInput{nth(attempt), 0, code, signal, "", "", step});
  w.end_agent(nth(attempt), code);
}
World submitted() {
  World w;
  w.give(SubmitInput{submission()});
  return w;
}

TEST(RestartPolicy, IsTheTableOfItsHeader) {
  for (const int32_t code : {129, 130, 134, 137, 139, 143, 10, 11, 12, 75})
    EXPECT_TRUE(decide_restart(code, 0).restart) << code;
  for (const int32_t code : {1, 2, 3, 9, 13, 14, 15, 93, 124, 127, 128, 193, 255})
    EXPECT_FALSE(decide_restart(code, 0).restart) << code;
  EXPECT_EQ(decide_restart(137, 0).delay_ns, 0);
  EXPECT_EQ(decide_restart(137, 1).delay_ns, 0);
  EXPECT_EQ(decide_restart(137, 2).delay_ns, kSecond);
  EXPECT_FALSE(decide_restart(137, 3).restart);
}

TEST(RestartPolicy, AnOutsideKillIsTheCauseAndALostPeerIsNot) {
  EXPECT_TRUE(is_better_cause(0, 11));
  EXPECT_TRUE(is_better_cause(11, 137));
  EXPECT_TRUE(is_better_cause(143, 137));
  EXPECT_TRUE(is_better_cause(12, 13));
  EXPECT_FALSE(is_better_cause(137, 11));
  EXPECT_FALSE(is_better_cause(137, 13)) << "the first one that failed by itself stands";
  EXPECT_FALSE(is_better_cause(11, 143));
  EXPECT_FALSE(is_better_cause(137, 0));
}

TEST(Restart, AfterAKillIsAtOnceAndInTheSameDecision) {
  World w = submitted();
  run_attempt(w, 1);
  save(w, 1, 30);
  w.give(RankExitedInput{nth(1), 0, 137, 9, "", "", 37});
  w.give(AgentDoneInput{nth(1), 137, ""});
  EXPECT_EQ(w.job("demo-1").state, JobState::kRunning) << "its agent is still there";
  w.give(AgentGoneInput{nth(1), 137, "its process ended"});
  EXPECT_TRUE(w.wrote(EventType::kJobRestarting));
  EXPECT_EQ(w.count(ActionType::kStartAgent), 1);
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching);
  EXPECT_EQ(w.job("demo-1").attempt->number, 2u);
  EXPECT_EQ(w.job("demo-1").restarts, 1u);
  EXPECT_EQ(w.job("demo-1").idle_attempts, 0u);
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Restart, GivesUpAfterThreeAttemptsInARowWithoutProgressAndSaysWhich) {
  World w = submitted();
  run_attempt(w, 1);
  save(w, 1, 35);
  end_rank(w, 1, 137, 36);
  for (uint32_t attempt = 2; attempt <= 4; ++attempt) {
    w.pass(kSecond);
    w.give(TickInput{});
    run_attempt(w, attempt);
    save(w, attempt, 35);  // again: no progress
    end_rank(w, attempt, 137, 37);
  }
  const Job& job = w.job("demo-1");
  EXPECT_EQ(job.state, JobState::kFailed);
  EXPECT_EQ(job.code, 137);
  EXPECT_EQ(job.restarts, 3u);
  EXPECT_EQ(job.reason,
            "attempts 2, 3 and 4 ended without a new checkpoint; last: rank 0 was killed by signal "
            "9 at step 37");
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Restart, GoesOnForEverWhileThereIsProgress) {
  World w = submitted();
  for (uint32_t attempt = 1; attempt <= 9; ++attempt) {
    run_attempt(w, attempt);
    if (attempt % 2 == 0) save(w, attempt, attempt);
    end_rank(w, attempt, 137);
    EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching) << attempt;
  }
}

TEST(Restart, WaitsLongerWithoutProgressByTheMonotonicClock) {
  World w = submitted();
  run_attempt(w, 1);
  end_rank(w, 1, 75);
  run_attempt(w, 2);
  end_rank(w, 2, 75);
  EXPECT_EQ(w.job("demo-1").state, JobState::kRestarting);
  w.now.wall_ns += 3600 * kSecond;  // somebody sets the clock
  w.give(TickInput{});
  EXPECT_EQ(w.job("demo-1").state, JobState::kRestarting) << "not before its time";
  w.now.wall_ns -= 7200 * kSecond;
  w.now.steady_ns += kSecond;
  w.give(TickInput{});
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching);
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Restart, IsAtOnceAfterTheCoordinatorsOwn) {
  World w = submitted();
  for (uint32_t attempt = 1; attempt <= 2; ++attempt) {
    run_attempt(w, attempt);
    end_rank(w, attempt, 75);
  }
  ASSERT_EQ(w.job("demo-1").state, JobState::kRestarting);
  World back;
  back.log = w.log;
  back.state = back.replayed();
  back.give(StartedInput{"second", 1});
  back.give(TickInput{});
  EXPECT_EQ(back.job("demo-1").state, JobState::kLaunching);
  EXPECT_EQ(back.job("demo-1").attempt->number, 3u);
  EXPECT_EQ(back.job("demo-1").idle_attempts, 2u) << "what was counted is in the log";
}

TEST(Restart, KeepsItsNodesFromTheQueue) {
  World w = submitted();
  w.give(SubmitInput{submission()});
  for (uint32_t attempt = 1; attempt <= 2; ++attempt) {
    run_attempt(w, attempt);
    end_rank(w, attempt, 75);
  }
  ASSERT_EQ(w.job("demo-1").state, JobState::kRestarting);
  w.give(TickInput{});
  EXPECT_EQ(w.job("demo-2").state, JobState::kQueued);
  w.give(CancelInput{"demo-1", ""});
  EXPECT_EQ(w.job("demo-1").state, JobState::kCancelled);
  EXPECT_EQ(w.job("demo-2").state, JobState::kLaunching);
}

// Two ranks on one node, as an agent tells it: the peer that noticed first is reported first.
TEST(Restart, NamesTheRankThatWasKilledNotItsPeer) {
  World w;
  w.give(SubmitInput{submission(1, 2)});
  w.give(hello(nth(1)));
  w.give(RankStartedInput{nth(1), 0, 11});
  w.give(RankStartedInput{nth(1), 1, 12});
  w.give(RankExitedInput{nth(1), 0, 11, 0, "all_reduce", "rank 1 is gone", 7});
  w.give(RankExitedInput{nth(1), 1, 137, 9, "", "", 7});
  w.end_agent(nth(1), 11);
  ASSERT_TRUE(w.wrote(EventType::kJobRestarting));
  const auto restarting =
      std::find_if(w.last.events.begin(), w.last.events.end(),
                   [](const Event& e) { return e.type == EventType::kJobRestarting; });
  EXPECT_EQ(restarting->code, 137);
  EXPECT_EQ(restarting->reason, "rank 1 was killed by signal 9 at step 7");
}

// A rank that the agent had to kill (143 with signal 9) explains nothing.
TEST(Restart, DoesNotTakeItsOwnKillForTheCause) {
  World w;
  w.give(SubmitInput{submission(1, 2)});
  w.give(hello(nth(1)));
  w.give(RankStartedInput{nth(1), 0, 11});
  w.give(RankStartedInput{nth(1), 1, 12});
  w.give(RankExitedInput{nth(1), 0, 14, 0, "", "the loss is not finite", 7});
  w.give(RankExitedInput{nth(1), 1, 143, 9, "", "", 7});
  w.end_agent(nth(1), 14);
  EXPECT_EQ(w.job("demo-1").state, JobState::kFailed);
  EXPECT_EQ(w.job("demo-1").code, 14);
}

TEST(Restart, FollowsTheLossOfAnAgent) {
  World w = submitted();
  run_attempt(w, 1);
  w.give(AgentGoneInput{nth(1), 137, "its process (pid 101) ended with code 137"});
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching);
  EXPECT_EQ(w.job("demo-1").attempt->number, 2u);
  run_attempt(w, 2);
  w.give(AgentGoneInput{nth(2), 0, "its process ended"});  // nobody knows how
  EXPECT_EQ(w.job("demo-1").state, JobState::kRestarting);
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Resume, TakesAFailedJobUpAgainWithANewCount) {
  World w = submitted();
  EXPECT_EQ(w.give(ResumeInput{"demo-1"}).status.code(), Code::kConflict) << "it is active";
  EXPECT_EQ(w.give(ResumeInput{"demo-9"}).status.code(), Code::kNotFound);
  for (uint32_t attempt = 1; attempt <= 3; ++attempt) {
    w.pass(kSecond);
    w.give(TickInput{});
    run_attempt(w, attempt);
    end_rank(w, attempt, 137);
  }
  ASSERT_EQ(w.job("demo-1").state, JobState::kFailed);
  const int64_t launched_ns = w.job("demo-1").launched_ns;
  w.pass(3600 * kSecond);
  EXPECT_TRUE(w.give(ResumeInput{"demo-1"}).status.ok());
  EXPECT_EQ(w.count(ActionType::kWriteJobFiles), 1);
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching);
  EXPECT_EQ(w.job("demo-1").attempt->number, 4u);
  EXPECT_EQ(w.job("demo-1").ended_ns, 0);
  EXPECT_EQ(w.job("demo-1").code, 0);
  EXPECT_EQ(w.job("demo-1").launched_ns, launched_ns + 3600 * kSecond)
      << "the time in which it was over is not its own";
  run_attempt(w, 4);
  end_rank(w, 4, 137);
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching) << "counted anew";
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Resume, OfACancelledJobWaitsForItsNode) {
  World w = submitted();
  w.give(CancelInput{"demo-1", ""});
  w.give(AgentGoneInput{nth(1), 137, "ended"});
  ASSERT_EQ(w.job("demo-1").state, JobState::kCancelled);
  w.give(SubmitInput{submission()});
  EXPECT_TRUE(w.give(ResumeInput{"demo-1"}).status.ok());
  EXPECT_EQ(w.job("demo-1").state, JobState::kQueued);
  w.give(CancelInput{"demo-2", ""});
  w.give(AgentGoneInput{{"demo-2", 1, "n1"}, 137, "ended"});
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching);
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Resume, OfACompletedJobSaysWhatToDoInstead) {
  World w = submitted();
  run_attempt(w, 1);
  end_rank(w, 1, 0);
  ASSERT_EQ(w.job("demo-1").state, JobState::kCompleted);
  const Status status = w.give(ResumeInput{"demo-1"}).status;
  EXPECT_EQ(status.code(), Code::kConflict);
  EXPECT_NE(status.hint().find("checkpoint.load"), std::string::npos);
  EXPECT_TRUE(w.last.events.empty());
}

// A log as release 0.1 wrote it: an attempt ends without agent_gone.
TEST(Replay, TakesLogsThatKnowNoAgentGone) {
  World w = submitted();
  run_attempt(w, 1);
  end_rank(w, 1, 75);
  State old;
  int64_t seq = 0;
  for (Event event : w.log) {
    if (event.type == EventType::kAgentGone) continue;
    event.seq = ++seq;
    const Status status = apply(old, event);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  EXPECT_EQ(old.jobs.at("demo-1").state, w.job("demo-1").state);
}

}  // namespace
}  // namespace dsv3::core
