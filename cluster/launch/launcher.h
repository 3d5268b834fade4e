// Launcher: the seam between "an agent should run on that node" and how a machine is asked to start
// one.
//
// Law: submit() is idempotent by key (job, attempt, node): asking twice starts one agent, also when
// the coordinator died between the two calls; what is needed to find the agent again lies in the
// job's folder, not in memory. No call waits for an agent: progress is seen by poll(). No name goes
// through a shell. Implementations: local/ (a process of this machine); ssh and slurm come beside
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace dsv3::launch {

// Names one agent for ever.
struct AgentKey {
  std::string job;
  int64_t attempt = 0;
  std::string node;
  auto operator<=>(const AgentKey&) const = default;
};

struct AgentSpec {
  AgentKey key;
  std::string state_dir;  // where the agent finds coordinator.json and keys/agent.key
  std::string job_dir;    // record in run/, log in logs/agent-<node>.log; must exist
  std::vector<std::pair<std::string, std::string>> env;  // added to the environment
};

enum class AgentState {
  kRunning,
  kExited,  // for certain: no process of that agent is left
};

struct AgentStatus {
  AgentState state = AgentState::kRunning;
  // Of an ended agent, when it is known (the process that started it asks): exit code, or 128 +
  // signal.
  std::optional<int> exit_code;
  // What the launcher calls it ("pid 4711"), for messages.
  std::string where;
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  // "local", "ssh", "slurm".
  virtual const char* name() const = 0;
  // Starts the agent, or finds the one that an earlier call with this key started. kConflict when
  // an agent of this key has run and ended (a new attempt needs a new key); kFailed when it cannot
  // be started. Idempotent.
  virtual Result<AgentStatus> submit(const AgentSpec& spec) = 0;
  // What became of it; kNotFound when nothing was ever submitted under this key. Also carries out a
  // cancel() whose grace has passed, so call it once a tick.
  virtual Result<AgentStatus> poll(const AgentSpec& spec) = 0;
  // Asks the agent to end (its ranks end with it), and makes it end when grace_ms have passed; 0:
  // at once. Returns without waiting. Ok when there is none. Idempotent; a later call can only
  // shorten the grace.
  virtual Status cancel(const AgentSpec& spec, int64_t grace_ms) = 0;
};

// Job ids, node names: letters, digits, '.', '_', '-', not first a '-' or '.', at most 128. Keeps
// paths and argv plain.
bool is_plain_name(const std::string& name);
// The argument list of an agent: {program, "--state-dir", …, "--job", …, "--attempt", …, "--node",
// …}. Pure.
std::vector<std::string> agent_argv(const std::string& program, const AgentSpec& spec);
// <job_dir>/logs/agent-<node>.log.
std::string agent_log_path(const AgentSpec& spec);

}  // namespace dsv3::launch
