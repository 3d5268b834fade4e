// Leftovers: what this process has begun to write, and what takes it away when a signal ends the
// process before it is whole.
//
// Law: a command that SIGINT, SIGTERM or SIGHUP ends leaves the file system as it found it, or the
// whole output; and its parent sees that this signal ended it. Who begins a temporary file or
// folder keeps a Leftover while it is unfinished. Only a process that called
// remove_leftovers_on_signals() removes anything: a rank saves a checkpoint at a signal instead.
#pragma once

#include <string>

#include "base/status.h"

namespace dsv3 {

// Says that `path`, a file or a folder with all that is in it, is unfinished, for as long as this
// lives. To be made before the path is created. Move-only; thread-safe.
class Leftover {
 public:
  Leftover() = default;
  explicit Leftover(std::string path);
  Leftover(Leftover&& other) noexcept;
  Leftover& operator=(Leftover&& other) noexcept;
  ~Leftover();
  // It is finished, or gone.
  void forget();

 private:
  std::string path_;
};

// From here on a signal removes what is unfinished, says `who`: interrupted, and ends the process.
// For a main, before it has a second thread.
Status remove_leftovers_on_signals(const std::string& who);

// Returns unless a signal is ending the process: then it waits for that, so that what fails because
// its files were taken away is not reported as a failure.
void wait_if_ending();

}  // namespace dsv3
