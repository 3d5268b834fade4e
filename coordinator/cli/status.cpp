// dsv3ctl status: every job in a table, or one job in full; each state with its reason, since when,
// and what to do next.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/job_view.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

Color state_color(const wire::JobStatus& job) {
  switch (static_cast<protocol::JobState>(job.state())) {
    case protocol::JobState::kRunning:
    case protocol::JobState::kCompleted:
      return Color::kGreen;
    case protocol::JobState::kFailed:
      return Color::kRed;
    case protocol::JobState::kRestarting:
    case protocol::JobState::kStopping:
      return Color::kYellow;
    default:
      return Color::kNone;
  }
}

std::string since_text(const wire::JobStatus& job, int64_t now_ns) {
  return human_duration(static_cast<double>(now_ns - job.since_unix_ns()) / 1e9);
}

std::string counted(int64_t number, std::string_view what) {
  return fmt::format("{} {}{}", number, what, number == 1 ? "" : "s");
}

void print_table(const Globals& globals, const wire::StatusReply& reply) {
  if (reply.jobs().empty()) {
    print("no jobs yet: start one with 'dsv3ctl submit demo --wait'\n");
    return;
  }
  Table table({"JOB", "STATE", "FOR", "STEP", "LOSS", "TOK/S", "REASON"});
  for (const wire::JobStatus& job : reply.jobs()) {
    table.add({job.id(), state_name(job), since_text(job, reply.coordinator().now_unix_ns()),
               step_text(job), job.has_loss() ? fmt::format("{:.4f}", job.loss()) : "–",
               job.has_tokens_per_s() ? with_commas(static_cast<int64_t>(job.tokens_per_s())) : "–",
               job.reason()});
  }
  print(table.render(globals.color, terminal_columns(STDOUT_FILENO)));
}

// What a rank said of checkpoints since the last one was complete: that one could not be written.
std::string failed_checkpoint(transport::Client& client, const std::string& id) {
  wire::Envelope request, envelope;
  request.mutable_sql()->set_statement(
      fmt::format("SELECT json_extract(payload, '$.reason') AS reason FROM events WHERE job = '{0}'"
                  " AND event = 'note' AND reason LIKE 'the checkpoint of step % was not written%'"
                  " AND seq > coalesce((SELECT max(seq) FROM events WHERE job = '{0}'"
                  " AND event = 'checkpoint_done'), 0) ORDER BY seq DESC LIMIT 1",
                  id));
  if (!ask(client, request, &envelope).ok() || envelope.sql_reply().rows().empty()) return {};
  return one_line(envelope.sql_reply().rows(0).cells(0).text());
}

void print_job(const Globals& globals, const wire::JobStatus& job, int64_t now_ns,
               const std::string& checkpoint_note) {
  const auto line = [](std::string_view name, const std::string& value) {
    print(fmt::format("{:<12}{}\n", name, value));
  };
  line("job", job.id());
  line("state", paint(state_name(job), state_color(job), globals.color) +
                    fmt::format(" for {}", since_text(job, now_ns)));
  if (!job.reason().empty()) line("reason", job.reason());
  if (!job.why().empty()) line("chosen", wrap(job.why(), 12, help_columns() - 12));
  const bool runs = static_cast<protocol::JobState>(job.state()) == protocol::JobState::kRunning;
  line("step",
       step_text(job) + (runs && job.has_last_step_age_s()
                             ? fmt::format(", {} ago", human_duration(job.last_step_age_s()))
                             : ""));
  if (job.has_loss()) line("loss", fmt::format("{:.4f}", job.loss()));
  if (job.has_validation())
    line("validation",
         fmt::format("{:.4f} at step {}", job.validation().loss(), job.validation().step()));
  if (job.has_tokens_per_s()) {
    line("speed",
         fmt::format("{} tokens/s, mfu {:.1f} %",
                     with_commas(static_cast<int64_t>(job.tokens_per_s())), 100 * job.mfu()));
  }
  line("attempt", fmt::format("{} ({}, {} lost)", job.attempt(), counted(job.restarts(), "restart"),
                              counted(job.lost_steps(), "step")));
  if (job.has_effective_time_ratio())
    line("useful", fmt::format("{:.1f} % of the time since the launch went into steps that stand",
                               100 * job.effective_time_ratio()));
  line("ranks", fmt::format("{} by the {} launcher", job.num_ranks(), job.launcher()));
  if (job.has_checkpoint()) line("checkpoint", job.checkpoint().path());
  if (!checkpoint_note.empty()) line("", paint(checkpoint_note, Color::kYellow, globals.color));
  line("folder", job.job_dir());
  line("next", next_action(job));
}

int status(const Globals& globals, const std::string& id) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_status()->set_job(id);
  if (Status asked = ask(*client, request, &envelope); !asked.ok()) return fail(globals, asked);
  const wire::StatusReply& reply = envelope.status_reply();
  const std::string note = id.empty() ? "" : failed_checkpoint(*client, reply.jobs(0).id());
  if (globals.json && id.empty()) {
    Json jobs = Json::array();
    for (const wire::JobStatus& job : reply.jobs()) jobs.push_back(job_json(job));
    print_json({{"coordinator", coordinator_json(reply.coordinator())}, {"jobs", jobs}});
  } else if (globals.json) {
    Json job = job_json(reply.jobs(0));
    job["checkpoint_note"] = note.empty() ? Json(nullptr) : Json(note);
    print_json({{"job", job}});
  } else if (id.empty()) {
    print_table(globals, reply);
  } else {
    print_job(globals, reply.jobs(0), reply.coordinator().now_unix_ns(), note);
  }
  return 0;
}

}  // namespace

Verb make_status() {
  auto id = std::make_shared<std::string>();
  Verb verb;
  verb.name = "status";
  verb.group = "Look";
  verb.summary = "What runs and how far it is; with a JOB, everything about it";
  verb.help = "Examples:\n  dsv3ctl status\n  dsv3ctl status demo-1 --json";
  verb.options = {{"JOB", id.get(), "Job id; left out: all jobs", false, Completes::kJob, {}}};
  verb.run = [id](const Globals& globals) { return status(globals, *id); };
  return verb;
}

}  // namespace dsv3::cli
