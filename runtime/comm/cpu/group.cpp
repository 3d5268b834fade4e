// Group: the queue and the streams. What each operation is made of: group_start.cpp.
#include "runtime/comm/cpu/group.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "runtime/comm/cpu/socket_mesh.h"

namespace dsv3::comm {
namespace {

// Of one system call: long enough to amortise it, short enough to keep both directions busy.
constexpr int64_t kCallBytes = 512 << 10;

bool is_message(const Operation& op) {
  return op.kind == OpKind::kMessage;
}
// Whether it may move beside operations of its kind that are before it.
bool runs_along(const Operation& op) {
  return is_message(op) || op.kind == OpKind::kAllToAll;
}

// Directions of a connection that are some operation's.
constexpr uint8_t kSending = 1;
constexpr uint8_t kReceiving = 2;

}  // namespace

Group::Group(SocketMesh& mesh, std::string name, std::vector<int> members, int rank,
             std::vector<Fd> channels)
    : mesh_(mesh),
      name_(std::move(name)),
      members_(std::move(members)),
      rank_(rank),
      channels_(std::move(channels)),
      busy_(members_.size()),
      messages_sent_(members_.size()),
      messages_received_(members_.size()),
      timeout_ns_(mesh.operation_timeout_ns()) {
  mesh_.add(this);
}

Group::~Group() {
  mesh_.remove(this);
}

void Group::set_timeout_ms(int64_t timeout_ms) {
  DSV3_CHECK(timeout_ms >= 0);
  timeout_ns_ = timeout_ms > 0 ? timeout_ms * 1'000'000 : mesh_.operation_timeout_ns();
}

bool Group::progress() {
  mesh_.progress(*this);
  return idle();
}

bool Group::is_done(Ticket ticket) const {
  for (const Operation* op : queue_)
    if (op->ticket == ticket) return false;
  return true;
}

void Group::wait(Ticket ticket) {
  const int64_t begin = now_ns();
  mesh_.wait(*this, [&] { return is_done(ticket); });
  traffic_.wait_ns += now_ns() - begin;
}

void Group::wait_all() {
  const int64_t begin = now_ns();
  mesh_.wait(*this, [&] { return idle(); });
  traffic_.wait_ns += now_ns() - begin;
}

void Group::refresh() {
  for (Operation* op : queue_) {
    if (op->deadline_ns == 0) continue;
    for (Flow& f : op->flows) f.send_full = f.receive_empty = false;
  }
}

void Group::add_poll(std::vector<pollfd>& fds, std::vector<Flow*>& flows, int64_t& until_ns) {
  for (Operation* op : queue_) {
    if (op->deadline_ns == 0) continue;
    until_ns = std::min(until_ns, op->deadline_ns);
    for (Flow& f : op->flows) {
      short events = 0;
      if (f.receive_empty && f.receives()) events |= POLLIN;
      if (f.send_full && f.sends()) events |= POLLOUT;
      if (events == 0) continue;
      fds.push_back({channels_[static_cast<size_t>(f.peer)].get(), events, 0});
      flows.push_back(&f);
    }
  }
}

const Operation* Group::expired(int64_t now) const {
  for (const Operation* op : queue_)
    if (op->deadline_ns != 0 && now >= op->deadline_ns) return op;
  return nullptr;
}

bool Group::may_send(const Flow& f) const {
  return f.sends() && !(busy_[static_cast<size_t>(f.peer)] & kSending);
}
bool Group::may_receive(const Flow& f) const {
  return f.receives() && !(busy_[static_cast<size_t>(f.peer)] & kReceiving);
}

bool Group::has_turn(const Operation& op) const {
  return std::any_of(op.flows.begin(), op.flows.end(),
                     [this](const Flow& f) { return may_send(f) || may_receive(f); });
}

void Group::begin(Operation& op) {
  if (op.deadline_ns == 0) op.deadline_ns = now_ns() + op.timeout_ns;
}

bool Group::move(int passes) {
  bool any = false;
  for (int pass = 0; pass < passes; ++pass) {
    bool moved = false;
    std::fill(busy_.begin(), busy_.end(), 0);
    for (size_t i = 0; i < queue_.size();) {
      Operation& op = *queue_[i];
      if (i > 0 && !(runs_along(op) && op.kind == queue_[0]->kind)) break;
      if (i == 0 || has_turn(op)) {
        begin(op);
        moved |= move_operation(op);
      }
      if (op.done() && (i == 0 || is_message(op))) {
        retire(i);
        moved = true;
        continue;
      }
      if (!runs_along(op)) break;
      ++i;
    }
    any |= moved;
    if (!moved) break;
  }
  return any;
}

// Moves what it may, and keeps the directions that it still needs from those behind it.
bool Group::move_operation(Operation& op) {
  bool moved = false;
  for (Flow& f : op.flows) {
    if (may_receive(f)) moved |= receive(op, f);
    if (may_send(f)) moved |= send(op, f);
    uint8_t& busy = busy_[static_cast<size_t>(f.peer)];
    if (f.receives()) busy |= kReceiving;
    if (f.sends()) busy |= kSending;
  }
  moved |= op.advance();
  return moved;
}

bool Group::send(Operation& op, Flow& f) {
  if (f.send_full || !f.sends()) return false;
  iovec parts[2];
  int num_parts = 0;
  const int64_t header = static_cast<int64_t>(sizeof(OpHeader) - f.header_sent);
  if (header > 0)
    parts[num_parts++] = {reinterpret_cast<char*>(&f.out) + f.header_sent,
                          static_cast<size_t>(header)};
  const ConstStretch s = op.to_send(f);
  const int64_t wanted = header + std::min(s.bytes, kCallBytes);
  if (wanted == 0) return false;  // it must hear from others first
  if (wanted > header)
    parts[num_parts++] = {const_cast<std::byte*>(s.data), static_cast<size_t>(wanted - header)};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = static_cast<size_t>(num_parts);
  const int fd = channels_[static_cast<size_t>(f.peer)].get();
  ssize_t n = -1;
  do n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
      mesh_.fail_closed(global_rank(f.peer));
    f.send_full = true;
    return false;
  }
  f.send_full = n < wanted;
  const int64_t of_header = std::min<int64_t>(n, header);
  f.header_sent += static_cast<uint32_t>(of_header);
  if (n > of_header) op.on_sent(f, n - of_header);
  traffic_.bytes_sent += n - of_header;
  return true;
}

