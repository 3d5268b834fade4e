// step(): the whole decision of the coordinator. An input and the time go in; events to persist and
// actions to do come out.
//
// Law: pure (no I/O, no clock, no thread). The state is advanced by apply() of exactly the events
// that are returned, in that order. The caller persists the events before it does an action or
// sends a reply. Actions are idempotent: doing one twice, or again after a crash, is harmless. An
// input that no table lists becomes input_refused or an error, never silence.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "base/status.h"
#include "coordinator/core/event.h"
#include "coordinator/core/state.h"

namespace dsv3::core {

struct Now {
  int64_t wall_ns = 0;    // Unix; goes into events
  int64_t steady_ns = 0;  // for silence
};

// Times of the liveness rules; tests shorten them.
struct Limits {
  int64_t agent_start_ns = 60'000'000'000;    // from a launch to the agent's hello
  int64_t agent_silence_ns = 10'000'000'000;  // between two signs of life
  int64_t readopt_ns = 30'000'000'000;  // for agents to come back after the coordinator's restart
  // For ranks to end when asked, then SIGKILL by the agent: when the user stops the job (they write
  // a checkpoint first), and for the rest of a gang that has lost a rank.
  uint32_t stop_grace_ms = 30'000;
  uint32_t fail_grace_ms = 2'000;
  int64_t stop_slack_ns = 10'000'000'000;  // beyond the grace: then the launcher kills the agent
};

// ------------------------------------------------------------------------------------------------
// inputs

struct SubmitInput {
  Submission submission;
  std::string why = {};  // what was chosen for it and why; "": nothing to say
};
struct CancelInput {
  std::string job;
  std::string reason;
  std::optional<uint32_t> grace_ms = std::nullopt;  // for its ranks; absent: Limits::stop_grace_ms
};
// A job that failed or was cancelled goes on from its newest checkpoint.
struct ResumeInput {
  std::string job;
};
struct CheckpointNowInput {
  std::string job;
};
struct AgentKey {
  std::string job;
  uint32_t attempt = 0;
  std::string node;
  auto operator<=>(const AgentKey&) const = default;
};
struct AgentHelloInput {
  AgentKey key;
  std::string host;
  int64_t pid = 0;
  bool ranks_started = false;
  std::vector<Device> devices;
};
struct AgentHeartbeatInput {
  AgentKey key;
};
struct RankStartedInput {
  AgentKey key;
  uint32_t rank = 0;
  int64_t pid = 0;
};
struct RankExitedInput {
  AgentKey key;
  uint32_t rank = 0;
  int32_t code = 0;
  int32_t signal = 0;
  std::string operation;
  std::string reason;
  int64_t step = 0;
};
struct AgentDoneInput {
  AgentKey key;
  int32_t code = 0;
  std::string reason;
};
// The launcher could not start the agent, or made sure that no process of it is left. `code`: how
// the agent ended, 0 when that isn't known.
struct AgentGoneInput {
  AgentKey key;
  int32_t code = 0;
  std::string reason;
};
struct CheckpointDoneInput {
  AgentKey key;
  CheckpointMark checkpoint;
};
struct NoteInput {
  AgentKey key;
  uint32_t rank = 0;
  std::string text;
};
// A machine was looked at: this one, at the start.
struct NodeFoundInput {
  std::string node;
  std::string host;
  std::vector<Device> devices;
};
struct TickInput {};
// First input after the log was replayed.
struct StartedInput {
  std::string instance;
  int64_t pid = 0;
};
struct StoppedInput {
  std::string reason;
};

using Input = std::variant<SubmitInput, CancelInput, ResumeInput, CheckpointNowInput,
                           AgentHelloInput, AgentHeartbeatInput, RankStartedInput, RankExitedInput,
                           AgentDoneInput, AgentGoneInput, CheckpointDoneInput, NoteInput,
                           TickInput, NodeFoundInput, StartedInput, StoppedInput>;

// ------------------------------------------------------------------------------------------------
// results

enum class ActionType : uint8_t {
  kWriteJobFiles = 1,  // jobs/<id>/{spec.yaml, plan.json}
  kStartAgent = 2,     // ask the launcher
  kSendLaunch = 3,     // LaunchRanks
  kSendStop = 4,       // StopRanks
  kSendCheckpoint = 5,
  kSendAck = 6,       // HeartbeatAck
  kDismissAgent = 7,  // AgentDismiss to the sender of the input
  kKillAgent = 8,     // ask the launcher to end it for certain
};

struct Action {
  ActionType type;
  AgentKey agent;  // node "" where the action concerns the job
  uint32_t grace_ms = 0;
  std::string reason;
  bool operator==(const Action&) const = default;
};

struct Decision {
  Status status;  // not ok: the requester's error; events may still have been made (input_refused)
  std::vector<Event> events;
  std::vector<Action> actions;
  std::string job;       // of a submit
  bool created = false;  // of a submit: false when the request_key was known
};

// What is measured with the monotonic clock (steady ns). Not part of the state: lost at a restart,
// and set anew by StartedInput.
struct Times {
  std::map<AgentKey, int64_t> heard;              // of each agent that is not GONE, the last time
  std::map<std::string, int64_t> not_before;      // of RESTARTING jobs; absent: at once
  std::map<std::string, int64_t> stopping_since;  // of jobs whose attempt is STOPPING
  std::map<std::string, uint32_t> stop_grace_ms;  // of a cancel that said it
};

Decision step(State& state, Times& times, const Input& input, const Now& now, const Limits& limits);

// Job ids, node names: letters, digits, '.', '_', '-', at most 128, not first a '-' or '.'.
bool is_plain_name(const std::string& name);
// "My Demo" and 3 → "my-demo-3".
std::string make_job_id(const std::string& name, uint32_t number);

}  // namespace dsv3::core
