// Inputs, persistence, actions: the one path by which anything changes. See daemon.h.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/log_file.h"
#include "coordinator/daemon/daemon.h"
#include "coordinator/daemon/job_files.h"

namespace dsv3::daemon {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

void log_event(const core::Event& event) {
  if (event.job.empty()) {
    log::info("{} {}{}", core::event_name(event.type), event.node,
              event.reason.empty() ? "" : ": " + event.reason);
  } else {
    log::info("{} {}{}{}", event.job, core::event_name(event.type),
              event.node.empty() ? "" : " on " + event.node,
              event.reason.empty() ? "" : ": " + event.reason);
  }
}

}  // namespace

core::Decision Daemon::decide(const core::Input& input, Pending* pending) {
  if (!pending->times_before) pending->times_before = times_;
  core::Decision decision = core::step(state_, times_, input, now(), options_.limits);
  for (const core::Event& event : decision.events) {
    if (!event.job.empty()) pending->changed.insert(event.job);
    pending->batch.events.push_back(event);
  }
  pending->actions.insert(pending->actions.end(), decision.actions.begin(), decision.actions.end());
  return decision;
}

Status Daemon::commit(Pending* pending) {
  store::Batch& batch = pending->batch;
  for (const std::string& id : pending->changed) {
    if (const core::Job* job = core::find_job(state_, id)) batch.changed_jobs.push_back(job);
  }
  if (batch.events.empty() && batch.samples.empty() && batch.taken_reports.empty()) return {};
  if (Status status = writer_.commit(batch); !status.ok()) {
    if (status.code() == Code::kTemporary) return undo(*pending, status);
    log::error("cannot persist, so the coordinator ends: {}", status.to_string());
    fatal_ = status;
    return status;
  }
  for (const core::Event& event : batch.events) log_event(event);
  if (std::exchange(disk_full_, false)) log::info("there is room on the disk again");
  dirty_jobs_.insert(pending->changed.begin(), pending->changed.end());
  return {};
}

Result<core::Decision> Daemon::process(const core::Input& input, const transport::Peer* sender) {
  Pending pending;
  core::Decision decision = decide(input, &pending);
  DSV3_RETURN_IF_ERROR(commit(&pending));
  act(pending.actions, sender);
  return decision;
}

void Daemon::act(const std::vector<core::Action>& actions, const transport::Peer* sender) {
  for (const core::Action& action : actions) {
    const core::Job* job = core::find_job(state_, action.agent.job);
    if (job != nullptr && action.type == core::ActionType::kWriteJobFiles) {
      const Status status = write_job_files(options_.state_dir, *job);
      if (!status.ok()) log::error("{}: {}", job->id, status.to_string());
    } else if (job != nullptr) {
      act_on_agent(action, *job, sender);
    } else if (sender != nullptr && action.type == core::ActionType::kDismissAgent) {
      wire::Envelope message;
      message.mutable_agent_dismiss()->set_reason(action.reason);
      (void)server_.send(*sender, message);
    }
  }
}

void Daemon::act_on_agent(const core::Action& action, const core::Job& job,
                          const transport::Peer* sender) {
  const core::AgentKey& key = action.agent;
  wire::Envelope message;
  switch (action.type) {
    case core::ActionType::kWriteJobFiles:
      return;
    case core::ActionType::kStartAgent:
      return start_agent(action, job);
    case core::ActionType::kSendLaunch:
      return send_launch(key, job);
    case core::ActionType::kKillAgent: {
      launch::Launcher* launcher = find_launcher(job.submission.launcher);
      const Status status =
          launcher != nullptr ? launcher->cancel(agent_spec(key), action.grace_ms) : Status();
      if (!status.ok()) log::warning("{}: {}", key.job, status.to_string());
      return;
    }
    case core::ActionType::kDismissAgent:
      message.mutable_agent_dismiss()->set_reason(action.reason);
      if (sender != nullptr) (void)server_.send(*sender, message);
      return;
    case core::ActionType::kSendStop:
      message.mutable_stop_ranks()->set_job(key.job);
      message.mutable_stop_ranks()->set_attempt(key.attempt);
      message.mutable_stop_ranks()->set_grace_ms(action.grace_ms);
      message.mutable_stop_ranks()->set_reason(action.reason);
      // Ranks that lost a peer can't write one together.
      message.mutable_stop_ranks()->set_checkpoint(job.state == core::JobState::kStopping);
      break;
    case core::ActionType::kSendCheckpoint:
      message.mutable_agent_checkpoint_now()->set_job(key.job);
      message.mutable_agent_checkpoint_now()->set_attempt(key.attempt);
      break;
    case core::ActionType::kSendAck:
      message.mutable_heartbeat_ack()->set_instance(instance_);
      message.mutable_heartbeat_ack()->set_heartbeat_ms(kHeartbeatMs);
      message.mutable_heartbeat_ack()->set_silence_ms(kAgentPatienceMs);
      break;
  }
  // An agent that can't be reached says hello again, and is told then.
  const auto peer = peers_.find(key);
  if (peer != peers_.end()) (void)server_.send(peer->second, message);
}

