// See run.h.
#include "worker/agent/run.h"

#include <string>
#include <vector>

#include "base/log.h"
#include "worker/agent/agent.h"

namespace dsv3::agent {

int run(int argc, char** argv) {
  log::init("agent");
  const auto options = parse_options(std::vector<std::string>(argv + 1, argv + argc));
  if (!options.ok()) {
    log::error("{}", options.status().to_string());
    return static_cast<int>(Code::kInvalid);
  }
  const auto agent = Agent::create(*options);
  if (!agent.ok()) {
    log::error("{}", agent.status().to_string());
    return static_cast<int>(Code::kTemporary);
  }
  return (*agent)->run();
}

}  // namespace dsv3::agent
