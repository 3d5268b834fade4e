// What users read. Nothing here changes anything. See daemon.h.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "coordinator/daemon/convert.h"
#include "coordinator/daemon/daemon.h"
#include "coordinator/daemon/job_files.h"
#include "coordinator/protocol/frames.h"

namespace dsv3::daemon {
namespace {

uint32_t row_limit(uint32_t asked) {
  return asked == 0 ? protocol::kRowsDefault : std::min(asked, protocol::kRowsMax);
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

// The job that was probably meant: the newest of that name ("demo" for demo-3), or of a like id.
std::string near_job(const core::State& state, const std::string& id) {
  const core::Job* newest = nullptr;
  std::vector<std::string_view> ids;
  for (const auto& [known, job] : state.jobs) {
    ids.push_back(known);
    const bool of_name = known.substr(0, known.rfind('-')) == id;
    if (of_name && (newest == nullptr || job.number > newest->number)) newest = &job;
  }
  return newest != nullptr ? newest->id : did_you_mean(id, ids);
}

}  // namespace

Result<const core::Job*> Daemon::need_job(const std::string& id) const {
  if (const core::Job* job = core::find_job(state_, id)) return job;
  const std::string near = near_job(state_, id);
  return Status(
      Code::kNotFound, fmt::format("there is no job '{}'", id),
      near.empty() ? "'dsv3ctl status' lists the jobs" : fmt::format("did you mean '{}'?", near));
}

void Daemon::fill_info(wire::CoordinatorInfo* info) const {
  info->set_version(options_.version);
  info->set_pid(::getpid());
  info->set_instance(instance_);
  info->set_state_dir(options_.state_dir);
  info->set_host(host_name());
  // The age is a duration, which a clock that was set since must not change.
  const int64_t now_ns = clock_.wall_ns();
  info->set_started_unix_ns(now_ns - (clock_.steady_ns() - started_steady_ns_));
  info->set_now_unix_ns(now_ns);
  info->set_jobs_active(core::num_active_jobs(state_));
  info->set_stopping(draining_);
}

Status Daemon::fill_job(const core::Job& job, wire::JobStatus* status) {
  to_job_status(job, job_dir(options_.state_dir, job.id), status);
  const int64_t until_ns = job.ended_ns != 0 ? job.ended_ns : clock_.wall_ns();
  return reader_.fill_progress(job.number, job.launched_ns, until_ns, status);
}

Status Daemon::status_of(const std::string& id, wire::StatusReply* reply) {
  fill_info(reply->mutable_coordinator());
  std::vector<const core::Job*> jobs;
  if (!id.empty()) {
    DSV3_ASSIGN_OR_RETURN(const core::Job* job, need_job(id));
    jobs.push_back(job);
  } else {
    for (const auto& [unused, job] : state_.jobs) jobs.push_back(&job);
    std::sort(jobs.begin(), jobs.end(),
              [](const core::Job* a, const core::Job* b) { return a->number > b->number; });
    if (jobs.size() > protocol::kRowsDefault) jobs.resize(protocol::kRowsDefault);
  }
  for (const core::Job* job : jobs) DSV3_RETURN_IF_ERROR(fill_job(*job, reply->add_jobs()));
  return {};
}

Status Daemon::logs(const wire::LogsRequest& request, wire::LogsReply* reply) const {
  DSV3_ASSIGN_OR_RETURN(const core::Job* job, need_job(request.job()));
  std::string name;
  if (request.rank() >= 0) {
    if (static_cast<uint32_t>(request.rank()) >= job->num_ranks) {
      return Status(Code::kNotFound,
                    fmt::format("job '{}' has ranks 0 to {}", job->id, job->num_ranks - 1));
    }
    name = fmt::format("rank-{}.log", request.rank());
  } else {
    const std::string node =
        request.node().empty() ? job->submission.nodes.front().node : request.node();
    if (!core::is_plain_name(node))
      return Status(Code::kInvalid, fmt::format("'{}' is not a node's name", node));
    name = fmt::format("agent-{}.log", node);
  }
  const uint32_t limit = request.limit() == 0
                             ? protocol::kLogChunkMaxBytes
                             : std::min(request.limit(), protocol::kLogChunkMaxBytes);
  // Asked before reading: a log that is complete at the end of the job is complete in this answer.
  reply->set_ended(protocol::is_terminal(job->state));
  DSV3_ASSIGN_OR_RETURN(
      LogChunk chunk,
      read_log(fmt::format("{}/logs/{}", job_dir(options_.state_dir, job->id), name),
               request.offset(), limit));
  reply->set_offset(chunk.offset);
  reply->set_size(chunk.size);
  reply->set_data(std::move(chunk.data));
  return {};
}

void Daemon::nodes(wire::NodesReply* reply) const {
  const int64_t now_ns = clock_.steady_ns();
  for (const auto& [name, node] : state_.nodes) {
    wire::NodeStatus* status = reply->add_nodes();
    to_node_status(node, status);
    for (const auto& [key, heard_ns] : times_.heard) {
      if (key.node == name)
        status->set_last_heard_s(std::max(0.0, static_cast<double>(now_ns - heard_ns) * 1e-9));
    }
  }
}

Status Daemon::answer_question(const wire::Envelope& request, wire::Envelope* reply) {
  switch (request.body_case()) {
    case wire::Envelope::kPing:
      fill_info(reply->mutable_ping_reply()->mutable_coordinator());
      return {};
    case wire::Envelope::kStatus:
      return status_of(request.status().job(), reply->mutable_status_reply());
    case wire::Envelope::kNodes:
      nodes(reply->mutable_nodes_reply());
      return {};
    case wire::Envelope::kLogs:
      return logs(request.logs(), reply->mutable_logs_reply());
    case wire::Envelope::kSql:
      return reader_.query(request.sql().statement(), row_limit(request.sql().limit()),
                           kSqlTimeLimitMs, reply->mutable_sql_reply());
    case wire::Envelope::kEvents: {
      const wire::EventsRequest& ask = request.events();
      if (!ask.job().empty()) DSV3_RETURN_IF_ERROR(need_job(ask.job()).status());
      return reader_.events(ask.job(), ask.after_seq(), row_limit(ask.limit()),
                            reply->mutable_events_reply());
    }
    case wire::Envelope::kMetrics: {
      const wire::MetricsRequest& ask = request.metrics();
      DSV3_ASSIGN_OR_RETURN(const core::Job* job, need_job(ask.job()));
      return reader_.metrics(job->number, ask.after_step(), row_limit(ask.limit()),
                             reply->mutable_metrics_reply());
    }
    case wire::Envelope::kExperts: {
      DSV3_ASSIGN_OR_RETURN(const core::Job* job, need_job(request.experts().job()));
      std::optional<int64_t> step;
      if (request.experts().has_step()) step = request.experts().step();
      return reader_.experts(job->number, step, reply->mutable_experts_reply());
    }
    case wire::Envelope::kMemory: {
      DSV3_ASSIGN_OR_RETURN(const core::Job* job, need_job(request.memory().job()));
      return reader_.memory(job->number, reply->mutable_memory_reply());
    }
    case wire::Envelope::kAgentHello:
    case wire::Envelope::kAgentHeartbeat:
    case wire::Envelope::kAgentReports:
      return Status(Code::kNotAuthorised, "a client's key can't report", "only an agent's key can");
    default:
      return Status(Code::kInvalid, "this message is not a request of a client");
  }
}

Result<bool> Daemon::follow(const wire::FollowRequest& request, wire::FollowReply* reply) {
  DSV3_ASSIGN_OR_RETURN(const core::Job* job, need_job(request.job()));
  reply->Clear();
  reply->set_event_seq(request.after_event_seq());
  reply->set_metric_row(request.after_metric_row());
  reply->set_validation_row(request.after_validation_row());
  DSV3_RETURN_IF_ERROR(reader_.follow(job->id, job->number, protocol::kRowsDefault, reply));
  DSV3_RETURN_IF_ERROR(fill_job(*job, reply->mutable_job()));
  return reply->events_size() > 0 || reply->metrics_size() > 0 || reply->validations_size() > 0 ||
         protocol::is_terminal(job->state) ||
         static_cast<wire::JobState>(job->state) != request.known_state();
}

void Daemon::serve_followers() {
  const int64_t now_ns = clock_.steady_ns();
  std::vector<Follower> waiting;
  for (Follower& follower : followers_) {
    const bool due = now_ns >= follower.deadline_ns;
    if (!due && !dirty_jobs_.contains(follower.request.job())) {
      waiting.push_back(std::move(follower));
      continue;
    }
    wire::Envelope reply;
    const Result<bool> ready = follow(follower.request, reply.mutable_follow_reply());
    if (ready.ok() && !*ready && !due) {
      waiting.push_back(std::move(follower));
    } else {
      reply_to(follower.peer, follower.request_id, ready.status(), &reply);
    }
  }
  followers_ = std::move(waiting);
  dirty_jobs_.clear();
}

}  // namespace dsv3::daemon
