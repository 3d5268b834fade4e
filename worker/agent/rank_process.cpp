// See rank_process.h.
#include "worker/agent/rank_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/process.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"

namespace dsv3::agent {
namespace {

constexpr int kLinkFd = 3;

void send_frame(link::Channel& channel, const wire::AgentFrame& frame) {
  const Result<std::string> encoded = protocol::encode(frame);
  if (encoded.ok()) channel.send(*encoded);
}

}  // namespace

Result<RankProcess> RankProcess::start(const RankLaunch& launch) {
  DSV3_ASSIGN_OR_RETURN(const auto fds, link::make_socketpair());
  SpawnOptions options{.argv = launch.argv, .extra_env = launch.env};
  options.argv.push_back("--link-fd");
  options.argv.push_back(std::to_string(kLinkFd));
  options.stdout_path = launch.log_path;
  options.stderr_path = launch.log_path;
  options.working_dir = launch.working_dir;
  options.fds = {{fds.second, kLinkFd}};
  options.new_session = true;
  options.die_with_parent = true;
  const Result<pid_t> pid = spawn(options);
  ::close(fds.second);
  if (!pid.ok()) {
    ::close(fds.first);
    return pid.status();
  }
  RankProcess rank;
  rank.rank_ = launch.rank;
  rank.pid_ = *pid;
  Result<link::Channel> channel = link::Channel::adopt(fds.first);
  DSV3_CHECK(channel.ok());
  rank.channel_ = std::move(channel).value();
  return rank;
}

void RankProcess::read(const std::function<void(wire::RankMessage)>& on_message) {
  if (!channel_.open()) return;
  const Status status = channel_.receive([&](const std::string& bytes) -> Status {
    wire::RankFrame frame;
    DSV3_RETURN_IF_ERROR(protocol::decode(bytes, &frame));
    on_message(std::move(*frame.mutable_message()));
    return {};
  });
  if (!status.ok()) log::warning("rank {}: its link is closed: {}", rank_, status.to_string());
}

void RankProcess::ask_to_end(bool checkpoint, const std::string& reason) {
  if (!alive()) return;
  if (!channel_.open()) {
    ::kill(pid_, SIGTERM);
    return;
  }
  wire::AgentFrame frame;
  frame.mutable_stop()->set_checkpoint(checkpoint);
  frame.mutable_stop()->set_reason(reason);
  send_frame(channel_, frame);
}

void RankProcess::ask_for_checkpoint() {
  wire::AgentFrame frame;
  frame.mutable_checkpoint_now();
  if (alive()) send_frame(channel_, frame);
}

void RankProcess::kill() {
  if (!alive()) return;
  ::kill(-pid_, SIGKILL);
  killed_ = true;
}

std::optional<RankEnd> RankProcess::reap() {
  if (!alive()) return std::nullopt;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  RankEnd end;
  if (WIFSIGNALED(status)) {
    end = {128 + WTERMSIG(status), WTERMSIG(status), killed_ && WTERMSIG(status) == SIGKILL};
  } else {
    end = {WEXITSTATUS(status), 0};
  }
  ::kill(-pid_, SIGKILL);  // children that it may have left behind
  end_ = end;
  return end;
}

Status become_reaper() {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0) return {};
  return Status(Code::kFailed, std::string("prctl: ") + std::strerror(errno));
}

bool end_orphans() {
  while (true) {
    const pid_t ended = ::waitpid(-1, nullptr, WNOHANG);
    if (ended < 0) return true;
    if (ended == 0) break;
  }
  for (const pid_t pid : child_processes()) ::kill(pid, SIGKILL);
  return false;
}

}  // namespace dsv3::agent
