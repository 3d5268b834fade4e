// The coordinator's state: what the event log says, as values. No pointers, no clock, no file.
//
// Law: apply() is the only way that a State changes, and it changes by exactly one event at a time;
// so replaying a log gives the state that was live when the log was written (operator== is the
// test). States and events: STATES.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "coordinator/core/event.h"
#include "coordinator/core/transitions.h"

namespace dsv3::core {

struct Rank {
  RankState state = RankState::kPending;
  int64_t pid = 0;
  int32_t exit_code = 0;
  bool operator==(const Rank&) const = default;
};

// The agent of one node in one attempt, with the ranks that it starts.
struct Agent {
  AgentState state = AgentState::kExpected;
  std::string node;
  int64_t pid = 0;
  std::map<uint32_t, Rank> ranks;  // by global rank
  bool operator==(const Agent&) const = default;
};

struct Attempt {
  uint32_t number = 0;
  AttemptState state = AttemptState::kStarting;
  int64_t since_ns = 0;  // Unix; of the state
  std::string reason;
  int32_t code =
      0;  // of the failure that explains its end (is_better_cause); 0 while there is none
  std::string failure;                  // that failure as a sentence
  int64_t checkpoint_before = -1;       // checkpoint_step_max of the job when it was launched
  std::map<std::string, Agent> agents;  // by node
  bool operator==(const Attempt&) const = default;
};

struct CheckpointMark {
  int64_t step = 0;
  std::string path;
  int64_t bytes = 0;
  double seconds = 0;
  bool operator==(const CheckpointMark&) const = default;
};

struct Job {
  std::string id;
  uint32_t number = 0;  // counts all jobs of the state directory from 1
  Submission submission;
  JobState state = JobState::kQueued;
  std::string reason;
  std::string why;  // of its configuration and layout, of job_planned; "" when nothing was said
  int64_t since_ns = 0;
  int64_t submitted_ns = 0;
  // Of the first attempt, later by the time that the job had ended before it was resumed; 0 before
  // it.
  int64_t launched_ns = 0;
  int64_t ended_ns = 0;  // 0 until a terminal state
  int32_t code = 0;
  uint32_t num_ranks = 0;
  uint32_t restarts = 0;
  // Attempts in a row that ended without a checkpoint of a later step than any before them.
  uint32_t idle_attempts = 0;
  int64_t checkpoint_step_max = -1;  // of all checkpoints that were completed; -1: none
  std::optional<Attempt> attempt;    // the newest; older ones are in the log
  std::optional<CheckpointMark> checkpoint;
  bool operator==(const Job&) const = default;
};

struct Node {
  std::string name;
  std::string host;
  NodeState state = NodeState::kIdle;
  std::string reason;
  int64_t since_ns = 0;
  std::vector<Device> devices;
  bool operator==(const Node&) const = default;
};

struct State {
  int64_t last_seq = 0;
  uint32_t jobs_submitted = 0;
  std::string instance;  // of the coordinator that wrote last
  std::map<std::string, Job> jobs;
  std::map<std::string, Node> nodes;
  bool operator==(const State&) const = default;
};

// Applies one event. kConflict, with the state unchanged, when a table or a guard of STATES.md
// refuses it, or when its seq is not last_seq + 1.
Status apply(State& state, const Event& event);

const Job* find_job(const State& state, const std::string& id);
// The attempt when it is the job's newest and not ENDED; else nullptr.
const Attempt* find_live_attempt(const State& state, const std::string& job, uint32_t attempt);
// True when the attempt is live and this node's agent in it is EXPECTED or CONNECTED.
bool agent_is_live(const State& state, const std::string& job, uint32_t attempt,
                   const std::string& node);
// Terminal states excluded.
uint32_t num_active_jobs(const State& state);

}  // namespace dsv3::core
