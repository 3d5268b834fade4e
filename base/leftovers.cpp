// A thread that waits for the signals; see leftovers.h.
//
// The thread takes the registry's lock and never gives it back: whoever would begin another file
// waits there for the end.
#include "base/leftovers.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "base/process.h"

namespace dsv3 {
namespace {

namespace fs = std::filesystem;

// A writer may add a file to a folder between the look and the removal; it can't for ever.
constexpr int kRemovalsMax = 100;

struct Registry {
  std::mutex mutex;
  std::multiset<std::string> paths;
  std::atomic<bool> ending = false;
};

// Never destroyed: the thread may use it while main returns.
Registry& registry() {
  static Registry& instance = *new Registry;
  return instance;
}

sigset_t ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now {};
    const bool ignored = ::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
    if (!ignored) sigaddset(&signals, signal);  // nohup's wish
  }
  return signals;
}

void remove_all(const std::set<std::string>& paths) {
  for (int i = 0; i < kRemovalsMax; ++i) {
    bool left = false;
    for (const std::string& path : paths) {
      std::error_code error;
      fs::remove_all(path, error);
      left |= fs::exists(fs::symlink_status(path, error));
    }
    if (!left) return;
  }
}

[[noreturn]] void end_by(int signal, const std::string& who) {
  Registry& all = registry();
  all.mutex.lock();
  all.ending = true;
  for (const pid_t child : child_processes()) ::kill(child, SIGKILL);
  const bool unfinished = !all.paths.empty();
  remove_all({all.paths.begin(), all.paths.end()});
  const std::string text =
      fmt::format("{}{}: interrupted{}\n", ::isatty(STDERR_FILENO) == 1 ? "\r\033[K" : "", who,
                  unfinished ? ", what was unfinished is removed" : "");
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  ::signal(signal, SIG_DFL);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  ::raise(signal);
  ::_exit(128 + signal);
}

}  // namespace

Leftover::Leftover(std::string path) : path_(std::move(path)) {
  const std::lock_guard lock(registry().mutex);
  registry().paths.insert(path_);
}

Leftover::Leftover(Leftover&& other) noexcept : path_(std::exchange(other.path_, {})) {}

Leftover& Leftover::operator=(Leftover&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

Leftover::~Leftover() {
  forget();
}

void Leftover::forget() {
  if (path_.empty()) return;
  const std::lock_guard lock(registry().mutex);
  registry().paths.erase(registry().paths.find(path_));
  path_.clear();
}

Status remove_leftovers_on_signals(const std::string& who) {
  const sigset_t signals = ending_signals();
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &signals, nullptr); error != 0)
    return Status(Code::kFailed, fmt::format("cannot block signals: {}", std::strerror(error)));
  registry();
  try {
    std::thread([signals, who] {
      int signal = 0;
      while (::sigwait(&signals, &signal) != 0) {
      }
      end_by(signal, who);
    }).detach();
  } catch (const std::system_error& fault) {
    ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
    return Status(Code::kFailed, fmt::format("cannot start a thread: {}", fault.what()));
  }
  return {};
}

void wait_if_ending() {
  while (registry().ending) ::pause();
}

}  // namespace dsv3
