// What follows from a fact: an attempt runs, is stopped, has ended; its job completes, is
// cancelled, starts again or fails. See step.h; the policy is restart_policy.h.
#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/restart_policy.h"
#include "coordinator/core/step_work.h"

namespace dsv3::core {

void Step::stop_agents(const Job& job, const std::string& reason) {
  const AgentKey key{job.id, job.attempt->number, ""};
  for (const auto& [node, agent] : job.attempt->agents) {
    AgentKey of_node = key;
    of_node.node = node;
    if (agent.state == AgentState::kConnected) {
      act(ActionType::kSendStop, of_node, grace_ms(job), reason);
    } else if (agent.state == AgentState::kExpected) {
      // Nothing runs under it yet: it isn't waited for.
      act(ActionType::kKillAgent, of_node, 0, reason);
      emit_for_agent(EventType::kAgentLost, of_node, static_cast<int32_t>(Code::kTerminated),
                     "stopped before it connected");
      heard_.erase(of_node);
    }
  }
}

void Step::free_node(const AgentKey& key, bool lost, const std::string& reason) {
  heard_.erase(key);
  const auto node = state_.nodes.find(key.node);
  if (node == state_.nodes.end() || node->second.state != NodeState::kUp) return;
  Event event = make(lost ? EventType::kNodeLost : EventType::kNodeIdle);
  event.node = key.node;
  event.reason = reason;
  emit(std::move(event));
}

// Whatever follows from the newest fact about an attempt: it runs, it must be stopped, it has
// ended.
void Step::conclude_attempt(const std::string& id) {
  const Attempt& attempt = *job(id).attempt;
  bool all_started = true;
  bool all_exited = true;
  bool all_gone = true;
  for (const auto& [node, agent] : attempt.agents) {
    all_gone &= agent.state == AgentState::kDone || agent.state == AgentState::kLost;
    for (const auto& [number, rank] : agent.ranks) {
      all_started &= rank.state != RankState::kPending;
      all_exited &= rank.state == RankState::kExited;
    }
  }
  if (attempt.state == AttemptState::kStarting && all_started && attempt.code == 0) {
    Event event = make(EventType::kJobRunning, id, attempt.number);
    event.reason =
        fmt::format("{} rank{} started", job(id).num_ranks, job(id).num_ranks == 1 ? "" : "s");
    emit(std::move(event));
  }
  if (!is_stopping(attempt) && attempt.code != 0 && !all_gone) {
    Event event = make(EventType::kAttemptStopping, id, attempt.number);
    event.code = attempt.code;
    event.reason = attempt.failure;
    emit(std::move(event));
    stop_agents(job(id), attempt.failure);
    all_gone = std::all_of(attempt.agents.begin(), attempt.agents.end(), [](const auto& entry) {
      return entry.second.state >= AgentState::kDone;
    });
  }
  if (!all_gone) return;
  Event event = make(EventType::kAttemptEnded, id, attempt.number);
  event.code = attempt.code != 0 || all_exited ? attempt.code : static_cast<int32_t>(Code::kFailed);
  event.reason = !attempt.failure.empty() ? attempt.failure
                 : all_exited             ? "all ranks are done"
                                          : "not every rank reported its end";
  emit(std::move(event));
  conclude_job(id);
  pick_jobs();
}

// The attempt has just ended: completed, cancelled, once more, or failed.
void Step::conclude_job(const std::string& id) {
  const Event& ended = out_.events.back();
  const int32_t code = ended.code;
  const std::string why = ended.reason;
  const uint32_t attempt = ended.attempt;
  const auto finish = [&](EventType type, const std::string& reason) {
    Event event = make(type, id, attempt);
    event.code = code;
    event.reason = reason;
    if (type == EventType::kJobRestarting)
      event.not_before_ns = now_.wall_ns + decide_restart(code, attempt).delay_ns;
    emit(std::move(event));
  };
  if (job(id).state == JobState::kStopping) return finish(EventType::kJobCancelled, job(id).reason);
  if (code == 0) return finish(EventType::kJobCompleted, why);
  if (decide_restart(code, attempt).restart) return finish(EventType::kJobRestarting, why);
  finish(EventType::kJobFailed, attempt > 1 ? fmt::format("{} (attempt {})", why, attempt) : why);
}

}  // namespace dsv3::core
