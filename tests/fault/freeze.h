// Stopping a process at the moment in which it begins to write something, however short that is.
//
// Law: nothing is timed. The kernel says that a name has appeared; the process is stopped then, and
// looked at again: only if the name is still there was it caught in the middle.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

namespace dsv3::e2e {

// Watches `folder` (which exists) for a new name with `part` in it.
class Watch {
 public:
  Watch(const std::string& folder, std::string part);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch();

  // Stops `pid` (SIGSTOP) as soon as the name appears. True when it was stopped with the name
  // there; false when the process was faster, has ended, or after timeout_s; it goes on (SIGCONT)
  // then.
  bool freeze(const std::function<pid_t()>& pid, int timeout_s = 20);

 private:
  std::string appeared(int timeout_ms);  // the name; "" when none came

  std::string folder_;
  std::string part_;
  int fd_ = -1;
};

// True once the process is stopped by a signal.
bool is_stopped(pid_t pid);
// True once the process has a handler for the signal.
bool catches(pid_t pid, int signal);
// True while the process has a TCP connection.
bool is_connected(pid_t pid);

// The signals that end a process. What is started from here on meets them as a user's commands do,
// also where this test was started with nohup or in the background.
inline constexpr int kEndingSignals[] = {2, 15, 1};  // SIGINT, SIGTERM, SIGHUP
void default_signals();

}  // namespace dsv3::e2e
