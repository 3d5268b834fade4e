// What agents and the launcher say. Everything from outside is checked against the tables before it
// becomes an event. See step.h.
#include <fmt/format.h>

#include <cmath>

#include "coordinator/core/step_work.h"

namespace dsv3::core {

void Step::operator()(const AgentHelloInput& in) {
  if (!is_live(in.key)) return;
  const Attempt& attempt = *find_live_attempt(state_, in.key.job, in.key.attempt);
  const Agent& agent = attempt.agents.at(in.key.node);
  if (agent.state == AgentState::kExpected) {
    Event event = make(EventType::kAgentConnected, in.key.job, in.key.attempt);
    event.node = in.key.node;
    event.host = in.host;
    event.pid = in.pid;
    emit(std::move(event));
    const auto node = state_.nodes.find(in.key.node);
    if (node == state_.nodes.end() || node->second.state != NodeState::kUp) {
      Event up = make(EventType::kNodeUp);
      up.node = in.key.node;
      up.host = in.host;
      up.devices = in.devices;
      up.reason = "runs " + in.key.job;
      emit(std::move(up));
    }
  } else if (agent.pid != in.pid) {
    // Two processes for one key: the one that was there first stays.
    out_.status = Status(Code::kConflict, fmt::format("process {} is the agent of '{}' on '{}'",
                                                      agent.pid, in.key.job, in.key.node));
    act(ActionType::kDismissAgent, in.key, 0, out_.status.message());
    return;
  }
  hear(in.key);
  if (is_stopping(attempt)) {
    act(ActionType::kSendStop, in.key, grace_ms(job(in.key.job)), attempt.reason);
  } else {
    act(in.ranks_started ? ActionType::kSendAck : ActionType::kSendLaunch, in.key);
  }
}

void Step::operator()(const AgentHeartbeatInput& in) {
  if (!is_live(in.key)) return;
  const Agent& agent =
      find_live_attempt(state_, in.key.job, in.key.attempt)->agents.at(in.key.node);
  if (agent.state == AgentState::kExpected) {
    Event event = make(EventType::kInputRefused, in.key.job, in.key.attempt);
    event.node = in.key.node;
    event.reason = "a heartbeat before the hello";
    emit(std::move(event));
    return;
  }
  hear(in.key);
  act(ActionType::kSendAck, in.key);
  // A stop can be lost with a connection; for an agent that has it, another one changes nothing.
  const Attempt& attempt = *find_live_attempt(state_, in.key.job, in.key.attempt);
  if (is_stopping(attempt))
    act(ActionType::kSendStop, in.key, grace_ms(job(in.key.job)), attempt.reason);
}

void Step::operator()(const RankStartedInput& in) {
  if (!is_live(in.key)) return;
  hear(in.key);
  Event event = make(EventType::kRankStarted, in.key.job, in.key.attempt);
  event.node = in.key.node;
  event.rank = in.rank;
  event.pid = in.pid;
  if (offer(std::move(event))) conclude_attempt(in.key.job);
}

void Step::operator()(const RankExitedInput& in) {
  if (!is_live(in.key)) return;
  hear(in.key);
  Event event = make(EventType::kRankExited, in.key.job, in.key.attempt);
  event.node = in.key.node;
  event.rank = in.rank;
  event.code = in.code;
  event.signal = in.signal;
  event.operation = in.operation;
  event.reason = in.reason;
  event.step = in.step;
  if (offer(std::move(event))) conclude_attempt(in.key.job);
}

void Step::operator()(const AgentDoneInput& in) {
  if (!is_live(in.key)) return;
  hear(in.key);
  Event event = make(EventType::kAgentDone, in.key.job, in.key.attempt);
  event.node = in.key.node;
  event.code = in.code;
  event.reason = in.reason;
  // The attempt is over when the agent's process is.
  (void)offer(std::move(event));
}

void Step::operator()(const AgentGoneInput& in) {
  const Attempt* attempt = find_live_attempt(state_, in.key.job, in.key.attempt);
  if (attempt == nullptr)
    return;  // the launcher also sees agents end whose attempt is over: nothing to add
  const auto agent = attempt->agents.find(in.key.node);
  if (agent == attempt->agents.end() || agent->second.state == AgentState::kGone) return;
  if (agent->second.state < AgentState::kDone) {
    const int32_t code = in.code != 0 ? in.code : static_cast<int32_t>(Code::kPeerLost);
    emit_for_agent(EventType::kAgentLost, in.key, code, in.reason);
  }
  Event gone = make(EventType::kAgentGone, in.key.job, in.key.attempt);
  gone.node = in.key.node;
  gone.reason = in.reason;
  emit(std::move(gone));
  times_.heard.erase(in.key);
  free_node(in.key, false, "nothing of ours runs on it");
  conclude_attempt(in.key.job);
}

void Step::operator()(const CheckpointDoneInput& in) {
  if (!is_live(in.key)) return;
  hear(in.key);
  Event event = make(EventType::kCheckpointDone, in.key.job, in.key.attempt);
  event.step = in.checkpoint.step;
  event.path = in.checkpoint.path;
  event.bytes = in.checkpoint.bytes;
  // A number that JSON can't hold would be another one after a replay.
  event.seconds = std::isfinite(in.checkpoint.seconds) ? in.checkpoint.seconds : 0;
  (void)offer(std::move(event));
}

void Step::operator()(const NoteInput& in) {
  if (!is_live(in.key)) return;
  hear(in.key);
  Event event = make(EventType::kNote, in.key.job, in.key.attempt);
  event.rank = in.rank;
  event.reason = in.text;
  (void)offer(std::move(event));
}

}  // namespace dsv3::core