bool Group::receive(Operation& op, Flow& f) {
  if (f.receive_empty || !f.receives()) return false;
  iovec parts[2];
  int num_parts = 0;
  const int64_t header = static_cast<int64_t>(sizeof(OpHeader) - f.header_received);
  if (header > 0)
    parts[num_parts++] = {reinterpret_cast<char*>(&f.in) + f.header_received,
                          static_cast<size_t>(header)};
  const Stretch s = op.to_receive(f);
  const int64_t payload = std::min(s.bytes, kCallBytes);
  if (payload > 0) parts[num_parts++] = {s.data, static_cast<size_t>(payload)};
  if (num_parts == 0) return false;  // no room until others have sent too
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = static_cast<size_t>(num_parts);
  const int fd = channels_[static_cast<size_t>(f.peer)].get();
  ssize_t n = -1;
  do n = recvmsg(fd, &message, MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n <= 0) {
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) mesh_.fail_closed(global_rank(f.peer));
    f.receive_empty = true;
    return false;
  }
  f.receive_empty = n < header + payload;
  const int64_t of_header = std::min<int64_t>(n, header);
  f.header_received += static_cast<uint32_t>(of_header);
  if (of_header > 0 && f.header_received == sizeof(OpHeader)) check_header(op, f);
  if (n > of_header) op.on_received(f, n - of_header);
  traffic_.bytes_received += n - of_header;
  return true;
}

void Group::check_header(const Operation& op, const Flow& f) {
  OpHeader expected = f.out;  // what this side would send, were it the peer
  expected.bytes = f.receive_bytes;
  if (is_same_operation(f.in, expected)) return;
  const std::string peer = "rank " + std::to_string(global_rank(f.peer));
  mesh_.fail(Code::kFailed, global_rank(f.peer),
             "the ranks call different operations: " + peer + " is in " + describe(f.in) +
                 " where rank " + std::to_string(global_rank(rank_)) + " is in " +
                 describe(expected) + (op.receiving ? " (receive)" : ""));
}

void Group::retire(size_t index) {
  Operation* op = queue_[index];
  queue_.erase(queue_.begin() + static_cast<ptrdiff_t>(index));
  // Of a collective that ran along the time counts from now.
  if (!is_message(*op) && !queue_.empty()) queue_[0]->deadline_ns = 0;
  op->home->push_back(op);
  ++traffic_.operations;
}

}  // namespace dsv3::comm
