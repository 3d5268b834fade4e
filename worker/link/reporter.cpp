// The thread, its queue and what it drops; see reporter.h.
#include "worker/link/reporter.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::link {
namespace {

// What the thread moves from the queue into the channel at once.
constexpr int64_t kInFlightMaxBytes = int64_t{4} << 20;

bool may_be_missed(const wire::RankMessage& message) {
  return message.has_progress() || message.has_note();
}

}  // namespace

Result<std::unique_ptr<Reporter>> Reporter::start(int fd, int64_t idle_ms) {
  DSV3_ASSIGN_OR_RETURN(Channel channel, Channel::adopt(fd));
  const int wake_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) return Status(Code::kFailed, std::string("eventfd: ") + std::strerror(errno));
  return std::unique_ptr<Reporter>(new Reporter(std::move(channel), wake_fd, idle_ms));
}

Reporter::Reporter(Channel channel, int wake_fd, int64_t idle_ms)
    : channel_(std::move(channel)),
      wake_fd_(wake_fd),
      idle_ms_(idle_ms),
      last_sent_ns_(system_clock().steady_ns()),
      thread_([this] { run(); }) {}

Reporter::~Reporter() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake();
  thread_.join();
  ::close(wake_fd_);
}

void Reporter::wake() {
  const uint64_t one = 1;
  (void)!::write(wake_fd_, &one, sizeof one);
}

void Reporter::send(wire::RankMessage message) {
  if (gone_) return;
  message.set_time_unix_ns(system_clock().wall_ns());
  wire::RankFrame frame;
  const bool may_miss = may_be_missed(message);
  *frame.mutable_message() = std::move(message);
  const Result<std::string> encoded = protocol::encode(frame);
  if (!encoded.ok()) {
    ++dropped_;
    log::warning("a report was not sent: {}", encoded.status().to_string());
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    const int64_t bytes = static_cast<int64_t>(encoded->size());
    if (queue_bytes_ + bytes > (may_miss ? kQueueSoftMaxBytes : kQueueMaxBytes)) {
      if (++dropped_ == 1) log::warning("the agent does not read: reports are being dropped");
      return;
    }
    queue_bytes_ += bytes;
    queue_.push_back(*encoded);
  }
  wake();
}

void Reporter::set_progress(int64_t step, std::string operation) {
  const std::lock_guard lock(mutex_);
  progress_step_ = step;
  progress_operation_ = std::move(operation);
}

bool Reporter::drain(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  drained_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                    [this] { return unwritten_bytes() == 0 || gone_; });
  return unwritten_bytes() == 0;
}

void Reporter::take_queue() {
  const std::lock_guard lock(mutex_);
  while (!queue_.empty() && channel_.open() && channel_.pending_bytes() < kInFlightMaxBytes) {
    channel_.send(queue_.front());
    queue_bytes_ -= static_cast<int64_t>(queue_.front().size());
    queue_.pop_front();
    last_sent_ns_ = system_clock().steady_ns();
  }
  channel_bytes_ = channel_.pending_bytes();
  if (unwritten_bytes() == 0) drained_.notify_all();
}

void Reporter::report_progress() {
  wire::RankMessage message;
  {
    const std::lock_guard lock(mutex_);
    message.mutable_progress()->set_step(progress_step_);
    message.mutable_progress()->set_operation(progress_operation_);
  }
  last_sent_ns_ = system_clock().steady_ns();
  send(std::move(message));
}

Status Reporter::on_frame(const std::string& bytes) {
  wire::AgentFrame frame;
  DSV3_RETURN_IF_ERROR(protocol::decode(bytes, &frame));
  if (frame.has_stop()) {
    if (!frame.stop().checkpoint()) stop_without_checkpoint_ = true;
    stop_ = true;
  } else if (frame.has_checkpoint_now()) {
    checkpoint_ = true;
  }
  return {};
}

bool Reporter::pump() {
  const int64_t idle_ns = system_clock().steady_ns() - last_sent_ns_;
  const int64_t wait_ms = std::clamp<int64_t>(idle_ms_ - idle_ns / 1'000'000, 0, idle_ms_);
  const short writing = channel_.pending_bytes() > 0 ? POLLOUT : 0;
  pollfd fds[2] = {{wake_fd_, POLLIN, 0}, {channel_.fd(), static_cast<short>(POLLIN | writing), 0}};
  const int ready = ::poll(fds, 2, static_cast<int>(wait_ms));
  if (ready < 0 && errno != EINTR) return false;
  uint64_t count = 0;
  (void)!::read(wake_fd_, &count, sizeof count);
  channel_.flush();
  const Status status =
      channel_.receive([this](const std::string& frame) { return on_frame(frame); });
  if (!status.ok()) log::warning("the agent's stream is closed: {}", status.to_string());
  take_queue();
  if (!channel_.open()) return false;
  if (system_clock().steady_ns() - last_sent_ns_ >= idle_ms_ * 1'000'000) report_progress();
  const std::lock_guard lock(mutex_);
  return !ending_;
}

void Reporter::run() {
  ::pthread_setname_np(::pthread_self(), "reporter");
  while (pump()) {
  }
  const std::lock_guard lock(mutex_);
  if (!ending_) log::warning("the agent is gone: training goes on without reports");
  gone_ = true;
  drained_.notify_all();
}

}  // namespace dsv3::link
