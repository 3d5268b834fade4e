// Processes by pidfd and poll; see run.h.
#include "tests/e2e/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/clock.h"
#include "base/process.h"

namespace dsv3::e2e {
namespace {

constexpr int kLookAgainMs = 10;

std::string whole_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Running::Running(const std::vector<std::string>& argv, const Environment& environment) {
  folder_ = testing::TempDir() + "dsv3-run-XXXXXX";
  if (::mkdtemp(folder_.data()) == nullptr) {
    start_error_ = "cannot create " + folder_;
    return;
  }
  const Result<pid_t> pid = spawn({.argv = argv,
                                   .extra_env = environment,
                                   .stdout_path = folder_ + "/out",
                                   .stderr_path = folder_ + "/err",
                                   .new_session = true,
                                   .die_with_parent = true});
  if (pid.ok()) {
    pid_ = *pid;
  } else {
    start_error_ = pid.status().to_string();
  }
}

Running::~Running() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string Running::out() const {
  return whole_file(folder_ + "/out");
}
std::string Running::err() const {
  return whole_file(folder_ + "/err");
}

Outcome Running::finish(int timeout_s) {
  Outcome outcome;
  if (pid_ < 0) {
    outcome.err = start_error_;
    return outcome;
  }
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));
  const int64_t deadline_ns = system_clock().steady_ns() + int64_t{timeout_s} * 1'000'000'000;
  while (true) {
    if (const auto code = try_reap(pid_)) {
      outcome.code = *code;
      break;
    }
    const int64_t left_ms = (deadline_ns - system_clock().steady_ns()) / 1'000'000;
    if (left_ms <= 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      outcome.timed_out = true;
      break;
    }
    pollfd ended{.fd = pidfd, .events = POLLIN, .revents = 0};
    ::poll(&ended, pidfd >= 0 ? 1 : 0,
           static_cast<int>(pidfd >= 0 ? left_ms : std::min<int64_t>(left_ms, kLookAgainMs)));
  }
  if (pidfd >= 0) ::close(pidfd);
  pid_ = -1;
  outcome.out = out();
  outcome.err = err();
  return outcome;
}

Outcome run(const std::vector<std::string>& argv, const Environment& environment, int timeout_s) {
  return Running(argv, environment).finish(timeout_s);
}

bool wait_until(const std::function<bool()>& condition, int timeout_s) {
  const int64_t deadline_ns = system_clock().steady_ns() + int64_t{timeout_s} * 1'000'000'000;
  while (!condition()) {
    if (system_clock().steady_ns() > deadline_ns) return false;
    ::poll(nullptr, 0, kLookAgainMs);
  }
  return true;
}

std::string command_of(pid_t pid) {
  std::string command = whole_file(fmt::format("/proc/{}/cmdline", pid));
  std::replace(command.begin(), command.end(), '\0', ' ');
  return command;
}

std::vector<pid_t> processes_of(const std::string& text) {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto pid = static_cast<pid_t>(std::stol(name));
    if (pid == ::getpid()) continue;
    const bool ours =
        command_of(pid).find(text) != std::string::npos ||
        whole_file(fmt::format("/proc/{}/environ", pid)).find(text) != std::string::npos;
    if (ours && process_alive(pid)) found.push_back(pid);
  }
  return found;
}

}  // namespace dsv3::e2e
