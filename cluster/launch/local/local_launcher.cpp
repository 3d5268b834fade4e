// Start, find again, end; see local_launcher.h.
//
// The record is written twice: before the start with pid 0 (an agent may exist soon), after it with
// the pid. A coordinator that died in between finds pid 0 and looks in /proc for a process with
// exactly this agent's argument list.
#include "cluster/launch/local/local_launcher.h"

#include <dirent.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file.h"
#include "base/process.h"

namespace dsv3::launch {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A process whose argument list is exactly `argv`; 0 when there is none.
pid_t find_by_argv(const std::vector<std::string>& argv) {
  std::string wanted;
  for (const std::string& arg : argv) wanted += arg + '\0';
  DIR* proc = ::opendir("/proc");
  if (proc == nullptr) return 0;
  pid_t found = 0;
  while (const dirent* entry = ::readdir(proc)) {
    pid_t pid = 0;
    const char* name = entry->d_name;
    const auto [end, error] = std::from_chars(name, name + std::strlen(name), pid);
    if (error != std::errc() || *end != '\0') continue;
    if (read_text(fmt::format("/proc/{}/cmdline", pid)) == wanted && process_alive(pid))
      found = pid;
  }
  ::closedir(proc);
  return found;
}

constexpr const char* kMarkName = "DSV3_AGENT";

std::string mark_of(const AgentSpec& spec) {
  return fmt::format("{}#{}@{}", spec.job_dir, spec.key.attempt, spec.key.node);
}

// Of an agent that has ended: its ranks die with it, but not at the same instant, and what they
// started need not. True when nothing is there.
bool kill_what_is_left(const AgentSpec& spec) {
  const std::string entry = fmt::format("{}={}", kMarkName, mark_of(spec));
  const std::vector<pid_t> left = processes_with_env(entry);
  for (const pid_t pid : left) {
    // Between the look and the signal the number could be given anew: the descriptor can't.
    const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (fd < 0) continue;
    if (process_has_env(pid, entry)) ::syscall(SYS_pidfd_send_signal, fd, SIGKILL, nullptr, 0);
    ::close(fd);
  }
  return left.empty();
}

}  // namespace

struct LocalLauncher::Record {
  pid_t pid = 0;  // 0: about to be started
  int64_t start_ticks = 0;
  std::string boot_id;

  std::string to_json() const {
    return nlohmann::json{{"pid", pid}, {"start_ticks", start_ticks}, {"boot_id", boot_id}}.dump();
  }
  // Still that process, not a later one with its number.
  bool alive() const {
    return pid > 0 && boot_id == dsv3::boot_id() && process_start_ticks(pid) == start_ticks &&
           process_alive(pid);
  }
};

LocalLauncher::LocalLauncher(std::string program, const Clock& clock)
    : program_(program.empty() ? executable_dir() + "/dsv3-agent" : std::move(program)),
      clock_(clock) {}

std::string LocalLauncher::record_path(const AgentSpec& spec) {
  return fmt::format("{}/run/agent-{}.{}.json", spec.job_dir, spec.key.node, spec.key.attempt);
}

Result<LocalLauncher::Record> LocalLauncher::read_record(const AgentSpec& spec) {
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(record_path(spec), 64 << 10));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  Record record;
  try {
    record.pid = json.at("pid");
    record.start_ticks = json.at("start_ticks");
    record.boot_id = json.at("boot_id");
  } catch (const nlohmann::json::exception& fault) {
    return Status(Code::kInvalid, fmt::format("'{}' is not an agent's record", record_path(spec)),
                  "remove the file once no dsv3-agent of this job runs");
  }
  return record;
}

AgentStatus LocalLauncher::status_of(const AgentSpec& spec, const Record& record) {
  Live& live = live_[spec.key];
  AgentStatus status;
  status.where = fmt::format("pid {}", record.pid);
  if (const std::optional<int> code = try_reap(record.pid)) live.exit_code = code;
  status.exit_code = live.exit_code;
  const bool ended = live.exit_code.has_value() || !record.alive();
  if (ended && !live.left_nothing) live.left_nothing = kill_what_is_left(spec);
  status.state = live.left_nothing ? AgentState::kExited : AgentState::kRunning;
  return status;
}

