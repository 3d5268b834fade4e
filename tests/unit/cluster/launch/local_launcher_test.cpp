// LocalLauncher with real processes: one agent per key, found again by a second launcher, ended for
// certain.
#include "cluster/launch/local/local_launcher.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/file.h"
#include "base/process.h"

namespace dsv3::launch {
namespace {

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

class LocalLauncherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/dsv3-launch-XXXXXX";
    dir_ = ::mkdtemp(path);
  }
  void TearDown() override {
    LocalLauncher launcher(FAKE_AGENT);
    for (const AgentSpec& spec : started_) {
      (void)launcher.cancel(spec, 0);
      eventually([&] { return launcher.poll(spec)->state == AgentState::kExited; });
    }
    std::filesystem::remove_all(dir_);
  }
  AgentSpec make(const std::string& job, int64_t attempt = 1) {
    AgentSpec spec{.key = {job, attempt, "node-a"}, .state_dir = dir_, .job_dir = dir_ + "/" + job};
    spec.env = {{"FAKE_NOTE", "a b;c"}};
    started_.push_back(spec);
    return spec;
  }
  bool up(const AgentSpec& spec) {
    return eventually([&] {
      const auto log = read_file(agent_log_path(spec));
      return log.ok() && log->find("up a b;c\n") != std::string::npos;
    });
  }
  std::string dir_;
  std::vector<AgentSpec> started_;
};

TEST_F(LocalLauncherTest, StartsOneAgentPerKey) {
  LocalLauncher launcher(FAKE_AGENT);
  const AgentSpec spec = make("job");
  const auto first = launcher.submit(spec);
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  EXPECT_EQ(first->state, AgentState::kRunning);
  const auto second = launcher.submit(spec);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->where, first->where);
  ASSERT_TRUE(up(spec));
  const AgentSpec other = make("job", 2);
  const auto third = launcher.submit(other);
  ASSERT_TRUE(third.ok());
  EXPECT_NE(third->where, first->where);
}

