// The tables; see transitions.h. Read them beside STATES.md.
#include "coordinator/core/transitions.h"

#include <array>

namespace dsv3::core {
namespace {

using E = EventType;

template <typename State>
constexpr Transition cell(State from, E event, State to) {
  return {static_cast<uint8_t>(from), event, static_cast<uint8_t>(to)};
}
template <typename State>
constexpr Transition first(E event, State to) {
  return {0, event, static_cast<uint8_t>(to)};
}

using J = JobState;
constexpr std::array kJob = {
    first(E::kJobSubmitted, J::kQueued),
    cell(J::kQueued, E::kJobPlanned, J::kQueued),
    cell(J::kQueued, E::kJobPicked, J::kPlanning),
    cell(J::kQueued, E::kJobCancelled, J::kCancelled),
    cell(J::kPlanning, E::kAttemptLaunched, J::kLaunching),
    cell(J::kPlanning, E::kJobCancelled, J::kCancelled),
    cell(J::kLaunching, E::kJobRunning, J::kRunning),
    cell(J::kLaunching, E::kJobStopping, J::kStopping),
    cell(J::kLaunching, E::kJobRestarting, J::kRestarting),
    cell(J::kLaunching, E::kJobFailed, J::kFailed),
    cell(J::kRunning, E::kJobStopping, J::kStopping),
    cell(J::kRunning, E::kJobRestarting, J::kRestarting),
    cell(J::kRunning, E::kJobCompleted, J::kCompleted),
    cell(J::kRunning, E::kJobFailed, J::kFailed),
    cell(J::kStopping, E::kJobCancelled, J::kCancelled),
    cell(J::kRestarting, E::kJobPicked, J::kPlanning),
    cell(J::kRestarting, E::kJobCancelled, J::kCancelled),
    cell(J::kFailed, E::kJobResumed, J::kQueued),
    cell(J::kCancelled, E::kJobResumed, J::kQueued),
};

using A = AttemptState;
constexpr std::array kAttempt = {
    first(E::kAttemptLaunched, A::kStarting),
    cell(A::kStarting, E::kAgentConnected, A::kStarting),
    cell(A::kStarting, E::kRankStarted, A::kStarting),
    cell(A::kStarting, E::kRankExited, A::kStarting),
    cell(A::kStarting, E::kJobRunning, A::kRunning),
    cell(A::kStarting, E::kJobStopping, A::kStopping),
    cell(A::kStarting, E::kAttemptStopping, A::kStopping),
    cell(A::kStarting, E::kAgentDone, A::kStarting),
    cell(A::kStarting, E::kAgentLost, A::kStarting),
    cell(A::kStarting, E::kAgentGone, A::kStarting),
    cell(A::kStarting, E::kAttemptEnded, A::kEnded),
    cell(A::kStarting, E::kCheckpointDone, A::kStarting),
    cell(A::kStarting, E::kNote, A::kStarting),
    cell(A::kRunning, E::kRankExited, A::kRunning),
    cell(A::kRunning, E::kJobStopping, A::kStopping),
    cell(A::kRunning, E::kAttemptStopping, A::kStopping),
    cell(A::kRunning, E::kAgentDone, A::kRunning),
    cell(A::kRunning, E::kAgentLost, A::kRunning),
    cell(A::kRunning, E::kAgentGone, A::kRunning),
    cell(A::kRunning, E::kAttemptEnded, A::kEnded),
    cell(A::kRunning, E::kCheckpointRequested, A::kRunning),
    cell(A::kRunning, E::kCheckpointDone, A::kRunning),
    cell(A::kRunning, E::kNote, A::kRunning),
    cell(A::kStopping, E::kAgentConnected, A::kStopping),
    cell(A::kStopping, E::kRankStarted, A::kStopping),
    cell(A::kStopping, E::kRankExited, A::kStopping),
    cell(A::kStopping, E::kJobStopping, A::kStopping),
    cell(A::kStopping, E::kAgentDone, A::kStopping),
    cell(A::kStopping, E::kAgentLost, A::kStopping),
    cell(A::kStopping, E::kAgentGone, A::kStopping),
    cell(A::kStopping, E::kAttemptEnded, A::kEnded),
    cell(A::kStopping, E::kCheckpointDone, A::kStopping),
    cell(A::kStopping, E::kNote, A::kStopping),
};

using G = AgentState;
constexpr std::array kAgent = {
    first(E::kAttemptLaunched, G::kExpected),
    cell(G::kExpected, E::kAgentConnected, G::kConnected),
    cell(G::kExpected, E::kAgentLost, G::kLost),
    cell(G::kConnected, E::kAgentDone, G::kDone),
    cell(G::kConnected, E::kAgentLost, G::kLost),
    cell(G::kDone, E::kAgentGone, G::kGone),
    cell(G::kLost, E::kAgentGone, G::kGone),
};

using R = RankState;
constexpr std::array kRank = {
    first(E::kAttemptLaunched, R::kPending),
    cell(R::kPending, E::kRankStarted, R::kStarted),
    cell(R::kPending, E::kRankExited, R::kExited),
    cell(R::kStarted, E::kRankExited, R::kExited),
};

using N = NodeState;
constexpr std::array kNode = {
    first(E::kNodeUp, N::kUp),
    first(E::kNodeFound, N::kIdle),
    cell(N::kIdle, E::kNodeFound, N::kIdle),
    cell(N::kLost, E::kNodeFound, N::kIdle),
    cell(N::kIdle, E::kNodeUp, N::kUp),
    cell(N::kUp, E::kNodeIdle, N::kIdle),
    cell(N::kUp, E::kNodeLost, N::kLost),
    cell(N::kLost, E::kNodeUp, N::kUp),
};

constexpr std::array<std::string_view, 10> kJobNames = {
    "NONE",     "QUEUED",     "PLANNING",  "LAUNCHING", "RUNNING",
    "STOPPING", "RESTARTING", "COMPLETED", "FAILED",    "CANCELLED"};
constexpr std::array<std::string_view, 5> kAttemptNames = {"NONE", "STARTING", "RUNNING",
                                                           "STOPPING", "ENDED"};
constexpr std::array<std::string_view, 6> kAgentNames = {"NONE", "EXPECTED", "CONNECTED",
                                                         "DONE", "LOST",     "GONE"};
constexpr std::array<std::string_view, 4> kRankNames = {"NONE", "PENDING", "STARTED", "EXITED"};
constexpr std::array<std::string_view, 4> kNodeNames = {"NONE", "IDLE", "UP", "LOST"};

std::span<const std::string_view> names(Machine machine) {
  switch (machine) {
    case Machine::kJob:
      return kJobNames;
    case Machine::kAttempt:
      return kAttemptNames;
    case Machine::kAgent:
      return kAgentNames;
    case Machine::kRank:
      return kRankNames;
    case Machine::kNode:
      return kNodeNames;
  }
  return {};
}

}  // namespace

std::span<const Transition> transitions(Machine machine) {
  switch (machine) {
    case Machine::kJob:
      return kJob;
    case Machine::kAttempt:
      return kAttempt;
    case Machine::kAgent:
      return kAgent;
    case Machine::kRank:
      return kRank;
    case Machine::kNode:
      return kNode;
  }
  return {};
}

std::optional<uint8_t> next_state(Machine machine, uint8_t from, EventType event) {
  for (const Transition& t : transitions(machine)) {
    if (t.from == from && t.event == event) return t.to;
  }
  return std::nullopt;
}

bool concerns(Machine machine, EventType event) {
  for (const Transition& t : transitions(machine)) {
    if (t.event == event) return true;
  }
  return false;
}

std::string_view state_name(Machine machine, uint8_t state) {
  const auto all = names(machine);
  return state < all.size() ? all[state] : "UNKNOWN";
}

uint8_t num_states(Machine machine) {
  return static_cast<uint8_t>(names(machine).size() - 1);
}

}  // namespace dsv3::core
