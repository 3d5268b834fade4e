// The transition tables of job, attempt, agent, rank and node, as data. STATES.md prints the same
// tables; a test compares them.
//
// Law: a (state, event) pair that isn't listed is refused: there is no default and nothing is
// ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "coordinator/core/event.h"
#include "coordinator/protocol/states.h"

namespace dsv3::core {

using protocol::JobState;
using protocol::NodeState;

enum class AttemptState : uint8_t { kStarting = 1, kRunning = 2, kStopping = 3, kEnded = 4 };
enum class AgentState : uint8_t { kExpected = 1, kConnected = 2, kDone = 3, kLost = 4, kGone = 5 };
enum class RankState : uint8_t { kPending = 1, kStarted = 2, kExited = 3 };

// The machines, named as in STATES.md.
enum class Machine : uint8_t { kJob, kAttempt, kAgent, kRank, kNode };

// One cell: in state `from` (0: the thing does not exist yet) the event leads to `to`.
struct Transition {
  uint8_t from;
  EventType event;
  uint8_t to;
};

// All listed cells of a machine.
std::span<const Transition> transitions(Machine machine);
// The next state, or nullopt when the pair isn't listed.
std::optional<uint8_t> next_state(Machine machine, uint8_t from, EventType event);
// True when the machine has a column for this event.
bool concerns(Machine machine, EventType event);
// The state's name as in STATES.md; "NONE" for 0.
std::string_view state_name(Machine machine, uint8_t state);
// States are numbered 1 … num_states(machine).
uint8_t num_states(Machine machine);

}  // namespace dsv3::core