TEST_F(LocalLauncherTest, SecondLauncherFindsTheAgentAndEndsIt) {
  const AgentSpec spec = make("job");
  LocalLauncher first(FAKE_AGENT);
  const auto started = first.submit(spec);
  ASSERT_TRUE(started.ok());
  ASSERT_TRUE(up(spec));
  LocalLauncher second(FAKE_AGENT);
  const auto found = second.submit(spec);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->where, started->where);
  ASSERT_TRUE(second.cancel(spec, 60'000).ok());
  EXPECT_TRUE(eventually([&] { return first.poll(spec)->state == AgentState::kExited; }));
  EXPECT_EQ(first.poll(spec)->exit_code, 128 + SIGTERM);
  EXPECT_EQ(second.poll(spec)->state, AgentState::kExited);
}

TEST_F(LocalLauncherTest, FindsAnAgentWhoseStarterDiedBeforeWritingItsPid) {
  const AgentSpec spec = make("job");
  LocalLauncher first(FAKE_AGENT);
  const auto started = first.submit(spec);
  ASSERT_TRUE(started.ok());
  ASSERT_TRUE(up(spec));
  // The record as it was before the start: same boot, no pid.
  const std::string path = spec.job_dir + "/run/agent-node-a.1.json";
  std::string record = *read_file(path);
  const std::string pid = started->where.substr(4);
  record.replace(record.find("\"pid\":" + pid), 6 + pid.size(), "\"pid\":0");
  ASSERT_TRUE(write_file(path, record).ok());
  LocalLauncher second(FAKE_AGENT);
  const auto found = second.submit(spec);
  ASSERT_TRUE(found.ok()) << found.status().to_string();
  EXPECT_EQ(found->where, started->where);
  EXPECT_EQ(found->state, AgentState::kRunning);
}

TEST_F(LocalLauncherTest, ReportsTheExitCode) {
  LocalLauncher launcher(FAKE_AGENT);
  const AgentSpec spec = make("exits-7");
  ASSERT_TRUE(launcher.submit(spec).ok());
  EXPECT_TRUE(eventually([&] { return launcher.poll(spec)->state == AgentState::kExited; }));
  EXPECT_EQ(launcher.poll(spec)->exit_code, 7);
  EXPECT_EQ(launcher.submit(spec).status().code(), Code::kConflict);
}

TEST_F(LocalLauncherTest, StubbornAgentIsKilledWhenTheGraceHasPassed) {
  FakeClock clock;
  LocalLauncher launcher(FAKE_AGENT, clock);
  const AgentSpec spec = make("stubborn");
  ASSERT_TRUE(launcher.submit(spec).ok());
  ASSERT_TRUE(up(spec));
  ASSERT_TRUE(launcher.cancel(spec, 5'000).ok());
  EXPECT_EQ(launcher.poll(spec)->state, AgentState::kRunning);
  clock.advance_ns(5'000'000'000);
  EXPECT_TRUE(eventually([&] { return launcher.poll(spec)->state == AgentState::kExited; }));
  EXPECT_EQ(launcher.poll(spec)->exit_code, 128 + SIGKILL);
  EXPECT_TRUE(launcher.cancel(spec, 0).ok());  // idempotent
}

TEST_F(LocalLauncherTest, AnAgentHasEndedWhenNothingThatItStartedIsLeft) {
  LocalLauncher launcher(FAKE_AGENT);
  const AgentSpec spec = make("leaves-one");
  ASSERT_TRUE(launcher.submit(spec).ok());
  pid_t left = 0;
  ASSERT_TRUE(eventually([&] {
    const auto log = read_file(agent_log_path(spec));
    const size_t at = log.ok() ? log->find("left ") : std::string::npos;
    if (at == std::string::npos || log->find('\n', at) == std::string::npos) return false;
    left = std::atoi(log->c_str() + at + 5);
    return true;
  }));
  // It waits for ever by itself; a quick agent has ended, and it been killed, before submit
  // returned.
  EXPECT_TRUE(eventually([&] { return launcher.poll(spec)->state == AgentState::kExited; }));
  EXPECT_FALSE(process_alive(left));
  EXPECT_EQ(launcher.poll(spec)->exit_code, 0);
}

TEST_F(LocalLauncherTest, NeverTakesAnotherProcessForTheAgent) {
  const AgentSpec spec = make("job");
  ASSERT_TRUE(make_dirs(spec.job_dir + "/run").ok());
  // This test's own pid, with a start time that is not its own: a reused number.
  const std::string record =
      "{\"pid\":" + std::to_string(::getpid()) + ",\"start_ticks\":1,\"boot_id\":\"none\"}";
  ASSERT_TRUE(write_file(spec.job_dir + "/run/agent-node-a.1.json", record).ok());
  LocalLauncher launcher(FAKE_AGENT);
  EXPECT_EQ(launcher.poll(spec)->state, AgentState::kExited);
  EXPECT_TRUE(launcher.cancel(spec, 0).ok());
  EXPECT_TRUE(process_alive(::getpid()));
}

TEST_F(LocalLauncherTest, UnknownKeysAndBadNamesAreRefused) {
  LocalLauncher launcher(FAKE_AGENT);
  AgentSpec spec = make("job");
  EXPECT_EQ(launcher.poll(spec).status().code(), Code::kNotFound);
  EXPECT_TRUE(launcher.cancel(spec, 0).ok());
  started_.clear();
  for (const char* node : {"", "-x", "../up", "a b", "a/b", ".hidden"}) {
    spec.key.node = node;
    EXPECT_EQ(launcher.submit(spec).status().code(), Code::kInvalid) << node;
  }
  spec.key.node = "n";
  LocalLauncher absent("/nonexistent/dsv3-agent");
  EXPECT_EQ(absent.submit(spec).status().code(), Code::kFailed);
}

}  // namespace
}  // namespace dsv3::launch
