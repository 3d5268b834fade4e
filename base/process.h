// Child processes: start with an argv array (never a shell), reap, signal; a zombie counts as dead.
//
// Law: no exec goes through a shell, so no name or path can be read as a command.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace dsv3 {

struct SpawnOptions {
  std::vector<std::string> argv;  // argv[0] is the path of the program
  std::vector<std::pair<std::string, std::string>>
      extra_env;            // added to this process's environment
  std::string stdout_path;  // appended to; "" inherits
  std::string stderr_path;  // appended to; "" inherits; may equal stdout_path
  std::string working_dir;  // "": this process's
  std::vector<std::pair<int, int>>
      fds;                       // (fd here, fd in the child); all others are closed on exec
  bool new_session = false;      // setsid: survives the terminal and leads a process group
  bool die_with_parent = false;  // SIGKILL when the parent dies (Linux)
};

// Starts a child; kFailed with the program's name when it cannot be executed.
Result<pid_t> spawn(const SpawnOptions& options);
// Exit status if the child has ended (reaped): the code, or 128 + signal; nullopt while it runs.
// `pid` must be a child.
std::optional<int> try_reap(pid_t pid);
// True while the process exists and is not a zombie.
bool process_alive(pid_t pid);
// This process's children, zombies included.
std::vector<pid_t> child_processes();
// When the process was started, in clock ticks since boot; 0 when there is none. With the boot's id
// it tells a process from a later one that was given its number.
int64_t process_start_ticks(pid_t pid);
// True while the process lives and its environment, as it was started, holds exactly this
// "NAME=value": a mark that everything started below a process inherits. False for those of other
// users.
bool process_has_env(pid_t pid, const std::string& entry);
// All such processes.
std::vector<pid_t> processes_with_env(const std::string& entry);
// Of this boot of the machine; "" where the kernel doesn't say.
std::string boot_id();

}  // namespace dsv3
