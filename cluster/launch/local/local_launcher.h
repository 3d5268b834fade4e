// LocalLauncher: agents as processes of this machine, each in its own session, so that they outlive
// the coordinator.
//
// Law: the record <job_dir>/run/agent-<node>.<attempt>.json (pid, its start time, boot) names one
// process for certain: a pid that was given to somebody else since, or before a reboot, is never
// taken for the agent, and never signalled. Everything that an agent starts carries its mark in the
// environment: an agent has ended when no process with the mark is left, and what outlived it is
// killed.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/clock.h"
#include "cluster/launch/launcher.h"

namespace dsv3::launch {

class LocalLauncher final : public Launcher {
 public:
  // `program`: path of dsv3-agent; "" takes the one beside the running executable. `clock` outlives
  // the launcher.
  explicit LocalLauncher(std::string program = {}, const Clock& clock = system_clock());

  const char* name() const override { return "local"; }
  Result<AgentStatus> submit(const AgentSpec& spec) override;
  Result<AgentStatus> poll(const AgentSpec& spec) override;
  Status cancel(const AgentSpec& spec, int64_t grace_ms) override;

 private:
  struct Record;  // what is on disk
  struct Live {   // what only this process knows
    std::optional<int> exit_code;
    std::optional<int64_t> kill_at_ns;  // steady clock
    bool asked = false;                 // SIGTERM was sent
    bool left_nothing = false;          // looked for after its end: no process of it is there
  };
  static std::string record_path(const AgentSpec& spec);
  static Result<Record> read_record(const AgentSpec& spec);
  AgentStatus status_of(const AgentSpec& spec, const Record& record);

  std::string program_;
  const Clock& clock_;
  std::map<AgentKey, Live> live_;
};

}  // namespace dsv3::launch
