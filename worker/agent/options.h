// The agent's command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace dsv3::agent {

struct Options {
  std::string state_dir;
  std::string job;
  uint32_t attempt = 0;
  std::string node;
  std::string worker;  // program of a rank; "": dsv3-worker beside this one
  // Without a word from a coordinator for this long, the ranks are asked to end with a checkpoint.
  int64_t orphan_ms = 600'000;
  int64_t hello_ms = 60'000;      // from the start to LaunchRanks
  int64_t grace_ms = 10'000;      // for ranks, when the agent itself is asked to end
  int64_t fail_grace_ms = 2'000;  // for ranks, when another one of them has failed
};

// --state-dir DIR --job ID --attempt N --node NAME [--worker PROGRAM] [--orphan-ms N]. kInvalid
// names the fault.
Result<Options> parse_options(const std::vector<std::string>& args);

}  // namespace dsv3::agent
