// Start, loop, end; see daemon.h.
#include "coordinator/daemon/daemon.h"

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "cluster/inventory/inventory.h"
#include "cluster/launch/local/local_launcher.h"
#include "coordinator/transport/coordinator_file.h"

namespace dsv3::daemon {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
// Messages taken before time and signals are looked at again.
constexpr int kMessagesPerTurn = 256;

Result<core::State> state_of(const std::vector<core::Event>& log) {
  core::State state;
  for (const core::Event& event : log) DSV3_RETURN_IF_ERROR(core::apply(state, event));
  return state;
}

}  // namespace

Daemon::Daemon(Options options, store::Writer writer, store::Reader reader,
               transport::Server server)
    : options_(std::move(options)),
      writer_(std::move(writer)),
      reader_(std::move(reader)),
      server_(std::move(server)) {
  launchers_["local"] = std::make_unique<launch::LocalLauncher>(options_.agent_program);
  instance_ = fmt::format("{:x}-{}", clock_.wall_ns(), ::getpid());
  started_steady_ns_ = clock_.steady_ns();
}

Result<std::unique_ptr<Daemon>> Daemon::create(Options options) {
  std::error_code error;
  options.state_dir =
      std::filesystem::absolute(options.state_dir, error).lexically_normal().string();
  DSV3_ASSIGN_OR_RETURN(store::Writer writer, store::Writer::open(options.state_dir));
  DSV3_ASSIGN_OR_RETURN(store::Reader reader, store::Reader::open(options.state_dir));
  DSV3_RETURN_IF_ERROR(transport::ensure_keys(options.state_dir));
  // The port of the last time, if it is free: agents that are still there find us without looking.
  const auto before = transport::read_coordinator_file_of_any(options.state_dir);
  DSV3_ASSIGN_OR_RETURN(
      transport::Server server,
      transport::Server::bind(options.state_dir, before.ok() ? before->endpoint : ""));
  DSV3_ASSIGN_OR_RETURN(const std::vector<core::Event> log, writer.read_log());
  std::unique_ptr<Daemon> daemon(
      new Daemon(std::move(options), std::move(writer), std::move(reader), std::move(server)));
  DSV3_RETURN_IF_ERROR(daemon->replay(log));
  DSV3_RETURN_IF_ERROR(daemon->publish());
  return daemon;
}

Status Daemon::replay(const std::vector<core::Event>& log) {
  DSV3_ASSIGN_OR_RETURN(state_, state_of(log));
  for (const auto& [id, job] : state_.jobs) {
    if (!job.attempt || job.attempt->state == core::AttemptState::kEnded) continue;
    for (const auto& [node, agent] : job.attempt->agents)
      watched_.insert({id, job.attempt->number, node});
  }
  if (!log.empty())
    log::info("replayed {} events: {} jobs, {} active", log.size(), state_.jobs.size(),
              num_active_jobs(state_));
  return process(core::StartedInput{instance_, ::getpid()}).status();
}

Status Daemon::undo(const Pending& pending, const Status& refused) {
  if (!std::exchange(disk_full_, true)) {
    log::error(
        "{}: what is asked is refused until there is room; jobs go on, and their reports "
        "are kept by their agents",
        refused.to_string());
  }
  next_tick_ns_ = clock_.steady_ns() + kFullTickMs * kNsPerMs;
  if (pending.times_before) times_ = *pending.times_before;
  if (!pending.batch.events.empty()) {
    const Result<std::vector<core::Event>> log = writer_.read_log();
    Result<core::State> state = log.ok() ? state_of(*log) : log.status();
    if (!state.ok()) return fatal_ = state.status();
    state_ = std::move(state).value();
  }
  return Status(Code::kFailed, refused.message(), refused.hint());
}

Status Daemon::publish() {
  DSV3_RETURN_IF_ERROR(process_gone());
  transport::CoordinatorFile file{.endpoint = server_.endpoint(),
                                  .server_public_key = server_.public_key(),
                                  .pid = ::getpid(),
                                  .instance = instance_,
                                  .version = options_.version};
  file.start_ticks = process_start_ticks(::getpid());
  file.boot_id = boot_id();
  DSV3_RETURN_IF_ERROR(transport::write_coordinator_file(options_.state_dir, file));
  log::info("coordinator {} serves {} at {}", options_.version, options_.state_dir,
            server_.endpoint());
  return {};
}

Status Daemon::find_local_node() {
  local_cluster_ = inventory::local_cluster();
  core::NodeFoundInput found;
  found.node = found.host = local_cluster_.nodes.front().name;
  for (const plan::Device& d : local_cluster_.nodes.front().devices) {
    found.devices.push_back({plan::device_kind_name(d.kind), d.name, d.uuid, d.memory_bytes});
  }
  return process(found).status();
}

Status Daemon::run(int signal_fd) {
  DSV3_RETURN_IF_ERROR(find_local_node());
  while (!stop_) {
    const int64_t now_ns = clock_.steady_ns();
    if (!disk_full_ && waits_for_agents())
      next_tick_ns_ = std::min(next_tick_ns_, now_ns + kEndingTickMs * kNsPerMs);
    const int64_t left_ns = next_tick_ns_ - now_ns;
    DSV3_RETURN_IF_ERROR(server_.wait(
        signal_fd, static_cast<int>(std::clamp<int64_t>(left_ns / kNsPerMs + 1, 0, kTickMs))));
    signalfd_siginfo signal{};
    if (::read(signal_fd, &signal, sizeof signal) == sizeof signal) {
      stop_ = true;
      stop_reason_ = fmt::format("signal {}", signal.ssi_signo);
      break;
    }
    for (int i = 0; i < kMessagesPerTurn; ++i) {
      transport::Peer peer;
      wire::Envelope message;
      bool received = false;
      const Status status = server_.receive(&peer, &message, &received);
      if (!status.ok() && status.code() != Code::kInvalid) return status;
      if (!received) break;
      if (status.ok()) {
        DSV3_RETURN_IF_ERROR(handle_message(peer, message));
      } else {
        wire::Envelope reply;
        log::warning("a message of {} is refused: {}", peer.key_name, status.message());
        reply_to(peer, message.request_id(), status, &reply);
      }
    }
    if (clock_.steady_ns() >= next_tick_ns_) DSV3_RETURN_IF_ERROR(tick());
    serve_followers();
    DSV3_RETURN_IF_ERROR(fatal_);
    if (draining_ && core::num_active_jobs(state_) == 0) stop_ = true;
  }
  const uint32_t active = core::num_active_jobs(state_);
  if (active > 0)
    log::info("{} jobs keep running; a coordinator started here takes them up again", active);
  const Status said = process(core::StoppedInput{stop_reason_}).status();
  DSV3_RETURN_IF_ERROR(fatal_);
  if (!said.ok()) log::warning("this end is not in the event log: {}", said.to_string());
  ::unlink(transport::coordinator_file_path(options_.state_dir).c_str());
  log::info("coordinator ends: {}", stop_reason_);
  return {};
}

}  // namespace dsv3::daemon
