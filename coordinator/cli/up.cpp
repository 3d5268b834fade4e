// dsv3ctl up and down: start and stop this user's coordinator.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/transport/coordinator_file.h"

namespace dsv3::cli {
namespace {

constexpr int kDownTimeoutMs = 60'000;

int up(const Globals& globals, bool foreground) {
  if (foreground) {
    const std::string program = executable_dir() + "/dsv3d";
    ::execl(program.c_str(), program.c_str(), "--state-dir", globals.state_dir.c_str(), nullptr);
    return fail(globals, Status(Code::kFailed, fmt::format("cannot start '{}'", program)));
  }
  bool started = false;
  auto client = connect_or_start(globals, &started);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, reply;
  request.mutable_ping();
  if (Status status = ask(*client, request, &reply); !status.ok()) return fail(globals, status);
  const wire::CoordinatorInfo& info = reply.ping_reply().coordinator();
  if (globals.json) {
    print_json({{"started", started},
                {"pid", info.pid()},
                {"state_dir", info.state_dir()},
                {"version", info.version()}});
  } else {
    note(fmt::format("{} coordinator (pid {}), state in {}",
                     started ? "started a" : "there is already a", info.pid(), info.state_dir()));
  }
  return 0;
}

// ZeroMQ drops an answer that is not read yet when the connection goes: a coordinator that had
// nothing to end may be gone before it is heard. Only an end by its own will takes its file away.
bool has_ended_cleanly(const Globals& globals) {
  return !path_exists(transport::coordinator_file_path(globals.state_dir));
}

void print_down(const Globals& globals, const std::string& text,
                const std::vector<std::string>& jobs) {
  if (globals.json) {
    print_json({{"stopped", true}, {"jobs_ended", jobs}});
  } else {
    note(text);
  }
}

int down(const Globals& globals) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, reply;
  request.mutable_shutdown()->set_cancel_jobs(true);
  Status status = ask(*client, request, &reply);
  if (status.code() == Code::kNoCoordinator && has_ended_cleanly(globals)) {
    print_down(globals, "the coordinator has ended", {});
    return 0;
  }
  if (!status.ok()) return fail(globals, status);
  const wire::ShutdownReply& answer = reply.shutdown_reply();
  for (const std::string& job : answer.jobs()) note(fmt::format("ending job {}", job));
  const auto pid = static_cast<pid_t>(answer.pid());
  const int64_t deadline_ns = system_clock().steady_ns() + int64_t{kDownTimeoutMs} * 1'000'000;
  while (process_alive(pid)) {
    if (system_clock().steady_ns() > deadline_ns) {
      return fail(globals,
                  Status(Code::kTimeout,
                         fmt::format("the coordinator (pid {}) is still ending its jobs", pid),
                         "look at 'dsv3ctl status', or try again"));
    }
    ::usleep(5000);
  }
  print_down(globals, fmt::format("the coordinator (pid {}) has ended", pid),
             {answer.jobs().begin(), answer.jobs().end()});
  return 0;
}

}  // namespace

Verb make_up() {
  auto foreground = std::make_shared<bool>(false);
  Verb verb;
  verb.name = "up";
  verb.group = "Run";
  verb.summary = "Start a coordinator here (submit does it by itself)";
  verb.help =
      "One coordinator for each user and state directory; it outlives this terminal.\n"
      "Example:\n  dsv3ctl up\n"
      "Then 'dsv3ctl submit FILE'; 'dsv3ctl down' ends it.";
  verb.options = {{"--foreground",
                   foreground.get(),
                   "Stay attached; log to the terminal",
                   false,
                   Completes::kNothing,
                   {}}};
  verb.run = [foreground](const Globals& globals) { return up(globals, *foreground); };
  return verb;
}

Verb make_down() {
  Verb verb;
  verb.name = "down";
  verb.group = "Run";
  verb.summary = "End the coordinator's jobs, then the coordinator";
  verb.help =
      "Jobs write a checkpoint before they end.\nExample:\n  dsv3ctl down\n"
      "Then 'dsv3ctl up' and 'dsv3ctl resume JOB' go on.\n"
      "Exit codes: 3 no coordinator, 124 it is still ending its jobs.";
  verb.run = [](const Globals& globals) { return down(globals); };
  return verb;
}

}  // namespace dsv3::cli
