// dsv3ctl wait, cancel and checkpoint: until the job ends, end it, save it now.
#include "coordinator/cli/wait.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "coordinator/cli/interrupt.h"
#include "coordinator/cli/job_view.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/progress.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/summary.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::cli {
namespace {

constexpr uint32_t kPollMs = 1000;
constexpr double kGraceMaxS = 3600;
constexpr double kTimeoutMaxS = 1e9;
// Beyond the grace: the ranks' last checkpoint, and the coordinator's own limits.
constexpr double kCancelTimeoutS = 120;

// One printed line, or the JOB object.
void print_end(const Globals& globals, const wire::JobStatus& job) {
  if (globals.json) {
    print_json({{"job", job_json(job)}});
  } else {
    note(fmt::format("job {} is {}{}", job.id(), state_name(job),
                     job.reason().empty() ? "" : ": " + job.reason()));
  }
}

int wait(const Globals& globals, const std::string& job, double timeout_s) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  catch_interrupts();
  wire::FollowReply last;
  if (Status status = follow_to_end(
          *client, job, timeout_s, [](const wire::FollowReply&) {}, &last);
      !status.ok()) {
    return fail(globals, status);
  }
  print_end(globals, last.job());
  return exit_code_of(last.job());
}

struct CancelOptions {
  std::string job;
  bool no_wait = false;
  std::optional<double> grace_s;
};

int cancel(const Globals& globals, const CancelOptions& options) {
  const std::string& job = options.job;
  if (options.grace_s && !(*options.grace_s >= 0)) {
    return fail(globals, Status(Code::kInvalid, "--grace takes seconds, 0 or more"));
  }
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_cancel()->set_job(job);
  request.mutable_cancel()->set_reason("cancelled by the user");
  if (options.grace_s) {
    request.mutable_cancel()->set_grace_ms(
        static_cast<uint32_t>(std::min(*options.grace_s, kGraceMaxS) * 1e3));
  }
  if (Status status = ask(*client, request, &envelope); !status.ok()) return fail(globals, status);
  wire::JobStatus ended = envelope.job_reply().job();
  if (!options.no_wait) {
    catch_interrupts();
    wire::FollowReply last;
    if (Status status = follow_to_end(
            *client, job, kCancelTimeoutS + options.grace_s.value_or(0),
            [](const wire::FollowReply&) {}, &last);
        !status.ok()) {
      return fail(globals, status);
    }
    ended = last.job();
  }
  print_end(globals, ended);
  return 0;
}

int checkpoint(const Globals& globals, const std::string& job) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_checkpoint_now()->set_job(job);
  if (Status status = ask(*client, request, &envelope); !status.ok()) return fail(globals, status);
  if (globals.json) {
    print_json({{"job", job_json(envelope.job_reply().job())}});
  } else {
    note(fmt::format(
        "asked job {} for a checkpoint; 'dsv3ctl status {}' shows it when it is complete", job,
        job));
  }
  return 0;
}

bool is_ending(const wire::JobStatus& job) {
  return static_cast<protocol::JobState>(job.state()) == protocol::JobState::kStopping;
}

}  // namespace

Status follow_to_end(transport::Client& client, const std::string& job, double timeout_s,
                     const std::function<void(const wire::FollowReply&)>& seen,
                     wire::FollowReply* last) {
  const int64_t started_ns = system_clock().steady_ns();
  while (true) {
    wire::Envelope request, envelope;
    wire::FollowRequest& follow = *request.mutable_follow();
    follow.set_job(job);
    follow.set_after_event_seq(last->event_seq());
    follow.set_after_metric_row(last->metric_row());
    follow.set_after_validation_row(last->validation_row());
    follow.set_known_state(last->job().state());
    follow.set_wait_ms(kPollMs);
    Status status = ask(client, request, &envelope);
    if (interrupted() != 0) {
      return Status(interrupted() == SIGINT ? Code::kInterrupted : Code::kTerminated,
                    fmt::format("detached; job {} {}", job,
                                is_ending(last->job()) ? "is still ending" : "goes on"),
                    fmt::format("dsv3ctl wait {}", job));
    }
    DSV3_RETURN_IF_ERROR(status);
    *last = envelope.follow_reply();
    seen(*last);
    const auto state = static_cast<protocol::JobState>(last->job().state());
    if (protocol::is_terminal(state) && !last->more()) return {};
    const double waited_s = static_cast<double>(system_clock().steady_ns() - started_ns) / 1e9;
    if (timeout_s > 0 && waited_s > timeout_s) {
      return Status(
          Code::kTimeout,
          fmt::format("job {} is still {} after {:.0f} s", job, state_name(last->job()), timeout_s),
          next_action(last->job()));
    }
  }
}

