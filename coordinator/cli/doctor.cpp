// dsv3ctl doctor: is this machine ready? One line a check, with what to do.
//
// Law: it changes nothing, starts no coordinator, and no look waits longer than seconds. What a
// fact means is doctor_checks.cpp's.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "base/text.h"
#include "configs/spec/presets.h"
#include "coordinator/cli/doctor_checks.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

extern char** environ;

namespace dsv3::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kAnswerMs = 3000;
constexpr size_t kVersionBytesMax = 200;

// What a program prints, its end or kAnswerMs, whichever is first.
Result<std::string> output_of(const std::vector<std::string>& argv) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) return Status(Code::kFailed, "no pipe for its answer");
  const Result<pid_t> pid = spawn({.argv = argv,
                                   .stderr_path = "/dev/null",
                                   .fds = {{ends[1], STDOUT_FILENO}},
                                   .die_with_parent = true});
  ::close(ends[1]);
  std::string text;
  const int64_t deadline_ns = system_clock().steady_ns() + int64_t{kAnswerMs} * 1'000'000;
  while (pid.ok() && text.size() < kVersionBytesMax) {
    const int64_t left_ms = (deadline_ns - system_clock().steady_ns()) / 1'000'000;
    pollfd readable{.fd = ends[0], .events = POLLIN, .revents = 0};
    if (left_ms <= 0 || ::poll(&readable, 1, static_cast<int>(left_ms)) <= 0) break;
    char buffer[kVersionBytesMax];
    const ssize_t n = ::read(ends[0], buffer, sizeof buffer);
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  ::close(ends[0]);
  if (!pid.ok()) return pid.status();
  while (!try_reap(*pid)) {
    if (system_clock().steady_ns() > deadline_ns) ::kill(*pid, SIGKILL);
    ::usleep(1000);
  }
  return text;
}

// The last word of the first line: "dsv3-worker 0.1.0" and "0.1.0" both say 0.1.0.
std::string version_in(const std::string& text) {
  const std::string line = text.substr(0, text.find('\n'));
  return line.substr(line.rfind(' ') + 1);
}

Binary look_at_binary(const std::string& dir, const std::string& name) {
  Binary binary{.name = name};
  const std::string path = dir + "/" + name;
  if (!path_exists(path)) {
    binary.fault = "it is not there";
  } else if (::access(path.c_str(), X_OK) != 0) {
    binary.fault = "it can't be executed";
  } else if (const auto text = output_of({path, "--version"}); !text.ok()) {
    binary.fault = text.status().message();
  } else {
    binary.version = version_in(*text);
  }
  return binary;
}

StateDir look_at_state_dir(const std::string& path) {
  StateDir dir{.path = path};
  struct stat info {};
  dir.exists = ::stat(path.c_str(), &info) == 0;
  if (dir.exists) {
    dir.is_dir = S_ISDIR(info.st_mode);
    dir.mode = info.st_mode & 07777;
    dir.own = info.st_uid == ::geteuid();
  }
  fs::path nearest = path;
  std::error_code error;
  while (!fs::exists(nearest, error) && nearest.has_parent_path() &&
         nearest != nearest.parent_path())
    nearest = nearest.parent_path();
  dir.nearest = nearest.string();
  // A file in the way is told as such, wherever in the path it stands.
  if (!fs::is_directory(nearest, error)) {
    dir.exists = true;
    dir.is_dir = false;
    dir.path = dir.nearest;
  }
  dir.writable =
      fs::is_directory(nearest, error) && ::access(dir.nearest.c_str(), W_OK | X_OK) == 0;
  const Result<Filesystem> filesystem = filesystem_of(dir.nearest);
  dir.filesystem_status = filesystem.status();
  if (filesystem.ok()) dir.filesystem = *filesystem;
  return dir;
}

Check look_at_presets() {
  const auto dir = spec::configs_dir();
  if (!dir.ok()) return check_presets("", 0, dir.status().message());
  const auto presets = spec::list_presets();
  if (!presets.ok()) return check_presets(*dir, 0, presets.status().to_string());
  return check_presets(*dir, presets->size(), "");
}

Check look_at_keys(const std::string& state_dir) {
  std::vector<std::string> open_to_others;
  bool any = false;
  std::error_code error;
  fs::directory_iterator entry(state_dir + "/keys", error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    struct stat info {};
    if (entry->path().extension() != ".key" || ::stat(entry->path().c_str(), &info) != 0) continue;
    any = true;
    if ((info.st_mode & 077) != 0) open_to_others.push_back(entry->path().string());
  }
  return check_keys(any, open_to_others);
}

Check look_at_coordinator(const Globals& globals) {
  auto client = transport::Client::connect(globals.state_dir);
  if (!client.ok()) return check_coordinator(client.status(), 0, "", DSV3_VERSION);
  wire::Envelope request, reply;
  request.mutable_ping();
  const Status asked = ask(*client, request, &reply, kAnswerMs);
  const wire::CoordinatorInfo& info = reply.ping_reply().coordinator();
  return check_coordinator(asked, info.pid(), info.version(), DSV3_VERSION);
}

