// dsv3ctl submit auto: the coordinator chooses the preset for its machine, plans it and starts it.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/cli/config_options.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {

// The word that stands in FILE's place.
inline constexpr const char* kAuto = "auto";

struct AutoQuestion {
  ConfigOptions config;  // file is kAuto; overlays, deepspeed and set are laid over the pick
  int64_t tokens = 0;    // 0: the preset's own steps
  std::string launcher;
  bool dry_run = false;
  bool wait = false;
};

// Asks the coordinator what it would take (starting one where there is none; a dry run then looks
// at this machine itself), prepares data that are absent, and has it submitted. The job id alone on
// stdout; what was chosen and why on stderr. Returns the exit code; 6 when nothing can be started
// there.
int submit_auto(const Globals& globals, const AutoQuestion& question);

}  // namespace dsv3::cli
