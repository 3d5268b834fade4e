// The agent's loop, its signals and its deadlines; orders and reports are in orders.cpp and
// talk.cpp. See agent.h.
#include "worker/agent/agent.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::agent {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kWaitMaxMs = 100;
// Beyond this the ranks are no longer listened to: their own queues hold the rest.
constexpr int64_t kKeptMaxBytes = int64_t{256} << 20;
// For the last acknowledgement, when the agent itself was told to end.
constexpr int64_t kFarewellMs = 5'000;

}  // namespace

Result<std::unique_ptr<Agent>> Agent::create(const Options& options, const Clock& clock) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) {
    return Status(Code::kFailed, std::string("sigprocmask: ") + std::strerror(errno));
  }
  DSV3_RETURN_IF_ERROR(become_reaper());
  const int signal_fd = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signal_fd < 0) return Status(Code::kFailed, std::string("signalfd: ") + std::strerror(errno));
  Result<transport::AgentLink> link = transport::AgentLink::connect(options.state_dir);
  if (!link.ok()) {
    ::close(signal_fd);
    return link.status();
  }
  return std::unique_ptr<Agent>(new Agent(options, clock, std::move(link).value(), signal_fd));
}

Agent::Agent(const Options& options, const Clock& clock, transport::AgentLink link, int signal_fd)
    : options_(options),
      clock_(clock),
      link_(std::move(link)),
      signal_fd_(signal_fd),
      started_ns_(clock.steady_ns()),
      last_heard_ns_(started_ns_) {}

Agent::~Agent() {
  ::close(signal_fd_);
}

int Agent::run() {
  while (true) {
    drain_link();
    talk();
    drain_link();  // the descriptor is edge-triggered, and sending may have swallowed the edge
    if (dismissed_ || (done_ && reports_.empty())) break;
    const int64_t now_ns = clock_.steady_ns();
    const int64_t farewell_ms = told_to_end_ ? kFarewellMs : options_.orphan_ms;
    if (done_ && now_ns - done_ns_ > farewell_ms * kMs) {
      log::warning("the coordinator was not told the end: nobody answered");
      break;
    }
    wait();
    handle_signals();
    for (RankProcess& rank : ranks_) {
      if (reports_.kept_bytes() >= kKeptMaxBytes) break;
      rank.read(
          [&](wire::RankMessage message) { on_rank_message(rank.rank(), std::move(message)); });
    }
    reap_ranks();
    keep_deadlines();
  }
  log::info("ends with code {}", exit_code_);
  return exit_code_;
}

void Agent::wait() {
  std::vector<pollfd> fds{{signal_fd_, POLLIN, 0}, {link_.fd(), POLLIN, 0}};
  const bool listen = reports_.kept_bytes() < kKeptMaxBytes;
  for (RankProcess& rank : ranks_) {
    if (!rank.channel().open()) continue;
    const int events = (listen ? POLLIN : 0) | (rank.channel().pending_bytes() > 0 ? POLLOUT : 0);
    fds.push_back({rank.channel().fd(), static_cast<short>(events), 0});
  }
  (void)::poll(fds.data(), fds.size(), kWaitMaxMs);
  for (RankProcess& rank : ranks_) rank.channel().flush();
}

void Agent::handle_signals() {
  signalfd_siginfo info;
  while (::read(signal_fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    if (info.ssi_signo == SIGCHLD) continue;  // ranks are reaped every round
    const bool again = told_to_end_;
    told_to_end_ = true;
    log::info("signal {}: ends its ranks", info.ssi_signo);
    if (!launched_) {
      launched_ = true;
      exit_reason_ = "the agent was told to end";
    }
    // What its ranks leave undone is to be tried again; it is no end of the job.
    if (!done_ && exit_code_ == 0) exit_code_ = static_cast<int>(Code::kTemporary);
    begin_stop(again ? 0 : options_.grace_ms, true, "the agent was told to end");
  }
}

void Agent::begin_stop(int64_t grace_ms, bool checkpoint, const std::string& reason) {
  const int64_t kill_at_ns = clock_.steady_ns() + grace_ms * kMs;
  if (!kill_at_ns_ || kill_at_ns < *kill_at_ns_) kill_at_ns_ = kill_at_ns;
  if (exit_reason_.empty()) exit_reason_ = reason;
  for (RankProcess& rank : ranks_) rank.ask_to_end(checkpoint, reason);
}

void Agent::kill_all() {
  for (RankProcess& rank : ranks_) rank.kill();
}

void Agent::reap_ranks() {
  for (size_t i = 0; i < ranks_.size(); ++i) {
    const std::optional<RankEnd> end = ranks_[i].reap();
    if (!end) continue;
    // Its last words are in the socket: read until it is closed.
    while (ranks_[i].channel().open()) {
      const int64_t before = static_cast<int64_t>(reports_.next_seq());
      ranks_[i].read([&](wire::RankMessage message) {
        on_rank_message(ranks_[i].rank(), std::move(message));
      });
      if (static_cast<int64_t>(reports_.next_seq()) == before) break;
    }
    ranks_[i].channel().close();
    on_rank_end(i, *end);
  }
  if (launched_ && !done_ && num_alive() == 0 && end_orphans()) finish();
}

size_t Agent::num_alive() const {
  return static_cast<size_t>(std::count_if(ranks_.begin(), ranks_.end(),
                                           [](const RankProcess& rank) { return rank.alive(); }));
}

void Agent::keep_deadlines() {
  const int64_t now_ns = clock_.steady_ns();
  if (kill_at_ns_ && now_ns >= *kill_at_ns_) kill_all();
  look_for_coordinator(now_ns);
  if (!launched_ && now_ns - started_ns_ > options_.hello_ms * kMs) {
    log::error("no order came within {} s", options_.hello_ms / 1000);
    exit_code_ = static_cast<int>(Code::kTemporary);
    dismissed_ = true;
    return;
  }
  if (launched_ && !done_ && !kill_at_ns_ && silent_ns(now_ns) > options_.orphan_ms * kMs) {
    log::error("no coordinator for {} s: ends its ranks", options_.orphan_ms / 1000);
    exit_code_ = static_cast<int>(Code::kTemporary);
    begin_stop(options_.grace_ms, true, "no coordinator was heard for too long");
  }
}

void Agent::look_for_coordinator(int64_t now_ns) {
  constexpr int64_t kSearchNs = 1'000'000'000;
  if (silent_ns(now_ns) < std::min(silence_ns_, 2 * heartbeat_ns_)) return;
  if (now_ns - last_search_ns_ < std::min(kSearchNs, silence_ns_)) return;
  last_search_ns_ = now_ns;
  const Result<bool> moved = link_.refresh();
  if (!moved.ok()) {
    log::warning("cannot look for the coordinator: {}", moved.status().to_string());
    return;
  }
  if (*moved) greet_again("a coordinator is back");
}

// What was sent meanwhile may be lost with the old coordinator, or on the way to it.
void Agent::greet_again(const char* why) {
  log::info("{}: greets it and reports again what it has not acknowledged", why);
  greeted_ = false;
  last_hello_ns_ = 0;
  instance_.clear();
  reports_.resend_all();
}

}  // namespace dsv3::agent
