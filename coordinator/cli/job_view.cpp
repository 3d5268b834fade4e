// JobStatus for programs and for people; see job_view.h.
#include "coordinator/cli/job_view.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

double seconds(int64_t unix_ns) {
  return static_cast<double>(unix_ns) / 1e9;
}

Json parsed_or_null(const std::string& text) {
  Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json(nullptr) : value;
}

}  // namespace

std::string state_name(const wire::JobStatus& job) {
  return std::string(protocol::job_state_name(static_cast<protocol::JobState>(job.state())));
}

Json job_json(const wire::JobStatus& job) {
  Json out;
  out["id"] = job.id();
  out["name"] = job.name();
  out["state"] = state_name(job);
  out["reason"] = job.reason();
  out["since"] = seconds(job.since_unix_ns());
  out["attempt"] = job.attempt();
  out["restarts"] = job.restarts();
  out["step"] = job.has_step() ? Json(job.step()) : Json(nullptr);
  out["max_steps"] = job.max_steps();
  out["last_step_age_s"] = job.has_last_step_age_s() ? Json(job.last_step_age_s()) : Json(nullptr);
  out["loss"] = job.has_loss() ? Json(job.loss()) : Json(nullptr);
  out["tokens_per_s"] = job.has_tokens_per_s() ? Json(job.tokens_per_s()) : Json(nullptr);
  out["mfu"] = job.has_mfu() ? Json(job.mfu()) : Json(nullptr);
  out["effective_time_ratio"] =
      job.has_effective_time_ratio() ? Json(job.effective_time_ratio()) : Json(nullptr);
  out["lost_steps"] = job.lost_steps();
  out["layout"] = parsed_or_null(job.layout_json());
  out["why"] = job.why().empty() ? Json(nullptr) : Json(job.why());
  out["ranks"] = job.num_ranks();
  out["checkpoint"] = job.has_checkpoint() ? Json{{"step", job.checkpoint().step()},
                                                  {"path", job.checkpoint().path()},
                                                  {"bytes", job.checkpoint().bytes()}}
                                           : Json(nullptr);
  out["validation"] = job.has_validation() ? Json{{"step", job.validation().step()},
                                                  {"loss", job.validation().loss()},
                                                  {"tokens", job.validation().tokens()}}
                                           : Json(nullptr);
  out["submitted"] = seconds(job.submitted_unix_ns());
  out["ended"] = job.has_ended_unix_ns() ? Json(seconds(job.ended_unix_ns())) : Json(nullptr);
  out["exit_code"] = job.has_ended_unix_ns() ? Json(job.exit_code()) : Json(nullptr);
  out["launcher"] = job.launcher();
  out["folder"] = job.job_dir();
  out["next_action"] = next_action(job);
  return out;
}

Json coordinator_json(const wire::CoordinatorInfo& info) {
  return {{"version", info.version()},
          {"pid", info.pid()},
          {"instance", info.instance()},
          {"host", info.host()},
          {"state_dir", info.state_dir()},
          {"started", seconds(info.started_unix_ns())},
          {"uptime_s", seconds(info.now_unix_ns() - info.started_unix_ns())},
          {"jobs_active", info.jobs_active()},
          {"stopping", info.stopping()}};
}

std::string next_action(const wire::JobStatus& job) {
  const std::string& id = job.id();
  switch (static_cast<protocol::JobState>(job.state())) {
    case protocol::JobState::kQueued:
    case protocol::JobState::kPlanning:
    case protocol::JobState::kLaunching:
      return fmt::format("dsv3ctl wait {}", id);
    case protocol::JobState::kRunning:
    case protocol::JobState::kRestarting:
      return fmt::format("dsv3ctl logs {} -f", id);
    case protocol::JobState::kStopping:
      return fmt::format("dsv3ctl wait {}", id);
    case protocol::JobState::kCompleted:
      return fmt::format("dsv3ctl experts {}", id);
    case protocol::JobState::kFailed:
      return fmt::format("dsv3ctl logs {}", id);
    case protocol::JobState::kCancelled:
      return fmt::format("dsv3ctl resume {}", id);
  }
  return fmt::format("dsv3ctl status {}", id);
}

std::string step_text(const wire::JobStatus& job) {
  return job.has_step() ? fmt::format("{}/{}", job.step(), job.max_steps()) : "–";
}

}  // namespace dsv3::cli