int show_to_end(const Globals& globals, transport::Client& client, const std::string& job,
                wire::FollowReply seen) {
  catch_interrupts();
  Progress progress;
  const Status status = follow_to_end(
      client, job, 0, [&](const wire::FollowReply& reply) { progress.update(reply); }, &seen);
  progress.finish();
  if (!status.ok()) return fail(globals, status);
  if (Status printed = print_summary(client, seen.job()); !printed.ok())
    return fail(globals, printed);
  return exit_code_of(seen.job());
}

int show_to_end(const Globals& globals, transport::Client& client, const std::string& job) {
  return show_to_end(globals, client, job, {});
}

int exit_code_of(const wire::JobStatus& job) {
  return static_cast<protocol::JobState>(job.state()) == protocol::JobState::kCompleted
             ? 0
             : static_cast<int>(Code::kFailed);
}

Verb make_wait() {
  struct Options {
    std::string job;
    double timeout_s = 0;
  };
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "wait";
  verb.group = "Run";
  verb.summary = "Until the job ends; exit code 0 when it completed, 1 when not";
  verb.help =
      "Examples:\n  dsv3ctl wait demo-1\n  dsv3ctl wait demo-1 --timeout 600\n"
      "Exit codes: 0 completed, 1 failed or cancelled, 3 no coordinator, 5 no such job, 124 it "
      "takes longer.";
  verb.options = {{"JOB", &options->job, "Job id", true, Completes::kJob, {}},
                  {"--timeout",
                   &options->timeout_s,
                   "Seconds; exit code 124 when it takes longer",
                   false,
                   Completes::kNothing,
                   {},
                   Range{0, kTimeoutMaxS}}};
  verb.run = [options](const Globals& globals) {
    return wait(globals, options->job, options->timeout_s);
  };
  return verb;
}

Verb make_cancel() {
  auto options = std::make_shared<CancelOptions>();
  Verb verb;
  verb.name = "cancel";
  verb.group = "Run";
  verb.summary = "End a job: every process of it, verified";
  verb.help =
      "Its ranks write a checkpoint and end; what has not ended after the grace is killed. Returns "
      "when no process of\nthe job is left. 'dsv3ctl resume' takes it up again.\n"
      "Examples:\n  dsv3ctl cancel demo-1\n  dsv3ctl cancel demo-1 --grace 0";
  verb.options = {
      {"JOB", &options->job, "Job id", true, Completes::kJob, {}},
      {"--grace",
       &options->grace_s,
       "Seconds for its ranks to end by themselves (default 30)",
       false,
       Completes::kNothing,
       {}},
      {"--no-wait", &options->no_wait, "Return at once", false, Completes::kNothing, {}}};
  verb.run = [options](const Globals& globals) { return cancel(globals, *options); };
  return verb;
}

Verb make_checkpoint() {
  auto job = std::make_shared<std::string>();
  Verb verb;
  verb.name = "checkpoint";
  verb.group = "Run";
  verb.summary = "Ask a running job to save a checkpoint now";
  verb.help =
      "Returns at once; 'dsv3ctl status JOB' shows the checkpoint when it is complete.\n"
      "Example:\n  dsv3ctl checkpoint demo-1\n"
      "Exit codes: 3 no coordinator, 5 no such job, 7 the job is not running.";
  verb.options = {{"JOB", job.get(), "Job id", true, Completes::kJob, {}}};
  verb.run = [job](const Globals& globals) { return checkpoint(globals, *job); };
  return verb;
}

}  // namespace dsv3::cli
