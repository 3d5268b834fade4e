// inotify; see freeze.h.
#include "tests/fault/freeze.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "tests/e2e/run.h"

namespace dsv3::e2e {

Watch::Watch(const std::string& folder, std::string part)
    : folder_(folder), part_(std::move(part)), fd_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
  EXPECT_GE(::inotify_add_watch(fd_, folder.c_str(), IN_CREATE | IN_MOVED_TO), 0) << folder;
}

Watch::~Watch() {
  ::close(fd_);
}

std::string Watch::appeared(int timeout_ms) {
  pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, timeout_ms) <= 0) return "";
  alignas(inotify_event) char bytes[4096];
  const ssize_t n = ::read(fd_, bytes, sizeof bytes);
  for (ssize_t at = 0; at < n;) {
    const auto* event = reinterpret_cast<const inotify_event*>(bytes + at);
    if (event->len > 0 && std::string(event->name).find(part_) != std::string::npos)
      return event->name;
    at += static_cast<ssize_t>(sizeof(inotify_event)) + event->len;
  }
  return "";
}

bool Watch::freeze(const std::function<pid_t()>& pid, int timeout_s) {
  constexpr int kLookMs = 20;
  const int64_t until_ns = system_clock().steady_ns() + int64_t{timeout_s} * 1'000'000'000;
  while (system_clock().steady_ns() < until_ns) {
    const std::string name = appeared(kLookMs);
    const pid_t target = pid();
    if (name.empty()) {
      if (target <= 0 || process_alive(target)) continue;
      return false;
    }
    if (target <= 0 || ::kill(target, SIGSTOP) != 0) return false;
    if (wait_until([&] { return is_stopped(target) || !process_alive(target); }, 5) &&
        is_stopped(target) && path_exists(folder_ + "/" + name)) {
      return true;
    }
    ::kill(target, SIGCONT);
    return false;
  }
  return false;
}

bool catches(pid_t pid, int signal) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("SigCgt:"))
      return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

bool is_connected(pid_t pid) {
  std::set<std::string> inodes;  // of sockets, as "socket:[123]"
  std::ifstream file("/proc/net/tcp");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string number, local, remote, state, word;
    words >> number >> local >> remote >> state;
    for (int i = 0; i < 6; ++i) words >> word;
    if (state == "01") inodes.insert("socket:[" + word + "]");
  }
  std::error_code error;
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code gone;
    if (inodes.contains(std::filesystem::read_symlink(it->path(), gone).string())) return true;
  }
  return false;
}

void default_signals() {
  static_assert(kEndingSignals[0] == SIGINT && kEndingSignals[1] == SIGTERM &&
                kEndingSignals[2] == SIGHUP);
  for (const int signal : kEndingSignals) ::signal(signal, SIG_DFL);
}

bool is_stopped(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::stringstream text;
  text << file.rdbuf();
  const size_t paren = text.str().rfind(')');
  return paren != std::string::npos && text.str().compare(paren + 1, 2, " T") == 0;
}

}  // namespace dsv3::e2e
