// apply(): check every table that the event concerns and every guard, then change. See state.h and
// STATES.md.
#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/restart_policy.h"
#include "coordinator/core/state.h"

namespace dsv3::core {
namespace {

Status refused(const Event& event, const std::string& why) {
  return Status(Code::kConflict,
                fmt::format("event {} is refused: {}", event_name(event.type), why));
}

template <typename State>
Status check(Machine machine, const char* what, State from, const Event& event) {
  if (next_state(machine, static_cast<uint8_t>(from), event.type)) return {};
  return refused(
      event, fmt::format("the {} is {}", what, state_name(machine, static_cast<uint8_t>(from))));
}

template <typename State>
void move_to(Machine machine, State& state, const Event& event) {
  state = static_cast<State>(*next_state(machine, static_cast<uint8_t>(state), event.type));
}

bool is_agent_event(EventType type) {
  return type == EventType::kAgentConnected || type == EventType::kAgentDone ||
         type == EventType::kAgentLost || type == EventType::kAgentGone ||
         type == EventType::kRankStarted || type == EventType::kRankExited;
}
bool is_rank_event(EventType type) {
  return type == EventType::kRankStarted || type == EventType::kRankExited;
}

// ------------------------------------------------------------------------------------------------
// checks

Status check_submission(const State& state, const Event& event) {
  if (!event.submission) return refused(event, "it has no submission");
  if (event.job.empty() || state.jobs.contains(event.job))
    return refused(event, "the job id is empty or taken");
  return {};
}

// Guards of STATES.md: what must hold of agents and ranks besides the tables.
Status check_guards(const Job& job, const Event& event) {
  const Attempt* attempt = job.attempt ? &*job.attempt : nullptr;
  if (event.type == EventType::kJobRunning) {
    for (const auto& [node, agent] : attempt->agents) {
      for (const auto& [number, rank] : agent.ranks) {
        if (rank.state == RankState::kPending)
          return refused(event, fmt::format("rank {} has not started", number));
      }
    }
  }
  if (event.type == EventType::kAttemptEnded) {
    for (const auto& [node, agent] : attempt->agents) {
      if (agent.state < AgentState::kDone) {
        return refused(event,
                       fmt::format("the agent of {} is {}", node,
                                   state_name(Machine::kAgent, static_cast<uint8_t>(agent.state))));
      }
    }
  }
  const bool ends_job =
      event.type == EventType::kJobCompleted || event.type == EventType::kJobFailed ||
      event.type == EventType::kJobRestarting || event.type == EventType::kJobCancelled;
  if (ends_job && attempt != nullptr && attempt->state != AttemptState::kEnded) {
    return refused(event, fmt::format("attempt {} has not ended", attempt->number));
  }
  return {};
}

Status check_attempt(const Job& job, const Event& event) {
  if (event.type == EventType::kAttemptLaunched) {
    const uint32_t expected = job.attempt ? job.attempt->number + 1 : 1;
    if (event.attempt != expected)
      return refused(event, fmt::format("attempt {} is next", expected));
    if (job.attempt && job.attempt->state != AttemptState::kEnded)
      return refused(event, "the last attempt has not ended");
    if (event.placement.empty()) return refused(event, "it has no placement");
    return {};
  }
  if (!concerns(Machine::kAttempt, event.type)) return {};
  if (!job.attempt || job.attempt->number != event.attempt) {
    return refused(event, fmt::format("{} has no attempt {}", job.id, event.attempt));
  }
  DSV3_RETURN_IF_ERROR(check(Machine::kAttempt, "attempt", job.attempt->state, event));
  if (!is_agent_event(event.type)) return {};
  const auto agent = job.attempt->agents.find(event.node);
  if (agent == job.attempt->agents.end())
    return refused(event, fmt::format("node '{}' is not in the attempt", event.node));
  if (!is_rank_event(event.type))
    return check(Machine::kAgent, "agent", agent->second.state, event);
  if (agent->second.state != AgentState::kConnected)
    return refused(event, "its agent is not connected");
  const auto rank = agent->second.ranks.find(event.rank);
  if (rank == agent->second.ranks.end())
    return refused(event, fmt::format("rank {} is not on this node", event.rank));
  return check(Machine::kRank, "rank", rank->second.state, event);
}

Status check_job(const State& state, const Event& event) {
  if (event.type == EventType::kJobSubmitted) return check_submission(state, event);
  const auto found = state.jobs.find(event.job);
  if (found == state.jobs.end())
    return refused(event, fmt::format("there is no job '{}'", event.job));
  if (concerns(Machine::kJob, event.type)) {
    DSV3_RETURN_IF_ERROR(check(Machine::kJob, "job", found->second.state, event));
  }
  DSV3_RETURN_IF_ERROR(check_attempt(found->second, event));
  return check_guards(found->second, event);
}

Status check_node(const State& state, const Event& event) {
  const auto found = state.nodes.find(event.node);
  const uint8_t from = found == state.nodes.end() ? 0 : static_cast<uint8_t>(found->second.state);
  return check(Machine::kNode, "node", from, event);
}

// ------------------------------------------------------------------------------------------------
// changes

void submit(State& state, const Event& event) {
  Job job;
  job.id = event.job;
  job.number = ++state.jobs_submitted;
  job.submission = *event.submission;
  job.submitted_ns = job.since_ns = event.time_ns;
  job.reason = "waiting for its nodes";
  for (const Placement& p : job.submission.nodes)
    job.num_ranks += static_cast<uint32_t>(p.ranks.size());
  state.jobs.emplace(job.id, std::move(job));
}

void launch(Job& job, const Event& event) {
  Attempt attempt;
  attempt.number = event.attempt;
  attempt.since_ns = event.time_ns;
  attempt.reason = event.reason;
  attempt.checkpoint_before = job.checkpoint_step_max;
  for (const Placement& p : event.placement) {
    Agent& agent = attempt.agents[p.node];
    agent.node = p.node;
    for (const uint32_t rank : p.ranks) agent.ranks[rank] = Rank{};
  }
  job.attempt = std::move(attempt);
  if (job.launched_ns == 0) job.launched_ns = event.time_ns;
}

// From here on it is a job that waits, with its attempts and checkpoints behind it.
void resume(Job& job, const Event& event) {
  if (job.launched_ns != 0) job.launched_ns += event.time_ns - job.ended_ns;
  job.ended_ns = 0;
  job.code = 0;
  job.idle_attempts = 0;
}

// The code by which this event makes its attempt fail; 0 when it doesn't. An agent that is lost
// after all its ranks have been reported took nothing with it. What a rank said wins over its
// agent's word for it.
int32_t failure_code(const Attempt& attempt, const Agent& agent, const Event& event) {
  if (event.type == EventType::kRankExited) return event.code;
  if (event.type == EventType::kAgentDone) return attempt.code == 0 ? event.code : 0;
  if (event.type != EventType::kAgentLost) return 0;
  for (const auto& [number, rank] : agent.ranks) {
    if (rank.state != RankState::kExited) return event.code;
  }
  return 0;
}

std::string failure_text(const Event& event) {
  if (event.type != EventType::kRankExited)
    return fmt::format("the agent on {}: {}", event.node, event.reason);
  const bool by_us = event.signal != 0 && event.code != 128 + event.signal;
  std::string text = by_us ? fmt::format("rank {} was killed by its agent", event.rank)
                     : event.signal != 0
                         ? fmt::format("rank {} was killed by signal {}", event.rank, event.signal)
                         : fmt::format("rank {} ended with code {}", event.rank, event.code);
  if (!event.operation.empty()) text += fmt::format(" in {}", event.operation);
  if (event.step > 0) text += fmt::format(" at step {}", event.step);
  if (!event.reason.empty()) text += ": " + event.reason;
  return text;
}

void change_attempt(Attempt& attempt, const Event& event) {
  const AttemptState before = attempt.state;
  move_to(Machine::kAttempt, attempt.state, event);
  if (attempt.state != before) {
    attempt.since_ns = event.time_ns;
    attempt.reason = event.reason;
  }
  if (!is_agent_event(event.type)) return;
  Agent& agent = attempt.agents[event.node];
  if (!is_rank_event(event.type)) move_to(Machine::kAgent, agent.state, event);
  if (event.type == EventType::kAgentConnected) agent.pid = event.pid;
  if (is_better_cause(attempt.code, failure_code(attempt, agent, event))) {
    attempt.code = event.code;
    attempt.failure = failure_text(event);
  }
  if (!is_rank_event(event.type)) return;
  Rank& rank = agent.ranks[event.rank];
  move_to(Machine::kRank, rank.state, event);
  if (event.type == EventType::kRankStarted) rank.pid = event.pid;
  if (event.type == EventType::kRankExited) rank.exit_code = event.code;
}

void change_job(Job& job, const Event& event) {
  if (event.type == EventType::kJobPlanned) {  // it goes on waiting for what it waited for
    job.why = event.reason;
    return;
  }
  if (event.type == EventType::kAttemptLaunched) launch(job, event);
  if (event.type != EventType::kAttemptLaunched && concerns(Machine::kAttempt, event.type)) {
    change_attempt(*job.attempt, event);
  }
  if (event.type == EventType::kCheckpointDone) {
    job.checkpoint = CheckpointMark{event.step, event.path, event.bytes, event.seconds};
    job.checkpoint_step_max = std::max(job.checkpoint_step_max, event.step);
  }
  if (event.type == EventType::kAttemptEnded) {
    const bool further = job.checkpoint_step_max > job.attempt->checkpoint_before;
    job.idle_attempts = further ? 0 : job.idle_attempts + 1;
  }
  if (!concerns(Machine::kJob, event.type)) return;
  move_to(Machine::kJob, job.state, event);
  job.since_ns = event.time_ns;
  job.reason = event.reason;
  if (event.type == EventType::kJobFailed) job.code = event.code;
  if (event.type == EventType::kJobCancelled) job.code = static_cast<int32_t>(Code::kTerminated);
  if (event.type == EventType::kJobRestarting) ++job.restarts;
  if (event.type == EventType::kJobResumed) resume(job, event);
  if (protocol::is_terminal(job.state)) job.ended_ns = event.time_ns;
}

void change_node(State& state, const Event& event) {
  const auto [found, is_new] = state.nodes.try_emplace(event.node);
  Node& node = found->second;
  const uint8_t from = is_new ? 0 : static_cast<uint8_t>(node.state);
  node.name = event.node;
  node.state = static_cast<NodeState>(*next_state(Machine::kNode, from, event.type));
  node.reason = event.reason;
  node.since_ns = event.time_ns;
  if (event.type == EventType::kNodeUp || event.type == EventType::kNodeFound) {
    node.host = event.host;
    node.devices = event.devices;
  }
}

}  // namespace

Status apply(State& state, const Event& event) {
  if (event.seq != state.last_seq + 1) {
    return refused(event, fmt::format("its seq is {}, {} is next", event.seq, state.last_seq + 1));
  }
  switch (event.type) {
    case EventType::kNone:
      return refused(event, "it has no type");
    case EventType::kCoordinatorStarted:
      state.instance = event.instance;
      break;
    case EventType::kCoordinatorStopped:
    case EventType::kInputRefused:
      break;
    case EventType::kNodeUp:
    case EventType::kNodeIdle:
    case EventType::kNodeLost:
    case EventType::kNodeFound:
      DSV3_RETURN_IF_ERROR(check_node(state, event));
      change_node(state, event);
      break;
    default:
      DSV3_RETURN_IF_ERROR(check_job(state, event));
      if (event.type == EventType::kJobSubmitted) {
        submit(state, event);
      } else {
        change_job(state.jobs.at(event.job), event);
      }
  }
  state.last_seq = event.seq;
  return {};
}

const Job* find_job(const State& state, const std::string& id) {
  const auto found = state.jobs.find(id);
  return found == state.jobs.end() ? nullptr : &found->second;
}

const Attempt* find_live_attempt(const State& state, const std::string& job, uint32_t attempt) {
  const Job* found = find_job(state, job);
  if (found == nullptr || !found->attempt || found->attempt->number != attempt) return nullptr;
  return found->attempt->state == AttemptState::kEnded ? nullptr : &*found->attempt;
}

bool agent_is_live(const State& state, const std::string& job, uint32_t attempt,
                   const std::string& node) {
  const Attempt* found = find_live_attempt(state, job, attempt);
  if (found == nullptr) return false;
  const auto agent = found->agents.find(node);
  return agent != found->agents.end() && (agent->second.state == AgentState::kExpected ||
                                          agent->second.state == AgentState::kConnected);
}

uint32_t num_active_jobs(const State& state) {
  uint32_t count = 0;
  for (const auto& [id, job] : state.jobs) count += protocol::is_terminal(job.state) ? 0 : 1;
  return count;
}

}  // namespace dsv3::core