launch::AgentSpec Daemon::agent_spec(const core::AgentKey& key) const {
  launch::AgentSpec spec;
  spec.key = {key.job, static_cast<int64_t>(key.attempt), key.node};
  spec.state_dir = options_.state_dir;
  spec.job_dir = job_dir(options_.state_dir, key.job);
  return spec;
}

launch::Launcher* Daemon::find_launcher(const std::string& name) {
  const auto found = launchers_.find(name);
  return found == launchers_.end() ? nullptr : found->second.get();
}

void Daemon::start_agent(const core::Action& action, const core::Job& job) {
  const core::AgentKey& key = action.agent;
  launch::Launcher* launcher = find_launcher(job.submission.launcher);
  watched_.insert(key);
  if (launcher == nullptr) {
    gone_.push_back({key, static_cast<int32_t>(Code::kFailed),
                     fmt::format("no launcher '{}'", job.submission.launcher)});
    return;
  }
  Status status = check_job_dir(options_.state_dir, job);
  if (!status.ok()) status = write_job_files(options_.state_dir, job);  // or why not
  if (status.ok()) {
    const Result<launch::AgentStatus> started = launcher->submit(agent_spec(key));
    status = started.status();
    if (started.ok()) {
      log::info("{}: agent of attempt {} on {} is {}", key.job, key.attempt, key.node,
                started->where);
    }
  }
  if (status.ok()) return;
  // An agent that ended before it was heard (while no coordinator ran, say) has begun nothing.
  const Code code = status.code() == Code::kConflict ? Code::kTemporary : status.code();
  gone_.push_back({key, static_cast<int32_t>(code), status.to_string()});
}

void Daemon::send_launch(const core::AgentKey& key, const core::Job& job) {
  const auto peer = peers_.find(key);
  const core::Attempt* attempt = core::find_live_attempt(state_, key.job, key.attempt);
  if (peer == peers_.end() || attempt == nullptr) return;
  wire::Envelope message;
  wire::LaunchRanks* launch = message.mutable_launch_ranks();
  launch->set_job(key.job);
  launch->set_attempt(key.attempt);
  launch->set_spec_yaml(job.submission.spec_yaml);
  launch->set_plan_json(job.submission.plan_json);
  for (const auto& [rank, unused] : attempt->agents.at(key.node).ranks) launch->add_ranks(rank);
  launch->set_submission(submission_mark(job));
  launch->set_world_size(job.num_ranks);
  launch->set_job_dir(job_dir(options_.state_dir, key.job));
  launch->set_working_dir(job.submission.working_dir);
  launch->set_heartbeat_ms(kHeartbeatMs);
  launch->set_silence_ms(kAgentPatienceMs);
  if (job.checkpoint) launch->set_saved_step(job.checkpoint->step);
  const Status status = server_.send(peer->second, message);
  if (!status.ok())
    log::warning("{}: cannot send the launch to {}: {}", key.job, key.node, status.message());
}

Status Daemon::process_gone() {
  while (!gone_.empty()) {
    const Status status = process(core::AgentGoneInput(gone_.front())).status();
    DSV3_RETURN_IF_ERROR(fatal_);
    if (!status.ok()) return {};  // it stays, for the next tick
    gone_.pop_front();
  }
  return {};
}

void Daemon::poll_agents() {
  for (auto key = watched_.begin(); key != watched_.end();) {
    const core::Job* job = core::find_job(state_, key->job);
    launch::Launcher* launcher = job != nullptr ? find_launcher(job->submission.launcher) : nullptr;
    if (launcher == nullptr) {
      key = watched_.erase(key);
      continue;
    }
    const Result<launch::AgentStatus> status = launcher->poll(agent_spec(*key));
    if (status.ok() && status->state == launch::AgentState::kRunning) {
      ++key;
      continue;
    }
    // Of one that was started by an earlier coordinator the code isn't known: 0.
    const int code =
        status.ok() ? status->exit_code.value_or(0) : static_cast<int>(status.status().code());
    const std::string why =
        status.ok() ? fmt::format("its process ({}) ended{}", status->where,
                                  status->exit_code ? fmt::format(" with code {}", code) : "")
                    : status.status().to_string();
    gone_.push_back({*key, code, why});
    peers_.erase(*key);
    key = watched_.erase(key);
  }
}

bool Daemon::waits_for_agents() const {
  return std::any_of(watched_.begin(), watched_.end(), [this](const core::AgentKey& key) {
    const core::Attempt* attempt = core::find_live_attempt(state_, key.job, key.attempt);
    return attempt != nullptr && attempt->agents.contains(key.node) &&
           attempt->agents.at(key.node).state >= core::AgentState::kDone;
  });
}

Status Daemon::tick() {
  next_tick_ns_ = clock_.steady_ns() + kTickMs * kNsPerMs;
  log::rotate_file(options_.state_dir + "/dsv3d.log", kLogBytesMax);
  (void)process(core::TickInput{});  // what a full disk refuses comes again with the next tick
  DSV3_RETURN_IF_ERROR(fatal_);
  poll_agents();
  return process_gone();
}

}  // namespace dsv3::daemon
