// dsv3ctl resume: a job that failed or was cancelled goes on from its newest valid checkpoint; the
// job id alone on stdout.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/cli/wait.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::cli {
namespace {

struct Options {
  std::string job;
  bool wait = false;
};

// What has been told of the job so far, so that only the rest is shown. Nothing of a job that has
// not ended: it can't be resumed, and the coordinator will say so.
Result<wire::FollowReply> read_past(transport::Client& client, const std::string& job) {
  wire::FollowReply past;
  wire::Envelope request, envelope;
  request.mutable_status()->set_job(job);
  DSV3_RETURN_IF_ERROR(ask(client, request, &envelope));
  const auto state = static_cast<protocol::JobState>(envelope.status_reply().jobs(0).state());
  if (!protocol::is_terminal(state)) return past;
  DSV3_RETURN_IF_ERROR(follow_to_end(
      client, job, kRequestTimeoutMs / 1000.0, [](const wire::FollowReply&) {}, &past));
  return past;
}

int resume(const Globals& globals, const Options& options) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  auto past = read_past(*client, options.job);
  if (!past.ok()) return fail(globals, past.status());
  wire::Envelope request, envelope;
  request.mutable_resume()->set_job(options.job);
  if (Status status = ask(*client, request, &envelope); !status.ok()) return fail(globals, status);
  if (globals.json) {
    print_json({{"job", options.job}});
  } else {
    print(options.job + "\n");
  }
  return options.wait ? show_to_end(globals, *client, options.job, std::move(*past)) : 0;
}

}  // namespace

Verb make_resume() {
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "resume";
  verb.group = "Run";
  verb.summary = "A job that failed or was cancelled goes on from its newest checkpoint";
  verb.help =
      "Needs a checkpoint: checkpoint.interval_steps, or a job that was cancelled.\n"
      "Example:\n  dsv3ctl resume demo-1 --wait\n"
      "Exit code with --wait: 0 completed, 1 failed or cancelled; 7 while the job has not ended, "
      "or "
      "when it has completed.";
  verb.options = {{"JOB", &options->job, "Job id", true, Completes::kEndedJob, {}},
                  {"--wait",
                   &options->wait,
                   "Show progress until the job ends, then a summary; Ctrl-C detaches",
                   false,
                   Completes::kNothing,
                   {}}};
  verb.run = [options](const Globals& globals) { return resume(globals, *options); };
  return verb;
}

}  // namespace dsv3::cli
