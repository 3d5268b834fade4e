// Between the wire's messages and the core's values: one function per pair, nothing decided here.
#pragma once

#include <string>

#include "coordinator/core/state.h"
#include "coordinator/core/step.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::daemon {

core::Submission to_submission(const wire::SubmitRequest& request);
// What the state knows of a job; the metrics' part is store::Reader::fill_progress.
void to_job_status(const core::Job& job, const std::string& job_dir, wire::JobStatus* status);
void to_node_status(const core::Node& node, wire::NodeStatus* status);

template <typename Message>
core::AgentKey agent_key(const Message& message) {
  return {message.job(), message.attempt(), message.node()};
}
core::AgentHelloInput to_hello(const wire::AgentHello& hello);
core::RankExitedInput to_rank_exited(const core::AgentKey& key, uint32_t rank,
                                     const wire::RankExited& exited);
core::CheckpointDoneInput to_checkpoint_done(const core::AgentKey& key,
                                             const wire::Checkpoint& checkpoint);

}  // namespace dsv3::daemon
