// The coordinator as its users and agents meet it: a real dsv3d process, real sockets, a scripted
// agent process. Every wait is for a condition with a deadline.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/transport/client.h"

namespace dsv3 {
namespace {

constexpr int kTimeoutMs = 10'000;
constexpr int64_t kPatienceNs = 30'000'000'000;

class DaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/dsv3-daemon-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    start();
  }
  void TearDown() override {
    if (HasFailure()) {
      const auto log = read_file(dir_ + "/log");
      if (log.ok()) fprintf(stderr, "%s\n", log->c_str());
    }
    if (pid_ > 0) {
      wire::Envelope request;
      request.mutable_shutdown()->set_cancel_jobs(true);
      (void)ask(request);
      if (!ends_within(kPatienceNs)) kill_daemon(SIGKILL);
    }
    std::filesystem::remove_all(dir_);
  }

  void start() {
    SpawnOptions options;
    options.argv = {DSV3_DAEMON, "--state-dir", dir_, "--agent", DSV3_SCRIPTED_AGENT};
    options.stderr_path = dir_ + "/log";
    const Result<pid_t> pid = spawn(options);
    ASSERT_TRUE(pid.ok()) << pid.status().to_string();
    pid_ = *pid;
    ASSERT_TRUE(wait_for([&] {
      const auto file = transport::read_coordinator_file(dir_);
      return file.ok() && file->pid == pid_;
    }));
  }
  void kill_daemon(int signal) {
    ::kill(pid_, signal);
    ::waitpid(pid_, &exit_status_, 0);
    pid_ = 0;
  }
  bool ends_within(int64_t ns) {
    const bool ended =
        wait_for([&] { return ::waitpid(pid_, &exit_status_, WNOHANG) == pid_; }, ns);
    if (ended) pid_ = 0;
    return ended;
  }
  static bool wait_for(const std::function<bool()>& condition, int64_t patience_ns = kPatienceNs) {
    const int64_t deadline_ns = system_clock().steady_ns() + patience_ns;
    while (!condition()) {
      if (system_clock().steady_ns() > deadline_ns) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }
  Result<wire::Envelope> ask(const wire::Envelope& request) {
    DSV3_ASSIGN_OR_RETURN(transport::Client client, transport::Client::connect(dir_));
    wire::Envelope reply;
    DSV3_RETURN_IF_ERROR(client.request(request, &reply, kTimeoutMs));
    return reply;
  }
  Result<std::string> submit(const std::string& spec, const std::string& key = "") {
    wire::Envelope request;
    wire::SubmitRequest& s = *request.mutable_submit();
    s.set_name("test");
    s.set_spec_yaml(spec);
    s.set_plan_json("{}");
    s.set_launcher("local");
    s.set_request_key(key);
    s.set_max_steps(5);
    s.set_layout_json(R"({"tp":1})");
    s.add_nodes()->set_node("here");
    s.mutable_nodes(0)->add_ranks(0);
    s.mutable_nodes(0)->add_ranks(1);
    DSV3_ASSIGN_OR_RETURN(const wire::Envelope reply, ask(request));
    return reply.submit_reply().job();
  }
  wire::JobStatus status(const std::string& job) {
    wire::Envelope request;
    request.mutable_status()->set_job(job);
    const auto reply = ask(request);
    return reply.ok() && reply->status_reply().jobs_size() == 1 ? reply->status_reply().jobs(0)
                                                                : wire::JobStatus();
  }
  bool reaches(const std::string& job, wire::JobState state) {
    return wait_for([&] { return status(job).state() == state; });
  }
  Status cancel(const std::string& job) {
    wire::Envelope request;
    request.mutable_cancel()->set_job(job);
    return ask(request).status();
  }

  std::string dir_;
  pid_t pid_ = 0;
  int exit_status_ = 0;
};

TEST_F(DaemonTest, RunsAJobToItsEndAndKeepsEverything) {
  const auto job = submit("steps: 5\n");
  ASSERT_TRUE(job.ok()) << job.status().to_string();
  EXPECT_EQ(*job, "test-1");
  ASSERT_TRUE(reaches(*job, wire::COMPLETED)) << status(*job).reason();
  const wire::JobStatus end = status(*job);
  EXPECT_EQ(end.step(), 5);
  EXPECT_EQ(end.loss(), 1.0 / 5.0);
  EXPECT_EQ(end.num_ranks(), 2u);
  EXPECT_EQ(end.attempt(), 1u);
  EXPECT_EQ(end.layout_json(), R"({"tp":1})");
  EXPECT_EQ(*read_file(dir_ + "/jobs/test-1/spec.yaml"), "steps: 5\n");

  wire::Envelope request;
  request.mutable_metrics()->set_job(*job);
  auto reply = ask(request);
  ASSERT_TRUE(reply.ok());
  ASSERT_EQ(reply->metrics_reply().metrics_size(), 5);
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(reply->metrics_reply().metrics(i).metrics().loss(), 1.0 / (i + 1));

  request.mutable_experts()->set_job(*job);
  reply = ask(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->experts_reply().counts().step(), 5);
  EXPECT_EQ(reply->experts_reply().counts().layers(0).tokens(0), uint64_t{1} << 40);

  request.mutable_sql()->set_statement(
      "SELECT sum(tokens) FROM expert_usage WHERE job = 'test-1' AND expert = 1");
  reply = ask(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->sql_reply().rows(0).cells(0).integer(), 15);

  request.mutable_nodes();
  reply = ask(request);
  ASSERT_TRUE(reply.ok());
  ASSERT_GE(reply->nodes_reply().nodes_size(), 1);

  request.mutable_events()->set_job(*job);
  reply = ask(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->events_reply().events(0).type(), "job_submitted");
  EXPECT_EQ(reply->events_reply().events(reply->events_reply().events_size() - 1).type(),
            "job_completed");
}

TEST_F(DaemonTest, AFolderThatAnotherDatabaseLeftIsMovedAside) {
  const std::string dir = dir_ + "/jobs/test-1";
  ASSERT_TRUE(make_dirs(dir + "/run").ok() && make_dirs(dir + "/checkpoints/step-1").ok());
  ASSERT_TRUE(write_file(dir + "/run/agent-here.1.json",
                         R"({"pid": 1, "start_ticks": 1, "boot_id": "another"})")
                  .ok());
  const auto job = submit("steps: 1\n");
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(*job, "test-1");
  ASSERT_TRUE(reaches(*job, wire::COMPLETED)) << status(*job).reason();
  EXPECT_FALSE(path_exists(dir + "/checkpoints")) << "it would have been resumed";
  EXPECT_TRUE(path_exists(dir + ".old-1/checkpoints/step-1"));
  // Its own folder it keeps, also when a coordinator writes its files again.
  const auto held = submit("hold: true\n");
  ASSERT_TRUE(held.ok() && reaches(*held, wire::RUNNING));
  kill_daemon(SIGKILL);
  start();
  EXPECT_FALSE(path_exists(dir_ + "/jobs/test-2.old-1"));
  EXPECT_EQ(status(*held).state(), wire::RUNNING);
}

TEST_F(DaemonTest, FollowTellsEverythingOnceAndEndsWithTheJob) {
  const auto job = submit("steps: 40\n");
  ASSERT_TRUE(job.ok());
  wire::Envelope request;
  wire::FollowRequest& follow = *request.mutable_follow();
  follow.set_job(*job);
  follow.set_wait_ms(5'000);
  int64_t next_step = 1;
  int num_events = 0;
  for (int i = 0; i < 200; ++i) {
    const auto reply = ask(request);
    ASSERT_TRUE(reply.ok()) << reply.status().to_string();
    const wire::FollowReply& told = reply->follow_reply();
    for (const wire::MetricRow& row : told.metrics()) EXPECT_EQ(row.metrics().step(), next_step++);
    num_events += told.events_size();
    follow.set_after_event_seq(told.event_seq());
    follow.set_after_metric_row(told.metric_row());
    follow.set_after_validation_row(told.validation_row());
    follow.set_known_state(told.job().state());
    if (told.job().state() >= wire::COMPLETED && !told.more()) break;
  }
  EXPECT_EQ(next_step, 41);
  EXPECT_GE(num_events, 8);
  EXPECT_EQ(status(*job).state(), wire::COMPLETED);
}

TEST_F(DaemonTest, FollowWithoutNewsAnswersAtItsDeadline) {
  const auto job = submit("hold: true\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(reaches(*job, wire::RUNNING));
  wire::Envelope request;
  request.mutable_follow()->set_job(*job);
  request.mutable_follow()->set_after_event_seq(1'000'000);
  request.mutable_follow()->set_known_state(wire::RUNNING);
  request.mutable_follow()->set_wait_ms(300);
  const int64_t before_ns = system_clock().steady_ns();
  ASSERT_TRUE(ask(request).ok());
  EXPECT_GE(system_clock().steady_ns() - before_ns, 250'000'000);
}

TEST_F(DaemonTest, ASubmissionIsTakenOnce) {
  const auto first = submit("hold: true\n", "key-1");
  const auto second = submit("hold: true\n", "key-1");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
}

TEST_F(DaemonTest, AFailedRankFailsTheJobWithItsCode) {
  const auto job = submit("steps: 2\ncode: 14\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(reaches(*job, wire::FAILED));
  EXPECT_EQ(status(*job).exit_code(), 14);
  EXPECT_NE(status(*job).reason().find("as the spec said"), std::string::npos);
}

TEST_F(DaemonTest, ATemporaryFailureIsTriedAgain) {
  const auto job = submit("code: 75\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(reaches(*job, wire::FAILED));
  EXPECT_EQ(status(*job).attempt(), 3u);
  EXPECT_EQ(status(*job).restarts(), 2u);
}

TEST_F(DaemonTest, AnAgentThatDiesFailsItsJobAtOnce) {
  const auto job = submit("crash: true\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(reaches(*job, wire::FAILED));
  EXPECT_EQ(status(*job).exit_code(), 9);
}

TEST_F(DaemonTest, CancelStopsAJobAndASecondOneGetsItsNode) {
  const auto first = submit("hold: true\n");
  const auto second = submit("steps: 1\n");
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE(reaches(*first, wire::RUNNING));
  EXPECT_EQ(status(*second).state(), wire::QUEUED);
  EXPECT_TRUE(cancel(*first).ok());
  ASSERT_TRUE(reaches(*first, wire::CANCELLED));
  ASSERT_TRUE(reaches(*second, wire::COMPLETED));
  EXPECT_EQ(cancel(*first).code(), Code::kConflict);
  EXPECT_EQ(cancel("nothing-7").code(), Code::kNotFound);
}

TEST_F(DaemonTest, ResumeTakesUpWhatWasCancelledOrFailedAndNothingElse) {
  const auto resume = [this](const std::string& job) {
    wire::Envelope request;
    request.mutable_resume()->set_job(job);
    return ask(request);
  };
  const auto held = submit("hold: true\n");
  ASSERT_TRUE(held.ok() && reaches(*held, wire::RUNNING));
  EXPECT_EQ(resume(*held).status().code(), Code::kConflict);
  EXPECT_EQ(resume("nothing-7").status().code(), Code::kNotFound);
  EXPECT_EQ(resume("").status().code(), Code::kNotFound);
  ASSERT_TRUE(cancel(*held).ok());
  ASSERT_TRUE(reaches(*held, wire::CANCELLED));
  const auto reply = resume(*held);
  ASSERT_TRUE(reply.ok()) << reply.status().to_string();
  EXPECT_EQ(reply->job_reply().job().id(), *held);
  ASSERT_TRUE(reaches(*held, wire::RUNNING));
  EXPECT_EQ(status(*held).attempt(), 2u);
  EXPECT_FALSE(status(*held).has_ended_unix_ns());
  ASSERT_TRUE(cancel(*held).ok());
  const auto done = submit("steps: 1\n");
  ASSERT_TRUE(done.ok() && reaches(*done, wire::COMPLETED));
  EXPECT_EQ(resume(*done).status().code(), Code::kConflict);
  EXPECT_NE(resume(*done).status().hint().find("checkpoint.load"), std::string::npos);
}

TEST_F(DaemonTest, KilledCoordinatorReadoptsItsAgents) {
  const auto job = submit("steps: 3\nhold: true\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(reaches(*job, wire::RUNNING));
  ASSERT_TRUE(wait_for([&] { return status(*job).step() == 3; }));
  kill_daemon(SIGKILL);
  start();
  const wire::JobStatus again = status(*job);
  EXPECT_EQ(again.state(), wire::RUNNING);
  EXPECT_EQ(again.attempt(), 1u);
  // The agent is back when a heartbeat of it is newer than the restart.
  ASSERT_TRUE(wait_for([&] {
    wire::Envelope request;
    request.mutable_nodes();
    const auto reply = ask(request);
    if (!reply.ok()) return false;
    for (const wire::NodeStatus& node : reply->nodes_reply().nodes()) {
      if (node.name() == "here" && node.has_last_heard_s() && node.last_heard_s() > 0 &&
          node.last_heard_s() < 1)
        return true;
    }
    return false;
  }));
  ASSERT_TRUE(cancel(*job).ok());
  ASSERT_TRUE(reaches(*job, wire::CANCELLED));
  wire::Envelope request;
  request.mutable_metrics()->set_job(*job);
  EXPECT_EQ(ask(request)->metrics_reply().metrics_size(), 3) << "no report was lost or taken twice";
}

TEST_F(DaemonTest, SigtermEndsItCleanlyAndLeavesJobsRunning) {
  const auto job = submit("hold: true\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(reaches(*job, wire::RUNNING));
  kill_daemon(SIGTERM);
  EXPECT_TRUE(WIFEXITED(exit_status_));
  EXPECT_EQ(WEXITSTATUS(exit_status_), 0);
  EXPECT_FALSE(path_exists(dir_ + "/coordinator.json"));
  start();
  EXPECT_EQ(status(*job).state(), wire::RUNNING);
}

TEST_F(DaemonTest, ShutdownEndsItsJobsFirst) {
  const auto job = submit("hold: true\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(reaches(*job, wire::RUNNING));
  wire::Envelope request;
  request.mutable_shutdown()->set_cancel_jobs(true);
  const auto reply = ask(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->shutdown_reply().jobs(0), *job);
  ASSERT_TRUE(ends_within(kPatienceNs));
  EXPECT_EQ(WEXITSTATUS(exit_status_), 0);
  start();
  EXPECT_EQ(status(*job).state(), wire::CANCELLED);
}

TEST_F(DaemonTest, ASecondCoordinatorIsRefused) {
  SpawnOptions options;
  options.argv = {DSV3_DAEMON, "--state-dir", dir_};
  options.stderr_path = dir_ + "/second.log";
  const Result<pid_t> second = spawn(options);
  ASSERT_TRUE(second.ok());
  int code = 0;
  ASSERT_EQ(::waitpid(*second, &code, 0), *second);
  EXPECT_EQ(WEXITSTATUS(code), static_cast<int>(Code::kConflict));
  EXPECT_NE(read_file(dir_ + "/second.log")->find(std::to_string(pid_)), std::string::npos);
}

TEST_F(DaemonTest, LogsAreServedInPieces) {
  const auto job = submit("hold: true\n");
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(write_file(dir_ + "/jobs/test-1/logs/rank-1.log", "0123456789").ok());
  wire::Envelope request;
  request.mutable_logs()->set_job(*job);
  request.mutable_logs()->set_rank(1);
  request.mutable_logs()->set_offset(-4);
  request.mutable_logs()->set_limit(3);
  auto reply = ask(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->logs_reply().data(), "678");
  EXPECT_EQ(reply->logs_reply().offset(), 6);
  EXPECT_EQ(reply->logs_reply().size(), 10);
  request.mutable_logs()->set_rank(2);
  EXPECT_EQ(ask(request).status().code(), Code::kNotFound);
  request.mutable_logs()->set_rank(-1);
  request.mutable_logs()->set_node("../../../etc/passwd");
  EXPECT_EQ(ask(request).status().code(), Code::kInvalid);
}

TEST_F(DaemonTest, AnAgentsKeyCannotSubmit) {
  auto client = transport::Client::connect_as(dir_, "agent");
  ASSERT_TRUE(client.ok());
  wire::Envelope request;
  request.mutable_submit()->set_name("x");
  wire::Envelope reply;
  EXPECT_EQ(client->request(request, &reply, kTimeoutMs).code(), Code::kNotAuthorised);
}

TEST_F(DaemonTest, AMessageThatIsNoRequestIsRefused) {
  wire::Envelope request;
  request.mutable_launch_ranks();
  EXPECT_EQ(ask(request).status().code(), Code::kInvalid);
  request.mutable_agent_hello();
  EXPECT_EQ(ask(request).status().code(), Code::kNotAuthorised);
}

}  // namespace
}  // namespace dsv3
