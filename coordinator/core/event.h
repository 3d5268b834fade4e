// Events: the facts that the coordinator's state consists of. The dictionary (every type, its
// fields, its meaning) is in STATES.md.
//
// Law: type numbers and names are frozen, because logs of past releases are replayed. An event
// carries only the fields that the dictionary lists for its type; a field it doesn't list is not
// written, and reading back gives the same event.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace dsv3::core {

enum class EventType : uint8_t {
  kNone = 0,
  kCoordinatorStarted = 1,
  kCoordinatorStopped = 2,
  kJobSubmitted = 10,
  kJobPicked = 11,
  kJobRunning = 12,
  kJobStopping = 13,
  kJobRestarting = 14,
  kJobCompleted = 15,
  kJobFailed = 16,
  kJobCancelled = 17,
  kJobResumed = 18,
  kJobPlanned = 19,
  kAttemptLaunched = 30,
  kAgentConnected = 31,
  kRankStarted = 32,
  kRankExited = 33,
  kAttemptStopping = 34,
  kAgentDone = 35,
  kAgentLost = 36,
  kAttemptEnded = 37,
  kAgentGone = 38,
  kCheckpointRequested = 50,
  kCheckpointDone = 51,
  kNote = 52,
  kNodeUp = 60,
  kNodeIdle = 61,
  kNodeLost = 62,
  kNodeFound = 63,
  kInputRefused = 70,
};

// Which global ranks run on a node.
struct Placement {
  std::string node;
  std::vector<uint32_t> ranks;
  bool operator==(const Placement&) const = default;
};

struct Device {
  std::string kind;  // cpu | cuda
  std::string name;
  std::string uuid;
  int64_t memory_bytes = 0;
  bool operator==(const Device&) const = default;
};

// What `submit` brings. The texts are opaque here.
struct Submission {
  std::string name;
  std::string spec_yaml;
  std::string plan_json;
  std::string launcher;
  std::string request_key;
  std::string layout_json;
  std::string working_dir;
  int64_t max_steps = 0;
  std::vector<Placement> nodes;
  bool operator==(const Submission&) const = default;
};

struct Event {
  int64_t seq = 0;      // given by apply(): 1, 2, 3 … without gaps
  int64_t time_ns = 0;  // Unix
  EventType type = EventType::kNone;
  std::string job;       // "" for events of nodes and of the coordinator
  uint32_t attempt = 0;  // 0 where none is meant

  std::string node;
  std::string host;
  std::string reason;     // one sentence
  std::string operation;  // of a failed rank
  std::string path;       // of a checkpoint
  std::string instance;
  uint32_t rank = 0;
  int32_t code = 0;  // frozen codes of base/status.h
  int32_t signal = 0;
  int64_t pid = 0;
  int64_t step = 0;
  int64_t bytes = 0;
  double seconds = 0;
  int64_t not_before_ns = 0;  // Unix; of a restart
  std::vector<Placement> placement;
  std::vector<Device> devices;
  std::optional<Submission> submission;
  bool operator==(const Event&) const = default;
};

// Bits of the fields above, for the dictionary.
enum Field : uint32_t {
  kFieldNode = 1u << 0,
  kFieldHost = 1u << 1,
  kFieldReason = 1u << 2,
  kFieldOperation = 1u << 3,
  kFieldPath = 1u << 4,
  kFieldInstance = 1u << 5,
  kFieldRank = 1u << 6,
  kFieldCode = 1u << 7,
  kFieldSignal = 1u << 8,
  kFieldPid = 1u << 9,
  kFieldStep = 1u << 10,
  kFieldBytes = 1u << 11,
  kFieldSeconds = 1u << 12,
  kFieldNotBefore = 1u << 13,
  kFieldPlacement = 1u << 14,
  kFieldDevices = 1u << 15,
  kFieldSubmission = 1u << 16,
};

struct EventEntry {
  EventType type;
  std::string_view name;  // as stored and printed: "job_submitted"
  uint32_t fields;        // Field bits
};
// Every type once, in the order of the numbers.
std::span<const EventEntry> event_dictionary();
// The name of a type; "unknown" for a number that is none.
std::string_view event_name(EventType type);
// The field's key in JSON ("not_before_unix_ns").
std::string_view field_name(Field field);

// The payload: a JSON object with the listed fields (not seq, time, job, attempt, type).
std::string payload_json(const Event& event);
// An event from its stored columns; kInvalid when the type is unknown or a listed field is absent
// or of another type.
Result<Event> parse_event(int64_t seq, int64_t time_ns, const std::string& job, uint32_t attempt,
                          std::string_view type, const std::string& payload);

}  // namespace dsv3::core