Check look_at_environment(int cores) {
  std::vector<std::string> left_over;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (is_tuning_variable(text.substr(0, text.find('=')))) left_over.emplace_back(text);
  }
  return check_environment(left_over, cores);
}

Check look_at_clock(const std::string& dir) {
  struct stat info {};
  const int64_t built_s = ::stat((dir + "/dsv3ctl").c_str(), &info) == 0 ? info.st_mtime : 0;
  timex clock{};  // modes 0: reads only
  const int state = ::adjtimex(&clock);
  const bool synchronised = state >= 0 && state != TIME_ERROR && (clock.status & STA_UNSYNC) == 0;
  return check_clock(system_clock().wall_ns() / 1'000'000'000, built_s, synchronised);
}

Check look_at_tools() {
  const char* variable = ::getenv("PATH");
  std::vector<std::string> found, absent;
  for (const char* tool : {"ssh", "sbatch", "srun", "nvidia-smi"}) {
    bool there = false;
    for (const std::string& dir : split(variable == nullptr ? "" : variable, ':'))
      there |= !dir.empty() && ::access((dir + "/" + tool).c_str(), X_OK) == 0;
    (there ? found : absent).emplace_back(tool);
  }
  return check_tools(found, absent);
}

std::vector<Check> examine(const Globals& globals) {
  const std::string dir = executable_dir();
  const inventory::MachineFacts facts = inventory::probe_machine();
  const std::string plugin_path = dir + "/libdsv3_cuda.so";
  Plugin plugin{.is_there = path_exists(plugin_path)};
  if (plugin.is_there) plugin.fault = inventory::try_library(plugin_path, "dsv3_backend_create_v2");
  std::vector<Binary> binaries;
  for (const char* name : {"dsv3d", "dsv3-agent", "dsv3-worker"})
    binaries.push_back(look_at_binary(dir, name));
  rlimit files{};
  (void)::getrlimit(RLIMIT_NOFILE, &files);
  return {check_cpu(facts),
          check_memory(facts.memory),
          check_gpus(facts, plugin),
          check_binaries(dir, DSV3_VERSION, binaries),
          look_at_presets(),
          check_state_dir(look_at_state_dir(globals.state_dir)),
          look_at_keys(globals.state_dir),
          look_at_coordinator(globals),
          check_open_files(files.rlim_cur, files.rlim_max),
          look_at_environment(facts.cores),
          look_at_clock(dir),
          look_at_tools()};
}

const char* level_name(Level level) {
  return level == Level::kOk ? "ok" : level == Level::kWarning ? "warning" : "error";
}

int doctor(const Globals& globals) {
  const std::vector<Check> checks = examine(globals);
  int errors = 0, warnings = 0;
  Json list = Json::array();
  std::string text;
  for (const Check& check : checks) {
    errors += check.level == Level::kError ? 1 : 0;
    warnings += check.level == Level::kWarning ? 1 : 0;
    list.push_back({{"name", check.name},
                    {"level", level_name(check.level)},
                    {"message", check.message},
                    {"hint", check.hint}});
    const Color color = check.level == Level::kOk        ? Color::kGreen
                        : check.level == Level::kWarning ? Color::kYellow
                                                         : Color::kRed;
    constexpr int kColumn = 22;
    const std::string said =
        one_line(check.message + (check.hint.empty() ? "" : " → " + check.hint));
    text += paint(fmt::format("{:<8}", level_name(check.level)), color, globals.color) +
            fmt::format(" {:<13}{}\n", check.name, wrap(said, kColumn, help_columns() - kColumn));
  }
  if (globals.json) {
    print_json(
        {{"ready", errors == 0}, {"errors", errors}, {"warnings", warnings}, {"checks", list}});
  } else {
    text += errors > 0     ? "not ready: mend the errors first\n"
            : warnings > 0 ? "ready, with warnings: dsv3ctl submit demo --wait\n"
                           : "ready: dsv3ctl submit demo --wait\n";
    print(text);
  }
  return errors > 0 ? static_cast<int>(Code::kFailed) : 0;
}

}  // namespace

Verb make_doctor() {
  Verb verb;
  verb.name = "doctor";
  verb.group = "Help";
  verb.summary = "Is this machine ready: what is here, what is wrong, what to do";
  verb.help =
      "Looks at the processor, memory, GPUs, binaries, presets, state directory, keys, "
      "coordinator, limits, "
      "environment and clock. Changes nothing.\n"
      "Examples:\n"
      "  dsv3ctl doctor\n"
      "  dsv3ctl doctor --state-dir /scratch/me/state --json\n"
      "Exit codes: 0 ready (warnings allowed), 1 there is an error.";
  verb.run = [](const Globals& globals) { return doctor(globals); };
  return verb;
}

}  // namespace dsv3::cli
