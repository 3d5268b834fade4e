// See run.h.
#include "worker/agent/run.h"

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "worker/agent/agent.h"

namespace dsv3::agent {

int run(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    std::printf("dsv3-agent %s\n", DSV3_VERSION);
    return 0;
  }
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
