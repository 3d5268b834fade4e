// Scenarios: what a user and an agent see, one after another. Law 3 (replay gives the state) is
// checked at each end.
#include "coordinator/core/step.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/coordinator/core/world.h"

namespace dsv3::core {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
const AgentKey kFirst{"demo-1", 1, "n1"};
const AgentKey kSecondNode{"demo-1", 1, "n2"};

// A job of two nodes with one rank each that is RUNNING.
World running() {
  World w;
  w.give(SubmitInput{submission(2)});
  w.give(hello(kFirst));
  w.give(hello(kSecondNode));
  w.give(RankStartedInput{kFirst, 0, 11});
  w.give(RankStartedInput{kSecondNode, 1, 12});
  EXPECT_EQ(w.job("demo-1").state, JobState::kRunning);
  return w;
}

TEST(Job, GoesFromSubmitToCompleted) {
  World w;
  EXPECT_EQ(w.give(SubmitInput{submission()}).job, "demo-1");
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching);
  EXPECT_EQ(w.count(ActionType::kWriteJobFiles), 1);
  EXPECT_EQ(w.count(ActionType::kStartAgent), 1);
  w.give(hello(kFirst));
  EXPECT_EQ(w.count(ActionType::kSendLaunch), 1);
  EXPECT_EQ(w.state.nodes.at("n1").state, NodeState::kUp);
  w.give(RankStartedInput{kFirst, 0, 11});
  EXPECT_EQ(w.job("demo-1").state, JobState::kRunning);
  w.give(CheckpointDoneInput{kFirst, {10, "/c/step-10", 5, 0.5}});
  w.give(RankExitedInput{kFirst, 0, 0, 0, "", "", 0});
  w.give(AgentDoneInput{kFirst, 0, ""});
  EXPECT_EQ(w.job("demo-1").state, JobState::kRunning) << "the agent's process is still there";
  w.give(AgentGoneInput{kFirst, 0, "its process ended"});
  EXPECT_EQ(w.job("demo-1").state, JobState::kCompleted);
  EXPECT_EQ(w.job("demo-1").checkpoint->step, 10);
  EXPECT_EQ(w.job("demo-1").code, 0);
  EXPECT_EQ(w.state.nodes.at("n1").state, NodeState::kIdle);
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Submit, WithAKnownRequestKeyReturnsTheSameJob) {
  World w;
  w.give(SubmitInput{submission(1, 1, "key")});
  EXPECT_TRUE(w.last.created);
  w.give(SubmitInput{submission(1, 1, "key")});
  EXPECT_EQ(w.last.job, "demo-1");
  EXPECT_FALSE(w.last.created);
  EXPECT_TRUE(w.last.events.empty());
  w.give(SubmitInput{submission(1, 1, "other")});
  EXPECT_EQ(w.last.job, "demo-2");
}

TEST(Submit, RefusesPlacementsThatCannotBe) {
  World w;
  Submission s = submission();
  s.nodes.clear();
  EXPECT_EQ(w.give(SubmitInput{s}).status.code(), Code::kInvalid);
  s = submission(2);
  s.nodes[1].ranks = {0};
  EXPECT_EQ(w.give(SubmitInput{s}).status.code(), Code::kInvalid);
  s.nodes[1].ranks = {2};
  EXPECT_EQ(w.give(SubmitInput{s}).status.code(), Code::kInvalid);
  s = submission();
  s.nodes[0].node = "-oProxyCommand=x";
  EXPECT_EQ(w.give(SubmitInput{s}).status.code(), Code::kInvalid);
  EXPECT_TRUE(w.log.empty());
}

TEST(Submit, RefusesWhatItsMessagesCouldNotCarry) {
  World w;
  Submission s = submission();
  s.spec_yaml = std::string(3 << 20, 'x');
  EXPECT_TRUE(w.give(SubmitInput{s}).status.ok());
  s.spec_yaml = std::string(3 << 20, '"');  // twice as long in the log
  EXPECT_EQ(w.give(SubmitInput{s}).status.code(), Code::kInvalid);
  EXPECT_TRUE(w.last.events.empty());
}

TEST(Submit, NamesJobsPlainly) {
  EXPECT_EQ(make_job_id("My Demo!", 3), "my-demo-3");
  EXPECT_EQ(make_job_id("../..", 1), "job-1");
  EXPECT_EQ(make_job_id("", 12), "job-12");
}

