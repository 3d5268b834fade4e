// fork + exec with an error pipe; see process.h.
#include "base/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

extern char** environ;

namespace dsv3 {
namespace {

// Everything the child needs, made before fork: after it only async-signal-safe calls are allowed.
struct Prepared {
  std::vector<char*> argv;
  std::vector<std::string> env_storage;
  std::vector<char*> env;
  int stdout_fd = -1;
  int stderr_fd = -1;
  pid_t parent = 0;
};

Prepared prepare(const SpawnOptions& options) {
  Prepared p;
  for (const std::string& arg : options.argv) p.argv.push_back(const_cast<char*>(arg.c_str()));
  p.argv.push_back(nullptr);
  p.parent = ::getpid();
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string_view entry = *e;
    const std::string_view name = entry.substr(0, entry.find('='));
    bool replaced = false;
    for (const auto& [key, value] : options.extra_env) replaced |= key == name;
    if (!replaced) p.env_storage.emplace_back(entry);
  }
  for (const auto& [key, value] : options.extra_env) p.env_storage.push_back(key + "=" + value);
  for (std::string& entry : p.env_storage) p.env.push_back(entry.data());
  p.env.push_back(nullptr);
  return p;
}

[[noreturn]] void child_fail(int error_fd) {
  const int error = errno;
  (void)!::write(error_fd, &error, sizeof error);
  ::_exit(127);
}

// Moves the wanted descriptors to their places by way of high numbers, so that no two collide.
void place_fds(const SpawnOptions& options, int error_fd) {
  constexpr int kHigh = 200;
  int next = kHigh;
  for (const auto& [from, to] : options.fds) {
    if (::dup2(from, next) < 0) child_fail(error_fd);
    ++next;
  }
  next = kHigh;
  for (const auto& [from, to] : options.fds) {
    if (::dup2(next, to) < 0) child_fail(error_fd);
    ::close(next);
    ++next;
  }
}

[[noreturn]] void run_child(const SpawnOptions& options, const Prepared& p, int error_fd) {
  if (options.new_session) ::setsid();
  if (options.die_with_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != p.parent) ::_exit(127);  // it died before the line above
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  const int null_fd = ::open("/dev/null", O_RDONLY);
  if (null_fd >= 0) ::dup2(null_fd, 0);
  if (p.stdout_fd >= 0 && ::dup2(p.stdout_fd, 1) < 0) child_fail(error_fd);
  if (p.stderr_fd >= 0 && ::dup2(p.stderr_fd, 2) < 0) child_fail(error_fd);
  place_fds(options, error_fd);
  if (!options.working_dir.empty() && ::chdir(options.working_dir.c_str()) != 0)
    child_fail(error_fd);
  ::execve(p.argv[0], p.argv.data(), p.env.data());
  child_fail(error_fd);
}

// Files of /proc have no size: read them as a stream. "" when unreadable.
std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// /proc/<pid>/stat from field 3, the state letter, on; "" when there is no such process. It follows
// the last ')': the command's name may hold anything else.
std::string stat_fields(pid_t pid) {
  const std::string stat = read_text(fmt::format("/proc/{}/stat", pid));
  const size_t paren = stat.rfind(')');
  return paren == std::string::npos || paren + 2 >= stat.size() ? "" : stat.substr(paren + 2);
}

std::vector<pid_t> all_processes() {
  std::vector<pid_t> found;
  DIR* proc = ::opendir("/proc");
  if (proc == nullptr) return found;
  while (const dirent* item = ::readdir(proc)) {
    const std::string name = item->d_name;
    if (name.find_first_not_of("0123456789") == std::string::npos)
      found.push_back(static_cast<pid_t>(std::strtol(name.c_str(), nullptr, 10)));
  }
  ::closedir(proc);
  return found;
}

int open_log(const std::string& path) {
  return path.empty() ? -1 : ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

}  // namespace

Result<pid_t> spawn(const SpawnOptions& options) {
  DSV3_CHECK(!options.argv.empty());
  Prepared p = prepare(options);
  p.stdout_fd = open_log(options.stdout_path);
  p.stderr_fd = open_log(options.stderr_path);
  int error_pipe[2] = {-1, -1};
  if (::pipe2(error_pipe, O_CLOEXEC) != 0) {
    return Status(Code::kFailed, fmt::format("cannot create a pipe: {}", std::strerror(errno)));
  }
  const pid_t pid = ::fork();
  if (pid == 0) run_child(options, p, error_pipe[1]);
  const int fork_error = errno;
  ::close(error_pipe[1]);
  if (p.stdout_fd >= 0) ::close(p.stdout_fd);
  if (p.stderr_fd >= 0) ::close(p.stderr_fd);
  if (pid < 0) {
    ::close(error_pipe[0]);
    return Status(Code::kFailed, fmt::format("cannot fork: {}", std::strerror(fork_error)));
  }
  int child_error = 0;
  ssize_t n = 0;
  do {
    n = ::read(error_pipe[0], &child_error, sizeof child_error);
  } while (n < 0 && errno == EINTR);
  ::close(error_pipe[0]);
  if (n == static_cast<ssize_t>(sizeof child_error)) {
    ::waitpid(pid, nullptr, 0);
    return Status(Code::kFailed, fmt::format("cannot start '{}': {}", options.argv[0],
                                             std::strerror(child_error)));
  }
  return pid;
}

std::optional<int> try_reap(pid_t pid) {
  int status = 0;
  const pid_t ended = ::waitpid(pid, &status, WNOHANG);
  if (ended != pid) return std::nullopt;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool process_alive(pid_t pid) {
  const std::string fields = stat_fields(pid);
  return !fields.empty() && fields[0] != 'Z' && fields[0] != 'X';
}

int64_t process_start_ticks(pid_t pid) {
  std::istringstream fields(stat_fields(pid));
  std::string word;
  for (int field = 3; field <= 22; ++field) {
    if (!(fields >> word)) return 0;
  }
  return std::strtoll(word.c_str(), nullptr, 10);
}

std::vector<pid_t> child_processes() {
  std::vector<pid_t> children;
  const std::string parent = std::to_string(::getpid());
  for (const pid_t pid : all_processes()) {
    std::istringstream fields(stat_fields(pid));  // state, parent …
    std::string state, word;
    if (fields >> state >> word && word == parent) children.push_back(pid);
  }
  return children;
}

bool process_has_env(pid_t pid, const std::string& entry) {
  // Each variable ends with a NUL; the first has none before it.
  const std::string environment = '\0' + read_text(fmt::format("/proc/{}/environ", pid));
  return environment.find('\0' + entry + '\0') != std::string::npos && process_alive(pid);
}

std::vector<pid_t> processes_with_env(const std::string& entry) {
  std::vector<pid_t> found;
  for (const pid_t pid : all_processes()) {
    if (process_has_env(pid, entry)) found.push_back(pid);
  }
  return found;
}

std::string boot_id() {
  std::string id = read_text("/proc/sys/kernel/random/boot_id");
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

}  // namespace dsv3
