// dsv3-agent as a real process, between a coordinator of the test's and ranks that train nothing.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/process.h"
#include "tests/unit/worker/agent/fake_coordinator.h"
#include "worker/agent/options.h"

namespace dsv3::agent {
namespace {

using testing::FakeCoordinator;
using wire::RankMessage;

class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/dsv3-agent-XXXXXX";
    dir_ = ::mkdtemp(path);
    coordinator_.emplace(dir_);
    order("wait");
  }
  void TearDown() override {
    if (agent_ > 0 && !code_) {
      ::kill(agent_, SIGKILL);
      coordinator_->pump([this] { return ended(); });
    }
    coordinator_.reset();
    std::filesystem::remove_all(dir_);
  }
  void order(const std::string& what, int ranks = 1) {
    wire::LaunchRanks& launch = coordinator_->launch;
    launch.Clear();
    launch.set_job("demo-1");
    launch.set_attempt(1);
    launch.set_spec_yaml("model: {}\n");
    launch.set_plan_json("{}");
    for (int rank = 0; rank < ranks; ++rank) launch.add_ranks(static_cast<uint32_t>(rank));
    launch.set_world_size(static_cast<uint32_t>(ranks));
    launch.set_job_dir(dir_ + "/jobs/demo-1");
    launch.set_working_dir(dir_);
    launch.set_heartbeat_ms(20);
    launch.set_silence_ms(100);
    (*launch.mutable_env())["FAKE_RANK"] = what;
  }
  void start_agent(const std::vector<std::string>& more = {}) {
    SpawnOptions options{.argv = {AGENT_PROGRAM, "--state-dir", dir_, "--job", "demo-1",
                                  "--attempt", "1", "--node", "node-a", "--worker", FAKE_WORKER}};
    options.argv.insert(options.argv.end(), more.begin(), more.end());
    options.stdout_path = options.stderr_path = dir_ + "/agent.log";
    options.die_with_parent = true;
    const auto pid = spawn(options);
    ASSERT_TRUE(pid.ok()) << pid.status().to_string();
    agent_ = *pid;
  }
  bool ended() {
    if (!code_) code_ = try_reap(agent_);
    return code_.has_value();
  }
  // Runs until rank 0 says hello.
  bool ranks_run() {
    return coordinator_->pump(
        [this] { return !coordinator_->messages(RankMessage::kHello).empty(); });
  }
  bool agent_ends() {
    return coordinator_->pump([this] { return ended(); });
  }
  std::string log() {
    return read_file(dir_ + "/agent.log").ok() ? *read_file(dir_ + "/agent.log") : "";
  }

  std::string dir_;
  std::optional<FakeCoordinator> coordinator_;
  pid_t agent_ = 0;
  std::optional<int> code_;
};

