// dsv3ctl logs: what a rank (or the agent) wrote; -f follows until the job ends or Ctrl-C.
#include <fmt/format.h>

#include <memory>

#include <nlohmann/json.hpp>
#include "coordinator/cli/interrupt.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

struct Options {
  std::string job;
  int64_t rank = 0;
  bool agent = false;
  bool follow = false;
};

constexpr uint32_t kPollMs = 300;

// A long poll used as a bounded wait: returns early when something of the job changed.
Status wait_for_change(transport::Client& client, const std::string& job, wire::FollowReply* last) {
  wire::Envelope request, envelope;
  wire::FollowRequest& follow = *request.mutable_follow();
  follow.set_job(job);
  follow.set_after_event_seq(last->event_seq());
  follow.set_after_metric_row(last->metric_row());
  follow.set_after_validation_row(last->validation_row());
  follow.set_known_state(last->job().state());
  follow.set_wait_ms(kPollMs);
  DSV3_RETURN_IF_ERROR(ask(client, request, &envelope));
  *last = envelope.follow_reply();
  return {};
}

int logs(const Globals& globals, const Options& options) {
  if (options.rank < 0 || options.rank > INT32_MAX) {
    return fail(globals, Status(Code::kInvalid, fmt::format("there is no rank {}", options.rank),
                                "--rank takes a global rank, from 0; --agent the agent's log"));
  }
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  if (options.follow) catch_interrupts();
  int64_t offset = 0;
  wire::FollowReply seen;
  while (true) {
    wire::Envelope request, envelope;
    wire::LogsRequest& wanted = *request.mutable_logs();
    wanted.set_job(options.job);
    wanted.set_rank(options.agent ? -1 : static_cast<int32_t>(options.rank));
    wanted.set_offset(offset);
    if (Status status = ask(*client, request, &envelope); !status.ok())
      return fail(globals, status);
    const wire::LogsReply& reply = envelope.logs_reply();
    if (globals.json) {
      if (!reply.data().empty())
        print_json_line({{"offset", reply.offset()},
                         {"size", reply.size()},
                         {"ended", reply.ended()},
                         {"text", reply.data()}});
    } else {
      print(reply.data());
    }
    offset = reply.offset() + static_cast<int64_t>(reply.data().size());
    if (offset < reply.size()) continue;
    if (!options.follow || reply.ended()) return 0;
    if (interrupted() != 0) {
      note(fmt::format("detached; job {} goes on (dsv3ctl logs {} -f to follow again)", options.job,
                       options.job));
      return static_cast<int>(Code::kInterrupted);
    }
    if (Status status = wait_for_change(*client, options.job, &seen); !status.ok())
      return fail(globals, status);
  }
}

}  // namespace

Verb make_logs() {
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "logs";
  verb.group = "Look";
  verb.summary = "What a rank wrote; -f follows";
  verb.help =
      "Examples:\n  dsv3ctl logs demo-1\n  dsv3ctl logs demo-1 -f --rank 0\n  dsv3ctl logs demo-1 "
      "--agent";
  verb.options = {
      {"JOB", &options->job, "Job id", true, Completes::kJob, {}},
      {"--rank", &options->rank, "Global rank (default 0)", false, Completes::kNothing, {}},
      {"--agent",
       &options->agent,
       "The agent's log instead of a rank's",
       false,
       Completes::kNothing,
       {}},
      {"-f,--follow",
       &options->follow,
       "Go on until the job ends; Ctrl-C detaches",
       false,
       Completes::kNothing,
       {}}};
  verb.run = [options](const Globals& globals) { return logs(globals, *options); };
  return verb;
}

}  // namespace dsv3::cli
