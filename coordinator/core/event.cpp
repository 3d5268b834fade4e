// The event dictionary; see event.h and STATES.md.
#include "coordinator/core/event.h"

#include <array>

namespace dsv3::core {
namespace {

constexpr std::array<EventEntry, 29> kDictionary = {{
    {EventType::kCoordinatorStarted, "coordinator_started", kFieldInstance | kFieldPid},
    {EventType::kCoordinatorStopped, "coordinator_stopped", kFieldInstance | kFieldReason},
    {EventType::kJobSubmitted, "job_submitted", kFieldSubmission},
    {EventType::kJobPicked, "job_picked", kFieldReason},
    {EventType::kJobRunning, "job_running", kFieldReason},
    {EventType::kJobStopping, "job_stopping", kFieldReason},
    {EventType::kJobRestarting, "job_restarting", kFieldReason | kFieldCode | kFieldNotBefore},
    {EventType::kJobCompleted, "job_completed", kFieldReason},
    {EventType::kJobFailed, "job_failed", kFieldReason | kFieldCode},
    {EventType::kJobCancelled, "job_cancelled", kFieldReason},
    {EventType::kJobResumed, "job_resumed", kFieldReason},
    {EventType::kJobPlanned, "job_planned", kFieldReason},
    {EventType::kAttemptLaunched, "attempt_launched", kFieldPlacement | kFieldReason},
    {EventType::kAgentConnected, "agent_connected", kFieldNode | kFieldHost | kFieldPid},
    {EventType::kRankStarted, "rank_started", kFieldNode | kFieldRank | kFieldPid},
    {EventType::kRankExited, "rank_exited",
     kFieldNode | kFieldRank | kFieldCode | kFieldSignal | kFieldOperation | kFieldReason |
         kFieldStep},
    {EventType::kAttemptStopping, "attempt_stopping", kFieldCode | kFieldReason},
    {EventType::kAgentDone, "agent_done", kFieldNode | kFieldCode | kFieldReason},
    {EventType::kAgentLost, "agent_lost", kFieldNode | kFieldCode | kFieldReason},
    {EventType::kAttemptEnded, "attempt_ended", kFieldCode | kFieldReason},
    {EventType::kAgentGone, "agent_gone", kFieldNode | kFieldReason},
    {EventType::kCheckpointRequested, "checkpoint_requested", 0},
    {EventType::kCheckpointDone, "checkpoint_done",
     kFieldStep | kFieldPath | kFieldBytes | kFieldSeconds},
    {EventType::kNote, "note", kFieldRank | kFieldReason},
    {EventType::kNodeUp, "node_up", kFieldNode | kFieldHost | kFieldDevices | kFieldReason},
    {EventType::kNodeIdle, "node_idle", kFieldNode | kFieldReason},
    {EventType::kNodeLost, "node_lost", kFieldNode | kFieldReason},
    {EventType::kNodeFound, "node_found", kFieldNode | kFieldHost | kFieldDevices | kFieldReason},
    {EventType::kInputRefused, "input_refused", kFieldNode | kFieldReason},
}};

}  // namespace

std::span<const EventEntry> event_dictionary() {
  return kDictionary;
}

std::string_view event_name(EventType type) {
  for (const EventEntry& entry : kDictionary) {
    if (entry.type == type) return entry.name;
  }
  return "unknown";
}

std::string_view field_name(Field field) {
  switch (field) {
    case kFieldNode:
      return "node";
    case kFieldHost:
      return "host";
    case kFieldReason:
      return "reason";
    case kFieldOperation:
      return "operation";
    case kFieldPath:
      return "path";
    case kFieldInstance:
      return "instance";
    case kFieldRank:
      return "rank";
    case kFieldCode:
      return "code";
    case kFieldSignal:
      return "signal";
    case kFieldPid:
      return "pid";
    case kFieldStep:
      return "step";
    case kFieldBytes:
      return "bytes";
    case kFieldSeconds:
      return "seconds";
    case kFieldNotBefore:
      return "not_before_unix_ns";
    case kFieldPlacement:
      return "placement";
    case kFieldDevices:
      return "devices";
    case kFieldSubmission:
      return "submission";
  }
  return "unknown";
}

}  // namespace dsv3::core
