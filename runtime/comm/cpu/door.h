// Door and Call: the two ends of a new connection. A Call connects, retries and says hello; a Door
// listens, reads hellos and lets in who may come.
//
// Law: whoever doesn't show the token and a sound hello is dropped, and costs nothing but its
// socket: strangers are few, bounded in time, and never waited for.
#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/comm/cpu/socket.h"
#include "runtime/comm/cpu/wire.h"

namespace dsv3::comm {

// Waits in the kernel until one of `fds` is ready or the steady clock shows `until_ns`.
void poll_until(std::vector<pollfd>& fds, int64_t until_ns);

// A connection that was let in.
struct Visitor {
  Hello hello;
  Fd fd;
};

class Door {
 public:
  Door(std::string token, int world) : token_(std::move(token)), world_(world) {}
  // Listens at `address` too.
  Status open(const Address& address);
  // Of the TCP listener; 0 when there is none.
  uint16_t tcp_port() const;
  // Adds what to wait for, or lowers `until_ns` to when a caller can be let in again.
  void add_poll(std::vector<pollfd>& fds, int64_t& until_ns) const;
  // Accepts and reads whatever has come, without waiting.
  void receive();
  // The visitor that matches, taken out; an invalid one when none has come. `rank` −1: any.
  Visitor take(Purpose purpose, int rank, uint64_t group_key = 0, uint32_t group_turn = 0);

 private:
  struct Stranger {
    Fd fd;
    int64_t until_ns = 0;
    size_t have = 0;
    Hello hello;
  };
  bool read_hello(Stranger& stranger);  // false: finished with, let in or not

  std::string token_;
  int world_;
  std::vector<Fd> listeners_;
  int64_t accept_again_ns_ = 0;  // no descriptor was left: a caller waits, and isn't polled for
  std::vector<Stranger> strangers_;
  std::vector<Visitor> visitors_;
};

// Sends an answer (and what follows it) to one who was let in; true when all of it went.
bool send_answer(int fd, Answer answer, const std::string& more = {});

class Call {
 public:
  // Connects to `to` and says hello; done when `reply_bytes` have come back (0: nothing comes; else
  // an AnswerFrame is the start of it).
  Call(int rank, const Address& to, const Hello& hello, size_t reply_bytes)
      : rank_(rank), to_(to), hello_(hello), reply_bytes_(reply_bytes) {}
  // Called once connected, before the hello goes: may complete it.
  std::function<Status(int fd, Hello& hello)> on_connected;

  // Moves on without waiting.
  void step();
  // What to wait for: adds its socket, or lowers `until_ns` to its next attempt.
  void add_poll(std::vector<pollfd>& fds, int64_t& until_ns) const;
  int rank() const { return rank_; }
  bool done() const { return state_ == State::kDone; }
  // Not ok when it cannot succeed: refused, or on_connected failed.
  const Status& status() const { return status_; }
  const std::string& last_error() const { return last_error_; }
  // What followed the AnswerFrame.
  const std::string& reply() const { return reply_; }
  Fd take() { return std::move(fd_); }

 private:
  enum class State { kIdle, kConnecting, kGreeting, kListening, kDone, kFailed };
  void retry(const std::string& why);
  void greet();
  void listen();

  int rank_;
  Address to_;
  Hello hello_;
  size_t reply_bytes_;
  State state_ = State::kIdle;
  Fd fd_;
  size_t sent_ = 0;
  std::string reply_;
  int64_t next_try_ns_ = 0;
  int64_t pause_ns_ = 1'000'000;
  Status status_;
  std::string last_error_ = "not tried";
};

}  // namespace dsv3::comm