TEST_F(AgentTest, RunsARankToItsEnd) {
  order("steps=3");
  start_agent();
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(code_, 0) << log();
  ASSERT_FALSE(coordinator_->hellos.empty());
  EXPECT_EQ(coordinator_->hellos[0].node(), "node-a");
  EXPECT_EQ(coordinator_->hellos[0].pid(), agent_);
  EXPECT_FALSE(coordinator_->hellos[0].ranks_started());
  ASSERT_GE(coordinator_->hellos[0].devices_size(), 1);
  EXPECT_EQ(coordinator_->hellos[0].devices(0).kind(), "cpu");
  for (size_t i = 0; i < coordinator_->reports.size(); ++i) {
    EXPECT_EQ(coordinator_->reports[i].seq(), i + 1);
  }
  EXPECT_TRUE(coordinator_->reports.front().has_rank_started());
  EXPECT_TRUE(coordinator_->reports.back().has_agent_done());
  const auto steps = coordinator_->messages(RankMessage::kStep);
  ASSERT_EQ(steps.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(steps[static_cast<size_t>(i)].step().step(), i + 1);
  EXPECT_EQ(coordinator_->exited(0)->exit_code(), 0);
  EXPECT_EQ(coordinator_->exited(0)->report().message(), "all steps are done");
  EXPECT_EQ(coordinator_->done()->exit_code(), 0);
  const std::string job_dir = dir_ + "/jobs/demo-1";
  EXPECT_EQ(*read_file(job_dir + "/logs/rank-0.log"), "rank 0 does steps=3 in " + dir_ + "\n");
  EXPECT_EQ(*read_file(job_dir + "/run/attempt-1.yaml"), "model: {}\n");
}

TEST_F(AgentTest, RankKilledBySignalIsReportedAsThat) {
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  ::kill(coordinator_->rank_pid(0), SIGKILL);
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(coordinator_->exited(0)->exit_code(), 137);
  EXPECT_EQ(coordinator_->exited(0)->signal(), SIGKILL);
  EXPECT_FALSE(coordinator_->exited(0)->killed_by_agent());
  EXPECT_EQ(coordinator_->done()->exit_code(), 137);
  EXPECT_EQ(code_, 137);
}

TEST_F(AgentTest, KilledRankIsReportedWithTheStepThatTheGangWasAt) {
  order("wait", 2);
  (*coordinator_->launch.mutable_env())["FAKE_RANK_0"] = "ticks";
  start_agent();
  ASSERT_TRUE(coordinator_->pump([this] {
    return coordinator_->rank_pid(1) != 0 && coordinator_->messages(RankMessage::kStep).size() > 5;
  })) << log();
  ::kill(coordinator_->rank_pid(1), SIGKILL);
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_GE(coordinator_->exited(1)->report().step(), 5);
  EXPECT_EQ(code_, 137);
}

TEST_F(AgentTest, FailureCodeOfARankIsTheAgents) {
  order("fail=14");
  start_agent();
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(coordinator_->exited(0)->exit_code(), 14);
  EXPECT_EQ(coordinator_->exited(0)->signal(), 0);
  EXPECT_EQ(coordinator_->exited(0)->report().message(), "the loss is not finite");
  EXPECT_EQ(coordinator_->done()->exit_code(), 14);
  EXPECT_EQ(code_, 14);
}

TEST_F(AgentTest, FirstFailureEndsTheGang) {
  order("wait", 3);
  (*coordinator_->launch.mutable_env())["FAKE_RANK_1"] = "fail=12";
  start_agent();
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(code_, 12);
  EXPECT_EQ(coordinator_->exited(0)->exit_code(), 0);
  EXPECT_EQ(coordinator_->exited(0)->report().message(), "stopped, no checkpoint");
  EXPECT_EQ(coordinator_->exited(1)->exit_code(), 12);
  EXPECT_NE(coordinator_->done()->reason().find("rank 1"), std::string::npos);
}

TEST_F(AgentTest, StopAndCheckpointOrdersReachTheRank) {
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  wire::Envelope message;
  message.mutable_agent_checkpoint_now()->set_job("demo-1");
  message.mutable_agent_checkpoint_now()->set_attempt(1);
  coordinator_->send(message);
  ASSERT_TRUE(coordinator_->pump(
      [&] { return !coordinator_->messages(RankMessage::kCheckpointDone).empty(); }));
  wire::StopRanks* stop = message.mutable_stop_ranks();
  stop->set_job("demo-2");  // another job's order is ignored
  stop->set_attempt(1);
  coordinator_->send(message);
  const int64_t heartbeats = coordinator_->num_heartbeats;
  ASSERT_TRUE(coordinator_->pump([&] { return coordinator_->num_heartbeats > heartbeats + 3; }));
  EXPECT_FALSE(coordinator_->exited(0).has_value());
  stop->set_job("demo-1");
  stop->set_grace_ms(20'000);
  stop->set_checkpoint(true);
  coordinator_->send(message);
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(coordinator_->exited(0)->report().message(), "stopped, checkpoint");
  EXPECT_EQ(code_, 0);
}

TEST_F(AgentTest, StubbornRankIsKilledAfterTheGrace) {
  order("stubborn");
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  wire::Envelope message;
  message.mutable_stop_ranks()->set_job("demo-1");
  message.mutable_stop_ranks()->set_attempt(1);
  message.mutable_stop_ranks()->set_grace_ms(50);
  coordinator_->send(message);
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(coordinator_->exited(0)->signal(), SIGKILL);
  EXPECT_TRUE(coordinator_->exited(0)->killed_by_agent()) << "it is nobody's fault";
}

TEST_F(AgentTest, StoppedRankIsKilledAfterTheGrace) {
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  ::kill(coordinator_->rank_pid(0), SIGSTOP);
  wire::Envelope message;
  message.mutable_stop_ranks()->set_job("demo-1");
  message.mutable_stop_ranks()->set_attempt(1);
  message.mutable_stop_ranks()->set_grace_ms(50);
  coordinator_->send(message);
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_TRUE(coordinator_->exited(0)->killed_by_agent());
}

TEST_F(AgentTest, EndsWhatItsRanksHaveLeftBehind) {
  order("orphan");
  start_agent();
  ASSERT_TRUE(agent_ends()) << log();
  const std::string said = *read_file(dir_ + "/jobs/demo-1/logs/rank-0.log");
  const size_t at = said.find("left ");
  ASSERT_NE(at, std::string::npos) << said;
  EXPECT_FALSE(process_alive(std::atoi(said.c_str() + at + 5)))
      << "in a session of its own, and its parent has ended: but it is the agent's to end";
  EXPECT_EQ(code_, 0);
}

TEST_F(AgentTest, RanksOfAGangAreToldWhereToMeetAndOneAloneIsNot) {
  order("steps=1", 2);
  start_agent();
  ASSERT_TRUE(agent_ends()) << log();
  std::vector<std::string> told;
  for (const char* rank : {"0", "1"}) {
    const std::string said = *read_file(dir_ + "/jobs/demo-1/logs/rank-" + rank + ".log");
    const size_t at = said.find("meets at ");
    ASSERT_NE(at, std::string::npos) << said;
    told.push_back(said.substr(at, said.find('\n', at) - at));
  }
  EXPECT_EQ(told[0], told[1]);
  EXPECT_TRUE(told[0].starts_with("meets at local:demo-1/1@")) << told[0];
  const std::string token = told[0].substr(told[0].rfind(' ') + 1);
  EXPECT_EQ(token.size(), 32u);
  EXPECT_EQ(token.find_first_not_of("0123456789abcdef"), std::string::npos) << token;
}

TEST_F(AgentTest, RanksDieWithTheirAgent) {
  order("stubborn", 2);
  start_agent();
  ASSERT_TRUE(coordinator_->pump(
      [&] { return coordinator_->rank_pid(0) != 0 && coordinator_->rank_pid(1) != 0; }));
  const pid_t ranks[] = {coordinator_->rank_pid(0), coordinator_->rank_pid(1)};
  EXPECT_TRUE(process_alive(ranks[0]));
  ::kill(agent_, SIGKILL);
  EXPECT_TRUE(coordinator_->pump(
      [&] { return ended() && !process_alive(ranks[0]) && !process_alive(ranks[1]); }));
}

TEST_F(AgentTest, RanksOutliveTheCoordinatorAndNothingIsLost) {
  order("ticks");
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  const pid_t rank = coordinator_->rank_pid(0);
  const auto num_steps = [this] { return coordinator_->messages(RankMessage::kStep).size(); };
  for (const bool same_port : {false, true}) {
    // Some reports reach a coordinator that dies before it takes them, and more are made while
    // there is none.
    coordinator_->deaf = true;
    const int64_t lost = coordinator_->num_lost;
    ASSERT_TRUE(coordinator_->pump([&] { return coordinator_->num_lost > lost; }));
    coordinator_->die();
    const auto back = std::chrono::steady_clock::now() + std::chrono::milliseconds(150);
    ASSERT_TRUE(coordinator_->pump([&] { return std::chrono::steady_clock::now() > back; }));
    EXPECT_TRUE(process_alive(rank));
    coordinator_->deaf = false;
    coordinator_->hellos.clear();
    const size_t before = num_steps();
    coordinator_->restart(same_port);
    const auto returned = std::chrono::steady_clock::now();
    ASSERT_TRUE(coordinator_->pump([&] {
      return num_steps() > before + 20 && !coordinator_->hellos.empty();
    })) << log();
    EXPECT_LT(std::chrono::steady_clock::now() - returned, std::chrono::seconds(8))
        << "same port " << same_port;
    EXPECT_TRUE(coordinator_->hellos.back().ranks_started());
  }
  EXPECT_TRUE(process_alive(rank));
  int64_t step = 0;
  for (const RankMessage& message : coordinator_->messages(RankMessage::kStep))
    EXPECT_EQ(message.step().step(), ++step);
}

TEST_F(AgentTest, LostReportIsSentAgain) {
  order("steps=50");
  coordinator_->deaf = true;
  start_agent();
  ASSERT_TRUE(coordinator_->pump([&] { return coordinator_->num_lost >= 1; }));
  coordinator_->deaf = false;
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(coordinator_->messages(RankMessage::kStep).size(), 50u);
  EXPECT_TRUE(coordinator_->done().has_value());
}

TEST_F(AgentTest, NothingPilesUpForACoordinatorThatIsSilent) {
  order("ticks");
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  coordinator_->mute = true;
  const auto pump_for = [this](int ms) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    return coordinator_->pump([&] { return std::chrono::steady_clock::now() > end; });
  };
  ASSERT_TRUE(pump_for(400));  // four times what the agent was told to wait for
  const int64_t lost = coordinator_->num_lost;
  ASSERT_TRUE(pump_for(300));
  EXPECT_EQ(coordinator_->num_lost, lost);
  coordinator_->mute = false;
  const size_t before = coordinator_->messages(RankMessage::kStep).size();
  ASSERT_TRUE(coordinator_->pump([&] {
    return coordinator_->messages(RankMessage::kStep).size() > before + 500;
  })) << log();
  int64_t step = 0;
  for (const RankMessage& message : coordinator_->messages(RankMessage::kStep))
    EXPECT_EQ(message.step().step(), ++step);
}

TEST_F(AgentTest, WithoutACoordinatorForTooLongTheRanksAreEnded) {
  start_agent({"--orphan-ms", "300"});
  ASSERT_TRUE(ranks_run()) << log();
  const pid_t rank = coordinator_->rank_pid(0);
  coordinator_->die();
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(code_, 75);
  EXPECT_FALSE(process_alive(rank));
}

TEST_F(AgentTest, DismissedAgentEndsAtOnce) {
  order("stubborn");
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  const pid_t rank = coordinator_->rank_pid(0);
  wire::Envelope message;
  message.mutable_agent_dismiss()->set_reason("the attempt is over");
  coordinator_->send(message);
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_TRUE(coordinator_->pump([&] { return !process_alive(rank); }));
}

TEST_F(AgentTest, SignalEndsTheRanksThenTheAgent) {
  start_agent();
  ASSERT_TRUE(ranks_run()) << log();
  ::kill(agent_, SIGTERM);
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(code_, 75);
  EXPECT_EQ(coordinator_->exited(0)->report().message(), "stopped, checkpoint");
  ASSERT_TRUE(coordinator_->done().has_value());
  EXPECT_EQ(coordinator_->done()->exit_code(), 75) << "a rank that was cut short has not completed";
}

TEST_F(AgentTest, WorkerThatCannotBeStartedIsAFailure) {
  start_agent({"--worker", "/nonexistent/worker"});
  ASSERT_TRUE(agent_ends()) << log();
  EXPECT_EQ(code_, 1);
  EXPECT_NE(coordinator_->done()->reason().find("/nonexistent/worker"), std::string::npos);
}

TEST(AgentOptions, FaultsAreNamed) {
  using Words = std::vector<std::string>;
  const Words good{"--state-dir", "/s", "--job", "j", "--attempt", "2", "--node", "n"};
  ASSERT_TRUE(parse_options(good).ok());
  EXPECT_EQ(parse_options(good)->attempt, 2u);
  for (const Words& bad :
       {Words{}, Words{"--job"}, Words{"--unknown", "x"},
        Words{"--state-dir", "/s", "--job", "j", "--node", "n", "--attempt", "-1"},
        Words{"--state-dir", "/s", "--job", "j", "--node", "n", "--attempt", "2x"}}) {
    EXPECT_EQ(parse_options(bad).status().code(), Code::kInvalid);
  }
}

}  // namespace
}  // namespace dsv3::agent
