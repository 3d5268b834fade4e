// dsv3-agent: one per node and attempt; started by a launcher, speaks to the coordinator, runs the
// ranks (worker/agent).
#include <string>
#include <vector>

#include "base/log.h"
#include "worker/agent/agent.h"

int main(int argc, char** argv) {
  dsv3::log::init("agent");
  const auto options = dsv3::agent::parse_options(std::vector<std::string>(argv + 1, argv + argc));
  if (!options.ok()) {
    dsv3::log::error("{}", options.status().to_string());
    return static_cast<int>(dsv3::Code::kInvalid);
  }
  const auto agent = dsv3::agent::Agent::create(*options);
  if (!agent.ok()) {
    dsv3::log::error("{}", agent.status().to_string());
    return static_cast<int>(dsv3::Code::kTemporary);
  }
  return (*agent)->run();
}
