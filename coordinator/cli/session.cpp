// Connecting to dsv3d, and starting it in the background; see session.h.
#include "coordinator/cli/session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/filesystem.h"
#include "base/process.h"
#include "coordinator/cli/output.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

constexpr useconds_t kConflictPauseUs = 200'000;

// The pid of the coordinator that answers.
Result<pid_t> ping(transport::Client& client, int timeout_ms) {
  wire::Envelope request, reply;
  request.mutable_ping();
  DSV3_RETURN_IF_ERROR(client.request(request, &reply, timeout_ms));
  return static_cast<pid_t>(reply.ping_reply().coordinator().pid());
}

constexpr int64_t kNoRoomBytes = int64_t{1} << 20;

// The end of dsv3d's log, for the sentence about a start that failed.
std::string last_line(const std::string& path) {
  auto text = read_file(path);
  if (!text.ok() || text->empty()) {
    const auto disk = filesystem_of(std::filesystem::path(path).parent_path().string());
    if (disk.ok() && disk->free_bytes < kNoRoomBytes)
      return "the state directory's disk is full: make room there";
    return "it wrote nothing to its log";
  }
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return text->substr(text->rfind('\n') + 1);
}

Result<pid_t> start_daemon(const Globals& globals, const std::string& log_path) {
  return spawn({.argv = {executable_dir() + "/dsv3d", "--state-dir", globals.state_dir},
                .stdout_path = log_path,
                .stderr_path = log_path,
                .new_session = true});
}

Status ended_at_once(int code, const std::string& log_path) {
  return Status(
      code < 128 ? static_cast<Code>(code) : Code::kFailed,
      fmt::format("the coordinator ended at once (code {}): {}", code, last_line(log_path)),
      fmt::format("its log is {}", log_path));
}

// Starts dsv3d and waits until a coordinator answers; *started tells whether it is that one.
Result<transport::Client> start_and_wait(const Globals& globals, bool* started) {
  const std::string log_path = globals.state_dir + "/dsv3d.log";
  const Clock& clock = system_clock();
  const int64_t deadline_ns = clock.steady_ns() + int64_t{kStartTimeoutMs} * 1'000'000;
  DSV3_ASSIGN_OR_RETURN(pid_t pid, start_daemon(globals, log_path));
  while (clock.steady_ns() < deadline_ns) {
    if (auto client = transport::Client::connect(globals.state_dir); client.ok()) {
      if (const auto answers = ping(*client, 2000); answers.ok()) {
        *started = *answers == pid;
        return client;
      }
    }
    ::usleep(5000);
    const auto code = try_reap(pid);
    if (!code) continue;
    if (*code != static_cast<int>(Code::kConflict)) return ended_at_once(*code, log_path);
    // Another has the state directory: started at the same time as this one, it answers soon; or it
    // is about to end, and the next start succeeds.
    ::usleep(kConflictPauseUs);
    DSV3_ASSIGN_OR_RETURN(pid, start_daemon(globals, log_path));
  }
  return Status(Code::kTimeout,
                fmt::format("the coordinator (pid {}) did not answer within {} s", pid,
                            kStartTimeoutMs / 1000),
                fmt::format("its log is {}", log_path));
}

// Ok when the state directory can be used or made; said here, before its files are looked for.
Status check_is_dir(const std::string& path) {
  std::error_code error;
  std::filesystem::path part = path;
  while (!std::filesystem::exists(part, error) && part != part.parent_path())
    part = part.parent_path();
  if (std::filesystem::is_directory(part, error)) return {};
  return Status(Code::kFailed,
                fmt::format("the state directory {} can't be: {} is a file", path, part.string()),
                "choose another --state-dir");
}

Status check_is_writable(const std::string& path) {
  if (::access(path.c_str(), W_OK | X_OK) == 0) return {};
  return Status(
      Code::kFailed,
      fmt::format("the state directory {} can't be written: {}", path, std::strerror(errno)),
      "choose another --state-dir; 'dsv3ctl doctor' looks at it");
}

}  // namespace

Result<transport::Client> connect(const Globals& globals) {
  DSV3_RETURN_IF_ERROR(check_is_dir(globals.state_dir));
  auto client = transport::Client::connect(globals.state_dir);
  if (client.ok() || client.status().code() != Code::kNoCoordinator) return client;
  return Status(Code::kNoCoordinator,
                fmt::format("no coordinator is running for {}", globals.state_dir),
                "start one with 'dsv3ctl up' ('dsv3ctl submit' does it by itself)");
}

Result<transport::Client> connect_or_start(const Globals& globals, bool* started) {
  if (started != nullptr) *started = false;
  DSV3_RETURN_IF_ERROR(check_is_dir(globals.state_dir));
  auto client = transport::Client::connect(globals.state_dir);
  if (client.ok() || client.status().code() != Code::kNoCoordinator) return client;
  DSV3_RETURN_IF_ERROR(make_dirs(globals.state_dir, 0700));
  DSV3_RETURN_IF_ERROR(check_is_writable(globals.state_dir));
  bool own = false;
  DSV3_ASSIGN_OR_RETURN(transport::Client connected, start_and_wait(globals, &own));
  if (started != nullptr) *started = own;
  return connected;
}

Status ask(transport::Client& client, const wire::Envelope& request, wire::Envelope* reply,
           int timeout_ms) {
  return client.request(request, reply, timeout_ms);
}

}  // namespace dsv3::cli
