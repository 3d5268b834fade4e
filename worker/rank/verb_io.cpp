// See verb_io.h.
#include "worker/rank/verb_io.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>

#include "base/failure.h"
#include "base/file.h"
#include "base/leftovers.h"

namespace dsv3::rank {
namespace {

int exit_code_for_ctl(Code code) {
  switch (code) {
    case Code::kOutOfMemory:
      return static_cast<int>(Code::kDoesNotFit);
    case Code::kDevice:
    case Code::kPeerLost:
    case Code::kCollectiveTimeout:
    case Code::kLossNotFinite:
    case Code::kCheckpointUnusable:
    case Code::kTemporary:
    case Code::kNeverRestart:
      return static_cast<int>(Code::kFailed);
    default:
      return static_cast<int>(code);
  }
}

// Started as a child of dsv3ctl (submit prepares data so) and not in its place, a verb ends with
// it.
void end_with_dsv3ctl() {
  std::error_code error;
  const pid_t parent = ::getppid();
  const auto program = std::filesystem::read_symlink(fmt::format("/proc/{}/exe", parent), error);
  if (program != executable_dir() + "/dsv3ctl") return;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::kill(::getpid(), SIGTERM);  // it ended before the line above
}

Status caught(const std::function<Status()>& body) {
  try {
    return body();
  } catch (const Failure& failure) {
    return Status(failure.code(), failure.what());
  } catch (const std::bad_alloc&) {
    return Status(Code::kOutOfMemory, "the system gave no more memory");
  } catch (const std::exception& fault) {
    return Status(Code::kFailed, fault.what());
  }
}

}  // namespace

int fail_verb(bool json, const Status& status) {
  if (json) {
    const nlohmann::ordered_json error{{"error",
                                        {{"code", code_name(status.code())},
                                         {"message", status.message()},
                                         {"hint", status.hint()},
                                         {"where", status.where()}}}};
    say("{}\n", error.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    say("dsv3ctl: {}\n", status.to_string());
  }
  return exit_code_for_ctl(status.code());
}

void print_object(const nlohmann::ordered_json& object) {
  nlohmann::ordered_json out{{"schema_version", 1}};
  out.update(object);
  fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

int run_verb(CLI::App& app, const std::vector<std::string>& words, const bool& json,
             const std::function<Status()>& body) {
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& fault) {
    // The words behind the wrong one were not parsed.
    const bool wanted = json || std::find(words.begin(), words.end(), "--json") != words.end();
    return fail_verb(
        wanted, Status(Code::kInvalid, fault.what(), fmt::format("see {} --help", app.get_name())));
  }
  if (Status status = remove_leftovers_on_signals("dsv3ctl"); !status.ok())
    return fail_verb(json, status);
  end_with_dsv3ctl();
  const Status status = caught(body);
  wait_if_ending();
  return status.ok() ? 0 : fail_verb(json, status);
}

ProgressLine::ProgressLine(bool phases_without_terminal)
    : terminal_(::isatty(STDERR_FILENO) == 1), phases_(phases_without_terminal) {}

void ProgressLine::show(std::string_view phase, int64_t done, int64_t total) {
  const int percent = total > 0 ? static_cast<int>(100 * done / total) : 100;
  if (terminal_ && (percent != last_percent_ || phase != last_phase_)) {
    say("\r\033[K{} {}%", phase, percent);
    std::fflush(stderr);
    open_ = true;
  } else if (!terminal_ && phases_ && phase != last_phase_) {
    say("{}\n", phase);
  }
  last_percent_ = percent;
  last_phase_ = phase;
}

void ProgressLine::end() {
  if (open_) say("\r\033[K");
  open_ = false;
}

}  // namespace dsv3::rank
