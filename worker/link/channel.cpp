// Non-blocking reads and writes of frames; see channel.h.
#include "worker/link/channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace dsv3::link {
namespace {

constexpr size_t kReadBytes = size_t{64} << 10;
// One receive() reads at most this, so that one busy rank can't keep the agent from the others.
constexpr size_t kReadMaxBytes = size_t{8} << 20;
constexpr size_t kCompactBytes = size_t{1} << 20;

}  // namespace

Result<std::pair<int, int>> make_socketpair() {
  int fds[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return Status(Code::kFailed,
                  fmt::format("cannot create a socketpair: {}", std::strerror(errno)));
  }
  return std::pair{fds[0], fds[1]};
}

Result<Channel> Channel::adopt(int fd) {
  int type = 0;
  socklen_t bytes = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) != 0 || type != SOCK_STREAM) {
    return Status(Code::kInvalid, fmt::format("descriptor {} is not a stream socket", fd));
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return Status(Code::kFailed,
                  fmt::format("cannot set up descriptor {}: {}", fd, std::strerror(errno)));
  }
  Channel channel;
  channel.fd_ = fd;
  return channel;
}

Channel& Channel::operator=(Channel&& other) noexcept {
  if (this == &other) return *this;
  close();
  fd_ = std::exchange(other.fd_, -1);
  reader_ = std::move(other.reader_);
  out_ = std::move(other.out_);
  out_taken_ = std::exchange(other.out_taken_, 0);
  return *this;
}

void Channel::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  out_.clear();
  out_taken_ = 0;
}

void Channel::send(const std::string& frame) {
  if (!open()) return;
  out_ += protocol::with_length(frame);
  flush();
}

void Channel::flush() {
  while (open() && out_taken_ < out_.size()) {
    const ssize_t n = ::send(fd_, out_.data() + out_taken_, out_.size() - out_taken_, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) {
      close();
      return;
    }
    out_taken_ += static_cast<size_t>(n);
  }
  if (out_taken_ == out_.size()) {
    out_.clear();
    out_taken_ = 0;
  } else if (out_taken_ > kCompactBytes) {
    out_.erase(0, out_taken_);
    out_taken_ = 0;
  }
}

Status Channel::hand_over(const std::function<Status(const std::string&)>& on_frame) {
  while (true) {
    DSV3_ASSIGN_OR_RETURN(const std::optional<std::string> frame, reader_.next());
    if (!frame) return {};
    DSV3_RETURN_IF_ERROR(on_frame(*frame));
  }
}

Status Channel::receive(const std::function<Status(const std::string&)>& on_frame) {
  char buffer[kReadBytes];
  size_t total = 0;
  while (open() && total < kReadMaxBytes) {
    const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
    if (n <= 0) {
      close();
      if (reader_.at_boundary()) return {};
      return Status(Code::kInvalid, "the stream ended inside a frame");
    }
    total += static_cast<size_t>(n);
    reader_.feed({buffer, static_cast<size_t>(n)});
    if (Status status = hand_over(on_frame); !status.ok()) {
      close();
      return status;
    }
  }
  return {};
}

}  // namespace dsv3::link
