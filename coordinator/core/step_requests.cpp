// What users ask: submit, cancel, checkpoint. See step.h.
#include <fmt/format.h>

#include <set>

#include "coordinator/core/step_work.h"

namespace dsv3::core {
namespace {

// Of the event that carries it. A reply with events is cut at 8 MiB and may pass that by one event,
// so it stays below the 16 MiB of a frame; so does the order that carries spec and plan to an
// agent.
constexpr size_t kSubmissionMaxBytes = size_t{4} << 20;
constexpr size_t kWhyMaxBytes = 4096;  // sentences for people

// The reason why a submission can't be taken, or "".
std::string submission_fault(const Submission& s) {
  if (s.nodes.empty()) return "the plan places no rank on any node";
  std::set<uint32_t> ranks;
  std::set<std::string> nodes;
  size_t num_ranks = 0;
  for (const Placement& p : s.nodes) {
    if (!is_plain_name(p.node)) return fmt::format("'{}' is not a node's name", p.node);
    if (!nodes.insert(p.node).second)
      return fmt::format("node '{}' stands twice in the placement", p.node);
    if (p.ranks.empty()) return fmt::format("node '{}' has no rank", p.node);
    ranks.insert(p.ranks.begin(), p.ranks.end());
    num_ranks += p.ranks.size();
  }
  if (ranks.size() != num_ranks || *ranks.rbegin() + 1 != num_ranks) {
    return fmt::format("the placement must hold each of the ranks 0 … {} once", num_ranks - 1);
  }
  if (s.spec_yaml.empty() || s.plan_json.empty()) return "the spec or the plan is empty";
  return {};
}

Status no_such_job(const std::string& id) {
  return Status(Code::kNotFound, fmt::format("there is no job '{}'", id),
                "`dsv3ctl status` lists the jobs");
}

}  // namespace

void Step::operator()(const SubmitInput& in) {
  const Submission& s = in.submission;
  for (const auto& [id, job] : state_.jobs) {
    if (s.request_key.empty() || job.submission.request_key != s.request_key) continue;
    out_.job = id;
    return;
  }
  if (const std::string fault = submission_fault(s); !fault.empty()) {
    out_.status = Status(Code::kInvalid, "the job can't be taken: " + fault);
    return;
  }
  Event event = make(EventType::kJobSubmitted, make_job_id(s.name, state_.jobs_submitted + 1));
  event.submission = s;
  if (const size_t bytes = payload_json(event).size(); bytes > kSubmissionMaxBytes) {
    out_.status = Status(Code::kInvalid,
                         fmt::format("the job can't be taken: its spec and plan are {} bytes; {} "
                                     "are possible",
                                     bytes, kSubmissionMaxBytes),
                         "give the job fewer ranks, or a shorter configuration");
    return;
  }
  out_.job = event.job;
  out_.created = true;
  act(ActionType::kWriteJobFiles, {event.job, 0, ""});
  emit(std::move(event));
  if (!in.why.empty()) {
    Event planned = make(EventType::kJobPlanned, out_.job);
    planned.reason = in.why.substr(0, kWhyMaxBytes);
    emit(std::move(planned));
  }
  pick_jobs();
}

void Step::operator()(const CancelInput& in) {
  const Job* found = find_job(state_, in.job);
  if (found == nullptr) {
    out_.status = no_such_job(in.job);
    return;
  }
  const std::string reason = in.reason.empty() ? "cancelled" : in.reason;
  if (in.grace_ms) times_.stop_grace_ms[in.job] = *in.grace_ms;
  switch (found->state) {
    case JobState::kStopping:  // asked already; less time can be given
      if (in.grace_ms) stop_agents(*found, reason);
      return;
    case JobState::kCompleted:
    case JobState::kFailed:
    case JobState::kCancelled:
      times_.stop_grace_ms.erase(in.job);
      out_.status = Status(Code::kConflict, fmt::format("job '{}' is {} already", in.job,
                                                        protocol::job_state_name(found->state)));
      return;
    case JobState::kQueued:
    case JobState::kPlanning:
    case JobState::kRestarting: {
      times_.stop_grace_ms.erase(in.job);
      times_.not_before.erase(in.job);
      Event event = make(EventType::kJobCancelled, in.job);
      event.reason = reason;
      emit(std::move(event));
      pick_jobs();
      return;
    }
    case JobState::kLaunching:
    case JobState::kRunning: {
      Event event = make(EventType::kJobStopping, in.job, found->attempt->number);
      event.reason = reason;
      emit(std::move(event));
      stop_agents(job(in.job), reason);
      conclude_attempt(in.job);
      return;
    }
  }
}

void Step::operator()(const ResumeInput& in) {
  const Job* found = find_job(state_, in.job);
  if (found == nullptr) {
    out_.status = no_such_job(in.job);
    return;
  }
  if (found->state == JobState::kCompleted) {
    out_.status = Status(Code::kConflict, fmt::format("job '{}' is COMPLETED", in.job),
                         "to train on, submit it with more training.max_steps and checkpoint.load "
                         "set to its checkpoint");
    return;
  }
  if (!protocol::is_terminal(found->state)) {
    out_.status = Status(Code::kConflict, fmt::format("job '{}' is {}: it has not ended", in.job,
                                                      protocol::job_state_name(found->state)));
    return;
  }
  act(ActionType::kWriteJobFiles, {in.job, 0, ""});
  Event event = make(EventType::kJobResumed, in.job);
  event.reason = found->checkpoint ? fmt::format("resumed; its newest checkpoint is of step {}",
                                                 found->checkpoint->step)
                                   : "resumed; it has no checkpoint yet";
  emit(std::move(event));
  pick_jobs();
}

void Step::operator()(const CheckpointNowInput& in) {
  const Job* found = find_job(state_, in.job);
  if (found == nullptr) {
    out_.status = no_such_job(in.job);
    return;
  }
  if (found->state != JobState::kRunning || found->attempt->state != AttemptState::kRunning) {
    out_.status = Status(Code::kConflict,
                         fmt::format("job '{}' is {}: a checkpoint can be asked of a RUNNING one",
                                     in.job, protocol::job_state_name(found->state)));
    return;
  }
  emit(make(EventType::kCheckpointRequested, in.job, found->attempt->number));
  for (const auto& [node, agent] : found->attempt->agents) {
    if (agent.state == AgentState::kConnected)
      act(ActionType::kSendCheckpoint, {in.job, found->attempt->number, node});
  }
}

}  // namespace dsv3::core
