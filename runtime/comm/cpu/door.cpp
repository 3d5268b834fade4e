// Door and Call: see door.h.
#include "runtime/comm/cpu/door.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace dsv3::comm {
namespace {

constexpr size_t kStrangersMax = 64;  // beside the attempt's own ranks
constexpr size_t kVisitorsMax = 4 * kWorldMax;
constexpr int64_t kStrangerNs = 5'000'000'000;
constexpr int64_t kRetryPauseMaxNs = 20'000'000;
constexpr int64_t kAcceptAgainNs = 20'000'000;

}  // namespace

void poll_until(std::vector<pollfd>& fds, int64_t until_ns) {
  const int64_t left = std::max<int64_t>(0, until_ns - now_ns());
  const timespec timeout{static_cast<time_t>(left / 1'000'000'000),
                         static_cast<long>(left % 1'000'000'000)};
  if (ppoll(fds.data(), fds.size(), &timeout, nullptr) <= 0)
    for (pollfd& fd : fds) fd.revents = 0;
}

Status Door::open(const Address& address) {
  DSV3_ASSIGN_OR_RETURN(Fd fd, listen_at(address));
  listeners_.push_back(std::move(fd));
  return {};
}

uint16_t Door::tcp_port() const {
  for (const Fd& fd : listeners_) {
    const Address address = local_address(fd.get());
    if (address.storage.ss_family == AF_INET)
      return ntohs(reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port);
    if (address.storage.ss_family == AF_INET6)
      return ntohs(reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_port);
  }
  return 0;
}

void Door::add_poll(std::vector<pollfd>& fds, int64_t& until_ns) const {
  if (now_ns() < accept_again_ns_) {
    until_ns = std::min(until_ns, accept_again_ns_);
  } else {
    for (const Fd& fd : listeners_) fds.push_back({fd.get(), POLLIN, 0});
  }
  for (const Stranger& s : strangers_) fds.push_back({s.fd.get(), POLLIN, 0});
}

void Door::receive() {
  const int64_t now = now_ns();
  for (const Fd& listener : listeners_) {
    for (Fd fd = accept_at(listener.get()); fd.valid(); fd = accept_at(listener.get())) {
      if (!is_same_user(fd.get())) continue;
      Stranger stranger;
      stranger.fd = std::move(fd);
      stranger.until_ns = now + kStrangerNs;
      // Who has said hello already is never taken for one stranger too many.
      if (read_hello(stranger)) strangers_.push_back(std::move(stranger));
    }
    // The caller stays in the listener's queue, which would wake every poll at once.
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
      accept_again_ns_ = now + kAcceptAgainNs;
  }
  std::erase_if(strangers_, [&](Stranger& s) { return now >= s.until_ns || !read_hello(s); });
  // The ranks of a large attempt may all be between their call and their hello.
  const size_t most = kStrangersMax + 2 * static_cast<size_t>(world_);
  if (strangers_.size() > most) {
    strangers_.erase(strangers_.begin(), strangers_.end() - static_cast<ptrdiff_t>(most));
  }
}

bool Door::read_hello(Stranger& stranger) {
  while (stranger.have < sizeof(Hello)) {
    const ssize_t n =
        recv(stranger.fd.get(), reinterpret_cast<char*>(&stranger.hello) + stranger.have,
             sizeof(Hello) - stranger.have, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (n <= 0) return false;
    stranger.have += static_cast<size_t>(n);
  }
  const Answer answer = judge(stranger.hello, token_, world_);
  if (answer != Answer::kWelcome) {
    if (stranger.hello.magic == kHelloMagic) (void)send_answer(stranger.fd.get(), answer);
    return false;
  }
  if (visitors_.size() < kVisitorsMax)
    visitors_.push_back({stranger.hello, std::move(stranger.fd)});
  return false;
}

Visitor Door::take(Purpose purpose, int rank, uint64_t group_key, uint32_t group_turn) {
  for (size_t i = 0; i < visitors_.size(); ++i) {
    const Hello& h = visitors_[i].hello;
    if (h.purpose != static_cast<uint32_t>(purpose)) continue;
    if (rank >= 0 && h.rank != static_cast<uint32_t>(rank)) continue;
    if (purpose == Purpose::kGroup && (h.group_key != group_key || h.group_turn != group_turn))
      continue;
    Visitor found = std::move(visitors_[i]);
    visitors_.erase(visitors_.begin() + static_cast<ptrdiff_t>(i));
    return found;
  }
  return {};
}

bool send_answer(int fd, Answer answer, const std::string& more) {
  AnswerFrame frame;
  frame.answer = static_cast<uint32_t>(answer);
  const std::string bytes =
      std::string(reinterpret_cast<const char*>(&frame), sizeof(frame)) + more;
  // A fresh socket's buffer holds it whole.
  return send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(bytes.size());
}

void Call::retry(const std::string& why) {
  last_error_ = why;
  fd_.close();
  state_ = State::kIdle;
  sent_ = 0;
  reply_.clear();
  next_try_ns_ = now_ns() + pause_ns_;
  pause_ns_ = std::min(2 * pause_ns_, kRetryPauseMaxNs);
}

void Call::step() {
  if (state_ == State::kIdle && now_ns() >= next_try_ns_) {
    int error = 0;
    fd_ = start_connect(to_, error);
    if (error != 0 && error != EINPROGRESS) return retry(error_text(error));
    state_ = State::kConnecting;
  }
  if (state_ == State::kConnecting) {
    pollfd ready{fd_.get(), POLLOUT, 0};
    if (poll(&ready, 1, 0) <= 0) return;
    if (const int error = connect_error(fd_.get()); error != 0) return retry(error_text(error));
    if (!is_same_user(fd_.get())) return retry("the one who listens there is of another user");
    if (on_connected) status_ = on_connected(fd_.get(), hello_);
    state_ = status_.ok() ? State::kGreeting : State::kFailed;
  }
  if (state_ == State::kGreeting) greet();
  if (state_ == State::kListening) listen();
}

void Call::greet() {
  while (sent_ < sizeof(hello_)) {
    const ssize_t n = send(fd_.get(), reinterpret_cast<const char*>(&hello_) + sent_,
                           sizeof(hello_) - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n < 0) return retry(error_text(errno));
    sent_ += static_cast<size_t>(n);
  }
  state_ = reply_bytes_ == 0 ? State::kDone : State::kListening;
}

void Call::listen() {
  char buffer[4096];
  while (reply_.size() < reply_bytes_) {
    const size_t missing = reply_bytes_ - reply_.size();
    const ssize_t n = recv(fd_.get(), buffer, std::min(missing, sizeof(buffer)), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n < 0) return retry(error_text(errno));
    if (n == 0 && reply_.size() < sizeof(AnswerFrame)) return retry("it hung up");
    reply_.append(buffer, static_cast<size_t>(n));
    if (reply_.size() < sizeof(AnswerFrame)) continue;
    AnswerFrame frame;
    std::memcpy(&frame, reply_.data(), sizeof(frame));
    if (frame.magic != kAnswerMagic) return retry("no rank listens there");
    const Answer answer = static_cast<Answer>(frame.answer);
    if (answer != Answer::kWelcome) {
      status_ = Status(Code::kConflict, "rank " + std::to_string(rank_) +
                                            " refused this rank: " + answer_text(answer));
      state_ = State::kFailed;
      return;
    }
    if (n == 0) return retry("it hung up");
  }
  reply_.erase(0, sizeof(AnswerFrame));
  state_ = State::kDone;
}

void Call::add_poll(std::vector<pollfd>& fds, int64_t& until_ns) const {
  if (state_ == State::kIdle)
    until_ns = std::min(until_ns, next_try_ns_);
  else if (state_ == State::kConnecting || state_ == State::kGreeting)
    fds.push_back({fd_.get(), POLLOUT, 0});
  else if (state_ == State::kListening)
    fds.push_back({fd_.get(), POLLIN, 0});
}

}  // namespace dsv3::comm
