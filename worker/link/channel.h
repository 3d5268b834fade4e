// Channel: one end of the socketpair between a rank and its agent: whole frames in, whole frames
// out, never a wait.
//
// Law: what arrives is believed only after protocol::decode; a stream with one malformed frame is
// closed, because nothing after it can be trusted. What is sent is kept here until the kernel takes
// it. Format: PROTOCOL.md, "Rank link".
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "base/status.h"
#include "coordinator/protocol/frames.h"

namespace dsv3::link {

// Both ends of a new socketpair, close-on-exec: {agent's, rank's}. The caller owns both.
Result<std::pair<int, int>> make_socketpair();

// Not thread-safe. Move-only; closes its descriptor.
class Channel {
 public:
  Channel() = default;
  // Takes over `fd` and makes it non-blocking. kInvalid when it is not a socket.
  static Result<Channel> adopt(int fd);
  Channel(Channel&& other) noexcept { *this = std::move(other); }
  Channel& operator=(Channel&& other) noexcept;
  ~Channel() { close(); }

  bool open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  void close();

  // Queues one encoded frame (protocol::encode) and writes what the kernel takes now.
  void send(const std::string& frame);
  // Bytes that are queued and not yet taken by the kernel: poll for POLLOUT while it is > 0, then
  // flush().
  int64_t pending_bytes() const { return static_cast<int64_t>(out_.size() - out_taken_); }
  // Writes what the kernel takes. Closes the channel when the other end is gone.
  void flush();

  // Reads what is there and hands over each whole frame. Ok also when nothing was there or the
  // other end closed (open() is false then, after its last frames were handed over). kInvalid: a
  // malformed or truncated stream; closed.
  Status receive(const std::function<Status(const std::string& frame)>& on_frame);

 private:
  Status hand_over(const std::function<Status(const std::string&)>& on_frame);

  int fd_ = -1;
  protocol::FrameReader reader_;
  std::string out_;
  size_t out_taken_ = 0;
};

}  // namespace dsv3::link
