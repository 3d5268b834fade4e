// What all launchers share; see launcher.h.
#include "cluster/launch/launcher.h"

#include <algorithm>

namespace dsv3::launch {

bool is_plain_name(const std::string& name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 128 && name[0] != '-' && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), plain);
}

std::vector<std::string> agent_argv(const std::string& program, const AgentSpec& spec) {
  return {program,
          "--state-dir",
          spec.state_dir,
          "--job",
          spec.key.job,
          "--attempt",
          std::to_string(spec.key.attempt),
          "--node",
          spec.key.node};
}

std::string agent_log_path(const AgentSpec& spec) {
  return spec.job_dir + "/logs/agent-" + spec.key.node + ".log";
}

}  // namespace dsv3::launch
