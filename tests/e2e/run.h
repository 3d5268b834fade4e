// Running a program to its end, with a deadline, and waiting for a condition with one.
//
// Law: nothing here waits without a deadline, and a wait that fails says so; nothing sleeps for a
// fixed time.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::e2e {

using Environment = std::vector<std::pair<std::string, std::string>>;

struct Outcome {
  int code = -1;  // exit code; 128 + signal
  std::string out;
  std::string err;
  bool timed_out = false;  // it was killed
};

// A program that was started and has not been waited for. Kills it when destroyed before finish().
class Running {
 public:
  Running(const std::vector<std::string>& argv, const Environment& environment);
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running();

  pid_t pid() const { return pid_; }
  std::string out() const;  // so far
  std::string err() const;
  // Waits for its end; kills it at the deadline.
  Outcome finish(int timeout_s);

 private:
  std::string folder_;
  pid_t pid_ = -1;
  std::string start_error_;
};

Outcome run(const std::vector<std::string>& argv, const Environment& environment,
            int timeout_s = 30);

// True as soon as `condition` holds; false at the deadline.
bool wait_until(const std::function<bool()>& condition, int timeout_s = 30);

// Live processes (no zombies) whose command line or environment contains `text`.
std::vector<pid_t> processes_of(const std::string& text);
// The command line, words separated by spaces; "" when it is gone.
std::string command_of(pid_t pid);

}  // namespace dsv3::e2e