TEST(Queue, HoldsAJobUntilItsNodeIsFree) {
  World w;
  w.give(SubmitInput{submission()});
  w.give(SubmitInput{submission()});
  EXPECT_EQ(w.job("demo-2").state, JobState::kQueued);
  w.give(TickInput{});
  EXPECT_EQ(w.job("demo-2").state, JobState::kQueued);
  w.give(hello(kFirst));
  w.give(RankStartedInput{kFirst, 0, 11});
  w.give(RankExitedInput{kFirst, 0, 0, 0, "", "", 0});
  w.end_agent(kFirst, 0);
  EXPECT_EQ(w.job("demo-1").state, JobState::kCompleted);
  EXPECT_EQ(w.job("demo-2").state, JobState::kLaunching);
}

TEST(Failure, StopsTheGangAndNamesTheCause) {
  World w = running();
  w.give(RankExitedInput{kFirst, 0, 11, 0, "all_reduce", "peer 1 is gone", 7});
  EXPECT_TRUE(w.wrote(EventType::kAttemptStopping));
  EXPECT_EQ(w.count(ActionType::kSendStop), 2);
  // The one that failed by itself reports later, and is the cause.
  w.give(RankExitedInput{kSecondNode, 1, 13, 0, "arena", "out of memory", 7});
  w.end_agent(kFirst, 11);
  EXPECT_EQ(w.job("demo-1").state, JobState::kRunning);
  w.end_agent(kSecondNode, 13);
  EXPECT_EQ(w.job("demo-1").state, JobState::kFailed);
  EXPECT_EQ(w.job("demo-1").code, 13);
  EXPECT_NE(
      w.job("demo-1").reason.find("rank 1 ended with code 13 in arena at step 7: out of memory"),
      std::string::npos)
      << w.job("demo-1").reason;
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Cancel, OfARunningJobStopsItsAgentsFirst) {
  World w = running();
  EXPECT_TRUE(w.give(CancelInput{"demo-1", ""}).status.ok());
  EXPECT_EQ(w.job("demo-1").state, JobState::kStopping);
  EXPECT_EQ(w.count(ActionType::kSendStop), 2);
  EXPECT_TRUE(w.give(CancelInput{"demo-1", ""}).events.empty());
  for (const AgentKey& key : {kFirst, kSecondNode}) {
    w.give(RankExitedInput{key, key.node == "n1" ? 0u : 1u, 143, 15, "", "", 0});
    w.end_agent(key, 143);
  }
  EXPECT_EQ(w.job("demo-1").state, JobState::kCancelled);
  EXPECT_EQ(w.give(CancelInput{"demo-1", ""}).status.code(), Code::kConflict);
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Cancel, WithAGraceGivesTheRanksThatTimeAlsoWhenAskedAgain) {
  World w = running();
  w.give(CancelInput{"demo-1", "", 5'000});
  ASSERT_EQ(w.count(ActionType::kSendStop), 2);
  EXPECT_EQ(w.last.actions.front().grace_ms, 5'000u);
  w.give(CancelInput{"demo-1", "", 0});
  ASSERT_EQ(w.count(ActionType::kSendStop), 2);
  EXPECT_EQ(w.last.actions.front().grace_ms, 0u);
  w.give(AgentHeartbeatInput{kFirst});
  EXPECT_EQ(w.last.actions.back().grace_ms, 0u);
  w.give(CancelInput{"demo-9", "", 0});
  EXPECT_EQ(w.times.stop_grace_ms.count("demo-9"), 0u);
}

TEST(Cancel, BeforeAnAgentCameKillsTheAgentAndEndsAtOnce) {
  World w;
  w.give(SubmitInput{submission()});
  w.give(CancelInput{"demo-1", "no more"});
  EXPECT_EQ(w.count(ActionType::kKillAgent), 1);
  EXPECT_EQ(w.job("demo-1").state, JobState::kStopping) << "until it is certain that it is gone";
  w.give(AgentGoneInput{kFirst, 137, "its process ended"});
  EXPECT_EQ(w.job("demo-1").state, JobState::kCancelled);
  EXPECT_EQ(w.job("demo-1").reason, "no more");
  w.give(hello(kFirst));
  EXPECT_EQ(w.count(ActionType::kDismissAgent), 1);
}

TEST(Cancel, OfAJobThatIsNotThereIsNotFound) {
  World w;
  EXPECT_EQ(w.give(CancelInput{"demo-9", ""}).status.code(), Code::kNotFound);
  EXPECT_EQ(w.give(CheckpointNowInput{"demo-9"}).status.code(), Code::kNotFound);
}

TEST(Checkpoint, IsAskedOfEveryAgentOfARunningJobOnly) {
  World w;
  w.give(SubmitInput{submission()});
  EXPECT_EQ(w.give(CheckpointNowInput{"demo-1"}).status.code(), Code::kConflict);
  World r = running();
  EXPECT_TRUE(r.give(CheckpointNowInput{"demo-1"}).status.ok());
  EXPECT_EQ(r.count(ActionType::kSendCheckpoint), 2);
}

TEST(Checkpoint, WithSecondsThatAreNoNumberStillReadsBackFromTheLog) {
  World w = running();
  w.give(CheckpointDoneInput{kFirst, {10, "/c/step-10", 5, std::nan("")}});
  ASSERT_TRUE(w.wrote(EventType::kCheckpointDone));
  const Event& event = w.last.events.front();
  const auto back = parse_event(event.seq, event.time_ns, event.job, event.attempt,
                                event_name(event.type), payload_json(event));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(*back, event);
}

TEST(Silence, OfAnAgentIsALoss) {
  World w = running();
  w.pass(9 * kSecond);
  w.give(AgentHeartbeatInput{kFirst});
  EXPECT_EQ(w.count(ActionType::kSendAck), 1);
  w.give(TickInput{});
  EXPECT_FALSE(w.wrote(EventType::kAgentLost));
  w.pass(2 * kSecond);
  w.give(TickInput{});
  ASSERT_TRUE(w.wrote(EventType::kAgentLost));
  EXPECT_EQ(w.count(ActionType::kKillAgent), 1);
  EXPECT_EQ(w.count(ActionType::kSendStop), 1);
  EXPECT_EQ(w.state.nodes.at("n2").state, NodeState::kLost);
  w.give(RankExitedInput{kFirst, 0, 143, 15, "", "", 0});
  w.end_agent(kFirst, 143);
  // It comes back too late.
  w.give(AgentHeartbeatInput{kSecondNode});
  EXPECT_EQ(w.count(ActionType::kDismissAgent), 1);
  EXPECT_EQ(w.job("demo-1").state, JobState::kRunning);
  w.give(AgentGoneInput{kSecondNode, 137, "its process ended"});
  EXPECT_EQ(w.job("demo-1").state, JobState::kLaunching) << "and once more";
  EXPECT_EQ(w.job("demo-1").attempt->number, 2u);
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Silence, AfterTheCoordinatorsRestartHasALongerLimit) {
  World w = running();
  World restarted;
  restarted.log = w.log;
  restarted.state = restarted.replayed();
  restarted.now = w.now;
  restarted.pass(3600 * kSecond);
  restarted.give(StartedInput{"second", 1});
  EXPECT_EQ(restarted.count(ActionType::kStartAgent), 0) << "both agents were there";
  restarted.pass(29 * kSecond);
  restarted.give(TickInput{});
  EXPECT_FALSE(restarted.wrote(EventType::kAgentLost));
  restarted.give(hello(kFirst, true));
  EXPECT_EQ(restarted.count(ActionType::kSendAck), 1) << "re-adopted, not launched again";
  restarted.pass(2 * kSecond);
  restarted.give(TickInput{});
  ASSERT_TRUE(restarted.wrote(EventType::kAgentLost));
  EXPECT_EQ(restarted.last.events[0].node, "n2");
}

TEST(Restart, AsksAgainForAgentsThatNeverCame) {
  World w;
  w.give(SubmitInput{submission()});
  w.give(StartedInput{"second", 1});
  EXPECT_EQ(w.count(ActionType::kStartAgent), 1);
  EXPECT_EQ(w.count(ActionType::kWriteJobFiles), 1);
}

TEST(Stop, ThatTakesTooLongIsEnforced) {
  World w = running();
  w.give(CancelInput{"demo-1", ""});
  for (int s = 0; s < 41; ++s) {
    w.pass(kSecond);
    w.give(AgentHeartbeatInput{kFirst});
    EXPECT_EQ(w.count(ActionType::kSendStop), 1) << "a stop can be lost, so it is said again";
    w.give(AgentHeartbeatInput{kSecondNode});
  }
  w.give(TickInput{});
  EXPECT_EQ(w.count(ActionType::kKillAgent), 2);
  EXPECT_EQ(w.job("demo-1").state, JobState::kStopping);
  for (const AgentKey& key : {kFirst, kSecondNode}) w.give(AgentGoneInput{key, 137, "ended"});
  EXPECT_EQ(w.job("demo-1").state, JobState::kCancelled);
}

TEST(Stop, OfAnAgentThatHasSaidItsLastWordAndStaysIsEnforced) {
  World w = running();
  for (const AgentKey& key : {kFirst, kSecondNode}) {
    w.give(RankExitedInput{key, key.node == "n1" ? 0u : 1u, 0, 0, "", "", 9});
    w.give(AgentDoneInput{key, 0, ""});
  }
  w.give(AgentGoneInput{kFirst, 0, "its process ended"});
  w.pass(9 * kSecond);
  EXPECT_TRUE(w.give(TickInput{}).actions.empty());
  w.pass(2 * kSecond);
  w.give(TickInput{});
  ASSERT_EQ(w.count(ActionType::kKillAgent), 1);
  EXPECT_EQ(w.last.actions[0].agent, kSecondNode);
  w.give(AgentGoneInput{kSecondNode, 137, "its process ended"});
  EXPECT_EQ(w.job("demo-1").state, JobState::kCompleted) << "its ranks were done";
}

TEST(AgentProcess, ThatEndsWithoutAWordEndsTheAttemptAtOnce) {
  World w = running();
  w.give(AgentGoneInput{kSecondNode, 14, "its process ended with code 14"});
  EXPECT_TRUE(w.wrote(EventType::kAgentLost));
  EXPECT_TRUE(w.wrote(EventType::kAgentGone));
  EXPECT_TRUE(w.wrote(EventType::kAttemptStopping));
  w.give(RankExitedInput{kFirst, 0, 11, 0, "", "", 0});
  w.end_agent(kFirst, 11);
  EXPECT_EQ(w.job("demo-1").state, JobState::kFailed);
  EXPECT_EQ(w.job("demo-1").code, 14);
  // Its end is seen again, after the attempt: nothing to add.
  EXPECT_TRUE(w.give(AgentGoneInput{kFirst, 0, "ended"}).events.empty());
}

TEST(AgentProcess, OfASecondOneUnderTheSameKeyIsDismissed) {
  World w = running();
  w.give(hello(kFirst, false, 999));
  EXPECT_EQ(w.count(ActionType::kDismissAgent), 1);
  EXPECT_EQ(w.job("demo-1").state, JobState::kRunning);
}

TEST(Input, ThatNoTableListsIsWrittenDownAndChangesNothing) {
  World w = running();
  const State before = w.state;
  w.give(RankStartedInput{kFirst, 0, 11});
  EXPECT_TRUE(w.wrote(EventType::kInputRefused));
  EXPECT_FALSE(w.last.status.ok());
  w.give(RankExitedInput{kFirst, 55, 0, 0, "", "", 0});
  EXPECT_TRUE(w.wrote(EventType::kInputRefused));
  State after = w.state;
  after.last_seq = before.last_seq;
  EXPECT_EQ(after, before);
}

TEST(Node, ThatIsFoundIsIdleUntilAnAgentComes) {
  World w;
  const NodeFoundInput found{"n1", "host", {{"cpu", "Xeon", "", 100}}};
  w.give(found);
  EXPECT_EQ(w.state.nodes.at("n1").state, NodeState::kIdle);
  EXPECT_EQ(w.state.nodes.at("n1").devices, found.devices);
  EXPECT_TRUE(w.give(found).events.empty()) << "nothing new";
  w.give(SubmitInput{submission()});
  w.give(hello(kFirst));
  EXPECT_EQ(w.state.nodes.at("n1").state, NodeState::kUp);
  EXPECT_TRUE(w.give(found).events.empty()) << "an agent is on it";
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(Apply, RefusesAGapInTheLogAndLeavesTheStateAlone) {
  World w = running();
  const State before = w.state;
  Event event;
  event.type = EventType::kJobCompleted;
  event.job = "demo-1";
  event.attempt = 1;
  event.seq = before.last_seq + 2;
  EXPECT_EQ(apply(w.state, event).code(), Code::kConflict);
  event.seq = before.last_seq + 1;  // and now its attempt has not ended
  EXPECT_EQ(apply(w.state, event).code(), Code::kConflict);
  EXPECT_EQ(w.state, before);
}

}  // namespace
}  // namespace dsv3::core
