// The states of jobs and nodes, by number and by name: one home for the store, the wire, the core
// and the CLI.
//
// Law: numbers are those of dsv3.proto (checked in states.cpp) and frozen; names are those of
// CLI.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace dsv3::protocol {

enum class JobState : uint8_t {
  kQueued = 1,
  kPlanning = 2,
  kLaunching = 3,
  kRunning = 4,
  kStopping = 5,
  kRestarting = 6,
  kCompleted = 7,
  kFailed = 8,
  kCancelled = 9,
};

enum class NodeState : uint8_t { kIdle = 1, kUp = 2, kLost = 3 };

// "QUEUED" …; "UNKNOWN" for a number that is none.
std::string_view job_state_name(JobState state);
std::optional<JobState> job_state_from_name(std::string_view name);
// "IDLE", "UP", "LOST".
std::string_view node_state_name(NodeState state);

// COMPLETED, FAILED and CANCELLED: nothing follows, unless a user resumes one of the last two.
constexpr bool is_terminal(JobState state) {
  return state >= JobState::kCompleted;
}

}  // namespace dsv3::protocol
