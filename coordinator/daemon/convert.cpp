// See convert.h.
#include "coordinator/daemon/convert.h"

namespace dsv3::daemon {

core::Submission to_submission(const wire::SubmitRequest& request) {
  core::Submission s;
  s.name = request.name();
  s.spec_yaml = request.spec_yaml();
  s.plan_json = request.plan_json();
  s.launcher = request.launcher();
  s.request_key = request.request_key();
  s.layout_json = request.layout_json();
  s.working_dir = request.working_dir();
  s.max_steps = request.max_steps();
  for (const wire::NodePlacement& p : request.nodes()) {
    s.nodes.push_back({p.node(), {p.ranks().begin(), p.ranks().end()}});
  }
  return s;
}

void to_job_status(const core::Job& job, const std::string& job_dir, wire::JobStatus* status) {
  status->set_id(job.id);
  status->set_name(job.submission.name);
  status->set_state(static_cast<wire::JobState>(job.state));
  status->set_reason(job.reason);
  status->set_since_unix_ns(job.since_ns);
  status->set_attempt(job.attempt ? job.attempt->number : 0);
  status->set_restarts(job.restarts);
  status->set_max_steps(job.submission.max_steps);
  status->set_layout_json(job.submission.layout_json);
  status->set_num_ranks(job.num_ranks);
  status->set_submitted_unix_ns(job.submitted_ns);
  if (job.ended_ns != 0) status->set_ended_unix_ns(job.ended_ns);
  status->set_exit_code(job.code);
  status->set_launcher(job.submission.launcher);
  status->set_job_dir(job_dir);
  status->set_working_dir(job.submission.working_dir);
  status->set_why(job.why);
  if (job.checkpoint) {
    status->mutable_checkpoint()->set_step(job.checkpoint->step);
    status->mutable_checkpoint()->set_path(job.checkpoint->path);
    status->mutable_checkpoint()->set_bytes(job.checkpoint->bytes);
    status->mutable_checkpoint()->set_seconds(job.checkpoint->seconds);
  }
}

void to_node_status(const core::Node& node, wire::NodeStatus* status) {
  status->set_name(node.name);
  status->set_state(static_cast<wire::NodeState>(node.state));
  status->set_reason(node.reason);
  status->set_since_unix_ns(node.since_ns);
  for (const core::Device& d : node.devices) {
    wire::Device* device = status->add_devices();
    device->set_kind(d.kind);
    device->set_name(d.name);
    device->set_uuid(d.uuid);
    device->set_memory_bytes(d.memory_bytes);
  }
}

core::AgentHelloInput to_hello(const wire::AgentHello& hello) {
  core::AgentHelloInput in;
  in.key = agent_key(hello);
  in.host = hello.host();
  in.pid = hello.pid();
  in.ranks_started = hello.ranks_started();
  for (const wire::Device& d : hello.devices())
    in.devices.push_back({d.kind(), d.name(), d.uuid(), d.memory_bytes()});
  return in;
}

core::RankExitedInput to_rank_exited(const core::AgentKey& key, uint32_t rank,
                                     const wire::RankExited& exited) {
  core::RankExitedInput in;
  in.key = key;
  in.rank = rank;
  // A signal that was our own explains nothing: see restart_policy.h.
  in.code = exited.killed_by_agent() ? static_cast<int32_t>(Code::kTerminated) : exited.exit_code();
  in.signal = exited.signal();
  in.operation = exited.report().operation();
  in.reason = exited.report().message();
  in.step = exited.report().step();
  return in;
}

core::CheckpointDoneInput to_checkpoint_done(const core::AgentKey& key,
                                             const wire::Checkpoint& checkpoint) {
  return {key, {checkpoint.step(), checkpoint.path(), checkpoint.bytes(), checkpoint.seconds()}};
}

}  // namespace dsv3::daemon
