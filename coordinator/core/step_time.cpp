// What follows from time: waiting jobs are launched, silent agents are given up, a restarted
// coordinator finds its agents. See step.h.
#include <algorithm>
#include <vector>

#include "coordinator/core/step_work.h"

namespace dsv3::core {

bool Step::nodes_are_free(const Job& job) const {
  for (const auto& [id, other] : state_.jobs) {
    if (id == job.id || !other.attempt) continue;
    // A job that is about to be tried again keeps its nodes.
    const bool keeps = other.state == JobState::kRestarting &&
                       (job.state != JobState::kRestarting || other.number < job.number);
    if (other.attempt->state == AttemptState::kEnded && !keeps) continue;
    for (const Placement& p : job.submission.nodes) {
      if (other.attempt->agents.contains(p.node)) return false;
    }
  }
  return true;
}

void Step::pick_jobs() {
  std::vector<const Job*> waiting;
  for (const auto& [id, job] : state_.jobs) {
    if (job.state == JobState::kQueued || job.state == JobState::kRestarting)
      waiting.push_back(&job);
  }
  std::sort(waiting.begin(), waiting.end(),
            [](const Job* a, const Job* b) { return a->number < b->number; });
  for (const Job* job : waiting) {
    const auto due = times_.not_before.find(job->id);
    if (due != times_.not_before.end() && now_.steady_ns < due->second) continue;
    if (nodes_are_free(*job)) launch(job->id);
  }
}

void Step::launch(const std::string& id) {
  times_.not_before.erase(id);
  Event picked = make(EventType::kJobPicked, id);
  picked.reason = "its nodes are free";
  emit(std::move(picked));
  const uint32_t number = job(id).attempt ? job(id).attempt->number + 1 : 1;
  Event launched = make(EventType::kAttemptLaunched, id, number);
  launched.placement = job(id).submission.nodes;
  launched.reason = "waiting for its agents";
  emit(std::move(launched));
  for (const Placement& p : job(id).submission.nodes) {
    const AgentKey key{id, number, p.node};
    hear(key);
    act(ActionType::kStartAgent, key);
  }
}

void Step::check_silence(const std::string& id) {
  const Attempt& attempt = *job(id).attempt;
  const int64_t stop_ns = int64_t{grace_ms(job(id))} * 1'000'000 + limits_.stop_slack_ns;
  const bool overdue =
      is_stopping(attempt) &&
      now_.steady_ns - times_.stopping_since.try_emplace(id, now_.steady_ns).first->second >
          stop_ns;
  std::vector<AgentKey> lost;
  for (const auto& [node, agent] : attempt.agents) {
    if (agent.state == AgentState::kGone) continue;
    const AgentKey key{id, attempt.number, node};
    const int64_t limit_ns =
        agent.state == AgentState::kExpected ? limits_.agent_start_ns : limits_.agent_silence_ns;
    const int64_t heard_ns = times_.heard.try_emplace(key, now_.steady_ns).first->second;
    const bool silent = now_.steady_ns - heard_ns > limit_ns;
    if (agent.state >= AgentState::kDone) {
      // It has said its last word, and its process is still there.
      if (silent) act(ActionType::kKillAgent, key, 0, "it did not end");
      if (silent) hear(key);
    } else if (overdue || silent) {
      lost.push_back(key);
    }
  }
  if (lost.empty()) return;
  for (const AgentKey& key : lost) {
    const Agent& agent = attempt.agents.at(key.node);
    const std::string reason = overdue ? "it did not end when asked to"
                               : agent.state == AgentState::kExpected
                                   ? "it was not heard after its start"
                                   : "it has not been heard for too long";
    const Code code = agent.state == AgentState::kExpected ? Code::kTemporary : Code::kPeerLost;
    lose_agent(key, code, reason);
    free_node(key, true, reason);
  }
  conclude_attempt(id);
}

void Step::operator()(const TickInput&) {
  std::vector<std::string> live;
  for (const auto& [id, job] : state_.jobs) {
    if (job.attempt && job.attempt->state != AttemptState::kEnded) live.push_back(id);
  }
  for (const std::string& id : live) check_silence(id);
  pick_jobs();
}

void Step::operator()(const NodeFoundInput& in) {
  const auto known = state_.nodes.find(in.node);
  if (known != state_.nodes.end()) {
    const Node& node = known->second;
    if (node.state == NodeState::kUp) return;
    if (node.state == NodeState::kIdle && node.devices == in.devices) return;
  }
  Event event = make(EventType::kNodeFound);
  event.node = in.node;
  event.host = in.host;
  event.devices = in.devices;
  event.reason = "nothing of ours runs on it";
  emit(std::move(event));
}

void Step::operator()(const StartedInput& in) {
  Event event = make(EventType::kCoordinatorStarted);
  event.instance = in.instance;
  event.pid = in.pid;
  emit(std::move(event));
  times_ = {};
  for (const auto& [id, job] : state_.jobs) {
    if (!protocol::is_terminal(job.state)) act(ActionType::kWriteJobFiles, {id, 0, ""});
    if (!job.attempt || job.attempt->state == AttemptState::kEnded) continue;
    for (const auto& [node, agent] : job.attempt->agents) {
      const AgentKey key{id, job.attempt->number, node};
      // An agent that is there has until readopt_ns to come back; one that was only asked for is
      // asked for again.
      times_.heard[key] = now_.steady_ns + limits_.readopt_ns - limits_.agent_silence_ns;
      if (agent.state == AgentState::kExpected) act(ActionType::kStartAgent, key);
      if (agent.state == AgentState::kLost) act(ActionType::kKillAgent, key, 0, "it was given up");
    }
  }
}

void Step::operator()(const StoppedInput& in) {
  Event event = make(EventType::kCoordinatorStopped);
  event.instance = state_.instance;
  event.reason = in.reason;
  emit(std::move(event));
}

}  // namespace dsv3::core
