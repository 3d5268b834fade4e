// Names of states, and the proof that the numbers are those of dsv3.proto; see states.h.
#include "coordinator/protocol/states.h"

#include <array>

#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::protocol {
namespace {

struct NamedState {
  JobState state;
  wire::JobState wire_state;
  std::string_view name;
};

constexpr std::array<NamedState, 9> kJobStates = {{
    {JobState::kQueued, wire::QUEUED, "QUEUED"},
    {JobState::kPlanning, wire::PLANNING, "PLANNING"},
    {JobState::kLaunching, wire::LAUNCHING, "LAUNCHING"},
    {JobState::kRunning, wire::RUNNING, "RUNNING"},
    {JobState::kStopping, wire::STOPPING, "STOPPING"},
    {JobState::kRestarting, wire::RESTARTING, "RESTARTING"},
    {JobState::kCompleted, wire::COMPLETED, "COMPLETED"},
    {JobState::kFailed, wire::FAILED, "FAILED"},
    {JobState::kCancelled, wire::CANCELLED, "CANCELLED"},
}};

constexpr bool numbers_agree() {
  for (const NamedState& s : kJobStates) {
    if (static_cast<int>(s.state) != static_cast<int>(s.wire_state)) return false;
  }
  return static_cast<int>(NodeState::kIdle) == static_cast<int>(wire::NODE_IDLE) &&
         static_cast<int>(NodeState::kUp) == static_cast<int>(wire::NODE_UP) &&
         static_cast<int>(NodeState::kLost) == static_cast<int>(wire::NODE_LOST);
}
static_assert(numbers_agree());

}  // namespace

std::string_view job_state_name(JobState state) {
  for (const NamedState& s : kJobStates) {
    if (s.state == state) return s.name;
  }
  return "UNKNOWN";
}

std::optional<JobState> job_state_from_name(std::string_view name) {
  for (const NamedState& s : kJobStates) {
    if (s.name == name) return s.state;
  }
  return std::nullopt;
}

std::string_view node_state_name(NodeState state) {
  switch (state) {
    case NodeState::kIdle:
      return "IDLE";
    case NodeState::kUp:
      return "UP";
    case NodeState::kLost:
      return "LOST";
  }
  return "UNKNOWN";
}

}  // namespace dsv3::protocol
