// What follows from a fact: an attempt runs, is stopped, has ended; its job completes, is
// cancelled, starts again or fails. See step.h; the policy is restart_policy.h.
#include <fmt/format.h>

#include "coordinator/core/restart_policy.h"
#include "coordinator/core/step_work.h"

namespace dsv3::core {
namespace {

// Why a failure that is usually tried again was not: "attempts 2, 3 and 4 ended …".
std::string gave_up(uint32_t attempt, const std::string& why) {
  std::string numbers;
  for (uint32_t n = attempt + 1 - kIdleAttemptsMax; n < attempt; ++n)
    numbers += fmt::format("{}{}", numbers.empty() ? "" : ", ", n);
  return fmt::format("attempts {} and {} ended without a new checkpoint; last: {}", numbers,
                     attempt, why);
}

}  // namespace

void Step::stop_agents(const Job& job, const std::string& reason) {
  times_.stopping_since[job.id] = now_.steady_ns;
  const AgentKey key{job.id, job.attempt->number, ""};
  for (const auto& [node, agent] : job.attempt->agents) {
    AgentKey of_node = key;
    of_node.node = node;
    if (agent.state == AgentState::kConnected) {
      act(ActionType::kSendStop, of_node, grace_ms(job), reason);
    } else if (agent.state == AgentState::kExpected) {
      // It has started nothing yet, so it has nothing to save.
      lose_agent(of_node, Code::kTerminated, "stopped before it connected");
    }
  }
}

// Given up, and made to end: the launcher says when nothing of it is left.
void Step::lose_agent(const AgentKey& key, Code code, const std::string& reason) {
  act(ActionType::kKillAgent, key, 0, reason);
  emit_for_agent(EventType::kAgentLost, key, static_cast<int32_t>(code), reason);
  hear(key);
}

void Step::free_node(const AgentKey& key, bool lost, const std::string& reason) {
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
    all_gone &= agent.state == AgentState::kGone;
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
  }
  if (!all_gone) return;
  Event event = make(EventType::kAttemptEnded, id, attempt.number);
  event.code = attempt.code != 0 || all_exited ? attempt.code : static_cast<int32_t>(Code::kFailed);
  event.reason = !attempt.failure.empty() ? attempt.failure
                 : all_exited             ? "all ranks are done"
                                          : "not every rank reported its end";
  emit(std::move(event));
  times_.stopping_since.erase(id);
  conclude_job(id);
  pick_jobs();
}

// The attempt has just ended: completed, cancelled, once more, or failed.
void Step::conclude_job(const std::string& id) {
  const Event& ended = out_.events.back();
  const int32_t code = ended.code;
  const std::string why = ended.reason;
  const uint32_t attempt = ended.attempt;
  const auto finish = [&](EventType type, const std::string& reason, int64_t delay_ns = 0) {
    Event event = make(type, id, attempt);
    event.code = code;
    event.reason = reason;
    if (type == EventType::kJobRestarting) event.not_before_ns = now_.wall_ns + delay_ns;
    emit(std::move(event));
  };
  times_.stop_grace_ms.erase(id);
  if (job(id).state == JobState::kStopping) return finish(EventType::kJobCancelled, job(id).reason);
  if (code == 0) return finish(EventType::kJobCompleted, why);
  const RestartDecision next = decide_restart(code, job(id).idle_attempts);
  if (next.restart) {
    times_.not_before[id] = now_.steady_ns + next.delay_ns;
    return finish(EventType::kJobRestarting, why, next.delay_ns);
  }
  if (is_retryable(code)) return finish(EventType::kJobFailed, gave_up(attempt, why));
  finish(EventType::kJobFailed, attempt > 1 ? fmt::format("{} (attempt {})", why, attempt) : why);
}

}  // namespace dsv3::core
