// What dsv3ctl doctor thinks of what it found: facts in, verdicts out.
//
// Law: pure; looking at the machine is doctor.cpp's. An error stops jobs here, a warning slows or
// endangers them, all else is ok. Every warning and error says what to do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/filesystem.h"
#include "base/status.h"
#include "cluster/inventory/inventory.h"

namespace dsv3::cli {

enum class Level { kOk, kWarning, kError };

struct Check {
  std::string name;  // "memory"
  Level level = Level::kOk;
  std::string message;  // what was found
  std::string hint;     // what to do; "" when ok
};

Check check_cpu(const inventory::MachineFacts& facts);
Check check_memory(const inventory::Memory& memory);

// The CUDA plug-in beside dsv3ctl.
struct Plugin {
  bool is_there = false;
  std::string fault;  // why it cannot be loaded; "" when it can
};
Check check_gpus(const inventory::MachineFacts& facts, const Plugin& plugin);

struct Binary {
  std::string name;
  std::string version;  // "0.1.0"; "" when it did not say
  std::string fault;    // why it cannot be run
};
Check check_binaries(const std::string& dir, const std::string& own_version,
                     const std::vector<Binary>& found);

// The state directory, or where it would be made.
struct StateDir {
  std::string path;
  bool exists = false;
  bool is_dir = true;        // what is there is a directory
  std::string nearest;       // the deepest part of the path that exists
  bool writable = false;     // this user may write into it (or into `nearest`)
  unsigned mode = 0;         // permission bits, of an existing one
  bool own = true;           // belongs to this user
  Status filesystem_status;  // why the file system is unknown
  Filesystem filesystem;     // of `nearest`
};
Check check_state_dir(const StateDir& dir);

// The folder of the presets, and how many there are; `fault`: what is wrong with it or with them.
Check check_presets(const std::string& dir, size_t count, const std::string& fault);

// Key files of an existing state directory that others can read.
Check check_keys(bool any, const std::vector<std::string>& open_to_others);

// `status`: of the connection or the first request; kNoCoordinator: none is running.
Check check_coordinator(const Status& status, int64_t pid, const std::string& version,
                        const std::string& own_version);
Check check_open_files(uint64_t soft_limit, uint64_t hard_limit);
// NAME=VALUE of variables that reach every worker and change how it runs; `cores`: of this machine.
Check check_environment(const std::vector<std::string>& left_over, int cores);
// `now` against when dsv3ctl was built (both Unix seconds): a clock behind it is wrong.
Check check_clock(int64_t now_s, int64_t built_s, bool synchronised);
// Which of ssh, sbatch, srun, nvidia-smi are found: for information.
Check check_tools(const std::vector<std::string>& found, const std::vector<std::string>& absent);

// Whether a variable's name is of a kind that check_environment() reports.
bool is_tuning_variable(std::string_view name);

}  // namespace dsv3::cli