Result<AgentStatus> LocalLauncher::submit(const AgentSpec& spec) {
  if (!is_plain_name(spec.key.node) || !is_plain_name(spec.key.job)) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' or '{}' is not a plain name", spec.key.job, spec.key.node));
  }
  const std::vector<std::string> argv = agent_argv(program_, spec);
  Record record;
  if (path_exists(record_path(spec))) {
    DSV3_ASSIGN_OR_RETURN(const AgentStatus status, poll(spec));
    if (status.state == AgentState::kRunning) return status;
    DSV3_ASSIGN_OR_RETURN(record, read_record(spec));
    if (record.pid != 0) {
      return Status(Code::kConflict, fmt::format("the agent of {} attempt {} on {} has ended",
                                                 spec.key.job, spec.key.attempt, spec.key.node));
    }
  }
  DSV3_RETURN_IF_ERROR(make_dirs(spec.job_dir + "/run", 0700));
  DSV3_RETURN_IF_ERROR(make_dirs(spec.job_dir + "/logs"));
  record.boot_id = boot_id();
  DSV3_RETURN_IF_ERROR(write_file(record_path(spec), record.to_json(), 0600));
  SpawnOptions options{.argv = argv, .extra_env = spec.env};
  options.stdout_path = agent_log_path(spec);
  options.stderr_path = agent_log_path(spec);
  options.new_session = true;
  options.extra_env.emplace_back(kMarkName, mark_of(spec));
  DSV3_ASSIGN_OR_RETURN(record.pid, spawn(options));
  record.start_ticks = process_start_ticks(record.pid);
  const Status written = write_file(record_path(spec), record.to_json(), 0600);
  if (!written.ok()) {  // an agent that nobody could find again must not run
    ::kill(-record.pid, SIGKILL);
    return written;
  }
  return status_of(spec, record);
}

Result<AgentStatus> LocalLauncher::poll(const AgentSpec& spec) {
  if (!path_exists(record_path(spec))) {
    if (const auto live = live_.find(spec.key); live != live_.end()) {
      // Its record was deleted under it: the process says what is so.
      AgentStatus status{AgentState::kRunning, std::nullopt, "its record was deleted"};
      if (find_by_argv(agent_argv(program_, spec)) != 0) return status;
      live->second.left_nothing = kill_what_is_left(spec);
      if (live->second.left_nothing) status.state = AgentState::kExited;
      return status;
    }
    return Status(Code::kNotFound, fmt::format("no agent was started for {} attempt {} on {}",
                                               spec.key.job, spec.key.attempt, spec.key.node));
  }
  DSV3_ASSIGN_OR_RETURN(Record record, read_record(spec));
  if (record.pid == 0) {  // whoever started it died before writing the pid
    record.pid = record.boot_id == boot_id() ? find_by_argv(agent_argv(program_, spec)) : 0;
    if (record.pid == 0) return AgentStatus{AgentState::kExited, std::nullopt, "never started"};
    record.start_ticks = process_start_ticks(record.pid);
    DSV3_RETURN_IF_ERROR(write_file(record_path(spec), record.to_json(), 0600));
  }
  const AgentStatus status = status_of(spec, record);
  const Live& live = live_[spec.key];
  if (record.alive() && live.kill_at_ns && clock_.steady_ns() >= *live.kill_at_ns) {
    ::kill(-record.pid, SIGKILL);  // its ranks die with it
  }
  return status;
}

Status LocalLauncher::cancel(const AgentSpec& spec, int64_t grace_ms) {
  Result<AgentStatus> status = poll(spec);
  if (!status.ok()) return status.status().code() == Code::kNotFound ? Status() : status.status();
  if (status->state == AgentState::kExited) return {};
  DSV3_ASSIGN_OR_RETURN(const Record record, read_record(spec));
  if (!record.alive()) return {};  // what it left is looked after by poll()
  Live& live = live_[spec.key];
  const int64_t kill_at_ns = clock_.steady_ns() + grace_ms * 1'000'000;
  if (!live.kill_at_ns || kill_at_ns < *live.kill_at_ns) live.kill_at_ns = kill_at_ns;
  if (grace_ms <= 0) {
    ::kill(-record.pid, SIGKILL);
  } else if (!live.asked) {
    ::kill(record.pid, SIGTERM);
    live.asked = true;
  }
  return {};
}

}  // namespace dsv3::launch
