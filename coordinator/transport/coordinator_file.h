// <state-dir>/coordinator.json: where a running coordinator is found, by its own user only (mode
// 0600).
//
// Law: the file appears only when the coordinator answers (bound, state replayed), and is removed
// at a clean end; one left by a crash is recognised by its process, which is gone even
// where another has its pid.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace dsv3::transport {

struct CoordinatorFile {
  std::string endpoint;           // tcp://127.0.0.1:PORT
  std::string server_public_key;  // Z85, 40 characters
  int64_t pid = 0;
  std::string instance;  // changes at every start
  std::string version;
  // Tell the pid's process from a later one with its number; 0 and "" where unknown.
  int64_t start_ticks = 0;
  std::string boot_id = {};
};

// <state_dir>/coordinator.json
std::string coordinator_file_path(const std::string& state_dir);

// kNoCoordinator when the file is absent or its process is not alive; kInvalid when it is not such
// a file.
Result<CoordinatorFile> read_coordinator_file(const std::string& state_dir);
// As above, without asking whether the pid lives: for the endpoint that a restarted coordinator
// wants again.
Result<CoordinatorFile> read_coordinator_file_of_any(const std::string& state_dir);
// Whether the process that wrote the file still lives.
bool is_alive(const CoordinatorFile& file);
// Writes it atomically, mode 0600.
Status write_coordinator_file(const std::string& state_dir, const CoordinatorFile& file);

}  // namespace dsv3::transport
