// What users ask to be done, and the door through which every message comes. See daemon.h.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "coordinator/daemon/auto_pick.h"
#include "coordinator/daemon/convert.h"
#include "coordinator/daemon/daemon.h"
#include "coordinator/daemon/job_files.h"
#include "coordinator/protocol/frames.h"

namespace dsv3::daemon {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr size_t kFollowersMax = 1'000;
constexpr uint32_t kGraceMaxMs = 3'600'000;

Status ending() {
  return Status(Code::kConflict, "the coordinator is ending its jobs and takes no new one",
                "wait, then `dsv3ctl up`");
}

}  // namespace

void Daemon::reply_to(const transport::Peer& peer, uint64_t request_id, const Status& status,
                      wire::Envelope* reply) {
  if (!status.ok()) protocol::make_error_reply(request_id, status, reply);
  reply->set_request_id(request_id);
  Status sent = server_.send(peer, *reply);
  if (sent.code() == Code::kInvalid) {
    // The answer is larger than a frame: that is what the asker should learn.
    protocol::make_error_reply(request_id, sent, reply);
    sent = server_.send(peer, *reply);
  }
  if (!sent.ok()) log::debug("a reply to {} is lost: {}", peer.key_name, sent.message());
}

Status Daemon::handle_message(const transport::Peer& peer, const wire::Envelope& message) {
  wire::Envelope reply;
  if (peer.role == transport::Role::kAgent) {
    const Status status = handle_agent(peer, message);
    DSV3_RETURN_IF_ERROR(fatal_);
    if (!status.ok()) reply_to(peer, message.request_id(), status, &reply);
    return process_gone();
  }
  bool deferred = false;
  const Status status = handle_request(peer, message, &reply, &deferred);
  DSV3_RETURN_IF_ERROR(fatal_);
  if (!deferred) reply_to(peer, message.request_id(), status, &reply);
  return process_gone();
}

Status Daemon::handle_request(const transport::Peer& peer, const wire::Envelope& request,
                              wire::Envelope* reply, bool* deferred) {
  switch (request.body_case()) {
    case wire::Envelope::kSubmit:
      return submit(request.submit(), reply->mutable_submit_reply());
    case wire::Envelope::kSubmitAuto:
      return submit_auto(request.submit_auto(), reply->mutable_submit_auto_reply());
    case wire::Envelope::kCancel: {
      const wire::CancelRequest& cancel = request.cancel();
      core::CancelInput input{cancel.job(), cancel.reason()};
      if (cancel.has_grace_ms()) input.grace_ms = std::min(cancel.grace_ms(), kGraceMaxMs);
      return change_job(input, cancel.job(), reply->mutable_job_reply());
    }
    case wire::Envelope::kResume:
      if (draining_) return ending();
      return change_job(core::ResumeInput{request.resume().job()}, request.resume().job(),
                        reply->mutable_job_reply());
    case wire::Envelope::kCheckpointNow:
      return change_job(core::CheckpointNowInput{request.checkpoint_now().job()},
                        request.checkpoint_now().job(), reply->mutable_job_reply());
    case wire::Envelope::kShutdown:
      return shutdown(request.shutdown(), reply->mutable_shutdown_reply());
    case wire::Envelope::kFollow: {
      DSV3_ASSIGN_OR_RETURN(const bool ready,
                            follow(request.follow(), reply->mutable_follow_reply()));
      const uint32_t wait_ms = std::min(request.follow().wait_ms(), protocol::kFollowWaitMaxMs);
      if (ready || wait_ms == 0) return {};
      if (followers_.size() >= kFollowersMax)
        return Status(Code::kTemporary, "too many clients are waiting", "try again later");
      followers_.push_back(
          {peer, request.request_id(), request.follow(), clock_.steady_ns() + wait_ms * kNsPerMs});
      *deferred = true;
      return {};
    }
    default:
      return answer_question(request, reply);
  }
}

Status Daemon::submit(const wire::SubmitRequest& request, wire::SubmitReply* reply) {
  if (draining_) return ending();
  if (find_launcher(request.launcher()) == nullptr) {
    return Status(Code::kInvalid, fmt::format("there is no launcher '{}'", request.launcher()),
                  "use --launcher local");
  }
  DSV3_ASSIGN_OR_RETURN(const core::Decision decision,
                        process(core::SubmitInput{to_submission(request), request.why()}));
  DSV3_RETURN_IF_ERROR(decision.status);
  reply->set_job(decision.job);
  reply->set_created(decision.created);
  reply->set_job_dir(job_dir(options_.state_dir, decision.job));
  return {};
}

Status Daemon::submit_auto(const wire::SubmitAutoRequest& request, wire::SubmitAutoReply* reply) {
  if (draining_) return ending();
  if (find_launcher(request.launcher()) == nullptr) {
    return Status(Code::kInvalid, fmt::format("there is no launcher '{}'", request.launcher()),
                  "use --launcher local");
  }
  DSV3_ASSIGN_OR_RETURN(const AutoPick pick, pick_job(local_cluster_, request, options_.state_dir));
  reply->set_config(pick.config);
  reply->set_why(pick.why);
  reply->set_spec_yaml(pick.submission.spec_yaml);
  reply->set_plan_json(pick.submission.plan_json);
  if (request.dry()) return {};
  DSV3_ASSIGN_OR_RETURN(const core::Decision decision,
                        process(core::SubmitInput{pick.submission, pick.why}));
  DSV3_RETURN_IF_ERROR(decision.status);
  reply->set_job(decision.job);
  reply->set_created(decision.created);
  reply->set_job_dir(job_dir(options_.state_dir, decision.job));
  return {};
}

Status Daemon::change_job(const core::Input& input, const std::string& id, wire::JobReply* reply) {
  DSV3_ASSIGN_OR_RETURN(const core::Decision decision, process(input));
  DSV3_RETURN_IF_ERROR(decision.status);
  DSV3_ASSIGN_OR_RETURN(const core::Job* job, need_job(id));
  return fill_job(*job, reply->mutable_job());
}

Status Daemon::shutdown(const wire::ShutdownRequest& request, wire::ShutdownReply* reply) {
  std::vector<std::string> active;
  for (const auto& [id, job] : state_.jobs) {
    if (!protocol::is_terminal(job.state)) active.push_back(id);
  }
  for (const std::string& id : active) {
    reply->add_jobs(id);
    if (request.cancel_jobs()) {
      DSV3_RETURN_IF_ERROR(
          process(core::CancelInput{id, "the coordinator was told to stop"}).status());
    }
  }
  reply->set_pid(::getpid());
  stop_reason_ = "asked to";
  draining_ = true;
  stop_ = !request.cancel_jobs();
  return {};
}

}  // namespace dsv3::daemon
