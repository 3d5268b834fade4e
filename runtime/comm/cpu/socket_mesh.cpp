// SocketMesh: waiting and failing. Making it and its groups: mesh.cpp.
#include "runtime/comm/cpu/socket_mesh.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/failure.h"

namespace dsv3::comm {
namespace {

// How long the news may come after the end of a data connection: a process that dies closes its
// sockets one after the other.
constexpr int64_t kExplainNs = 50'000'000;
// Waking a core that went idle takes a virtual machine 20 to 40 µs: so long a wait looks again,
// giving the core away between looks, before it sleeps.
constexpr int64_t kLookNs = 30'000;
constexpr int kWaitPasses = 64;  // rounds between two looks at the control connections
// progress() takes whatever has come and gives whatever there is room for; a bound, for a peer that
// keeps up.
constexpr int kProgressPasses = 64;

std::string rank_text(int rank) {
  return "rank " + std::to_string(rank);
}

}  // namespace

SocketMesh::SocketMesh(const MeshOptions& options, Links links, Fd watch, Fd alarm)
    : options_(options),
      door_(std::move(links.door)),
      addresses_(std::move(links.addresses)),
      links_(links.control.size()),
      watch_(std::move(watch)),
      alarm_(std::move(alarm)) {
  epoll_event event{};
  event.events = EPOLLIN;
  epoll_ctl(watch_.get(), EPOLL_CTL_ADD, alarm_.get(), &event);
  for (size_t r = 0; r < links_.size(); ++r) {
    links_[r].fd = std::move(links.control[r]);
    if (links_[r].fd.valid()) epoll_ctl(watch_.get(), EPOLL_CTL_ADD, links_[r].fd.get(), &event);
  }
}

SocketMesh::~SocketMesh() {
  DSV3_CHECK(groups_.empty(), "the mesh outlives its communicators");
  if (!dead_ && !aborted_) tell(ControlKind::kGoodbye, Fault{});
}

void SocketMesh::remove(Group* group) {
  std::erase(groups_, group);
  if (current_ == group) current_ = nullptr;
}

void SocketMesh::enter(const Group* group) {
  current_ = group;
  if (dead_) throw Failure(dead_code_, dead_operation_, dead_message_);
  if (aborted_) hear();
}

// In both, what has arrived is taken before the news: an operation that can complete does.
void SocketMesh::progress(Group& group) {
  enter(&group);
  bool moved = false;
  for (Group* g : groups_) {
    if (g->idle()) continue;
    g->refresh();
    moved |= g->move(kProgressPasses);
  }
  hear();
  if (!moved && !group.idle()) check_deadlines();
}

void SocketMesh::wait(Group& group, const std::function<bool()>& is_done) {
  enter(&group);
  for (Group* g : groups_) g->refresh();
  for (bool news = false;;) {
    bool moved = false;
    for (Group* g : groups_)
      if (!g->idle()) moved |= g->move(kWaitPasses);
    if (is_done()) return;
    if (moved || news) hear();
    if (moved) continue;
    check_deadlines();
    news = sleep();
  }
}

// Until a socket, a control connection, the alarm or a deadline; true when there is something to
// hear.
bool SocketMesh::sleep() {
  poll_fds_.clear();
  poll_flows_.clear();
  poll_fds_.push_back({watch_.get(), POLLIN, 0});
  poll_flows_.push_back(nullptr);
  int64_t until_ns = now_ns() + operation_timeout_ns();
  for (Group* g : groups_) g->add_poll(poll_fds_, poll_flows_, until_ns);
  const int64_t look_until_ns = now_ns() + kLookNs;
  while (poll(poll_fds_.data(), poll_fds_.size(), 0) == 0 && now_ns() < look_until_ns)
    sched_yield();
  if (now_ns() >= look_until_ns) poll_until(poll_fds_, until_ns);
  for (size_t i = 1; i < poll_fds_.size(); ++i) {
    const short events = poll_fds_[i].revents;
    if (events & (POLLIN | POLLHUP | POLLERR)) poll_flows_[i]->receive_empty = false;
    if (events & (POLLOUT | POLLHUP | POLLERR)) poll_flows_[i]->send_full = false;
  }
  return poll_fds_[0].revents != 0;
}

void SocketMesh::check_deadlines() {
  const int64_t now = now_ns();
  for (Group* g : groups_) {
    const Operation* op = g->expired(now);
    if (op == nullptr) continue;
    current_ = g;
    current_text_ = op->text() + " of group " + g->name();
    const std::vector<int> peers = op->holdups();
    std::string text = peers.size() == 1 ? "rank " : "ranks ";
    for (size_t i = 0; i < peers.size(); ++i)
      text += (i ? ", " : "") + std::to_string(g->global_rank(peers[i]));
    fail(Code::kCollectiveTimeout, peers.empty() ? -1 : g->global_rank(peers[0]),
         "still waiting for " + text + " after " + std::to_string(op->timeout_ns / 1'000'000) +
             " ms");
  }
}

void SocketMesh::hear() {
  epoll_event events[16];
  if (epoll_wait(watch_.get(), events, 16, 0) <= 0) return;
  if (aborted_) {
    const std::lock_guard lock(abort_mutex_);  // abort() has told the others
    die(Code::kInterrupted, "aborted here: " + abort_reason_);
  }
  // All are read before anything is concluded: what was told comes before who went.
  int lost = -1;
  Fault told;
  int teller = -1;
  for (size_t r = 0; r < links_.size(); ++r) {
    Link& link = links_[r];
    if (!link.fd.valid() || link.closed) continue;
    Fault fault;
    if (read_link(link, fault) && teller < 0) {
      told = fault;
      teller = static_cast<int>(r);
    }
    if (link.closed && !link.said_goodbye && lost < 0) lost = static_cast<int>(r);
  }
  if (teller >= 0) {
    // Passed on before this rank closes anything: whoever sees it go has heard why.
    tell(ControlKind::kFault, told);
    die(told.code, rank_text(teller) + " reports" +
                       (told.operation.empty() ? "" : ", in " + told.operation) + ": " +
                       told.reason);
  }
  if (lost >= 0) fail(Code::kPeerLost, lost, rank_text(lost) + " closed its connection");
}

bool SocketMesh::read_link(Link& link, Fault& fault) {
  char buffer[2 * kControlFrameMax];
  bool told = false;
  for (;;) {
    const ssize_t n = recv(link.fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n <= 0) link.closed = true;
    if (n > 0) link.unread.append(buffer, static_cast<size_t>(n));
    ControlKind kind;
    Fault next;
    int taken = 0;
    while ((taken = take_control_frame(link.unread, kind, next)) == 1) {
      if (kind == ControlKind::kGoodbye) link.said_goodbye = true;
      if (kind == ControlKind::kFault && !told) {
        fault = next;
        told = true;
      }
    }
    if (taken < 0) link.closed = true;  // no rank of ours speaks so
    if (link.closed) break;
  }
  if (link.closed) epoll_ctl(watch_.get(), EPOLL_CTL_DEL, link.fd.get(), nullptr);
  return told;
}

std::string SocketMesh::here() const {
  if (!current_text_.empty()) return current_text_;
  if (current_ == nullptr) return "mesh";
  const Operation* op = current_->current();
  return (op != nullptr ? op->text() : std::string("no operation")) + " of group " +
         current_->name();
}

void SocketMesh::tell(ControlKind kind, const Fault& fault) {
  const std::string frame = control_frame(kind, fault);
  for (const Link& link : links_) {
    if (!link.fd.valid()) continue;
    // Nothing else travels there, so there is room for it; a peer that is gone needs no news. Only
    // what never changes is read here: abort() comes from any thread.
    (void)!send(link.fd.get(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
}

void SocketMesh::fail(Code code, int culprit, const std::string& reason) {
  tell(ControlKind::kFault, {code, culprit, here(), reason});
  die(code, reason);
}

void SocketMesh::die(Code code, const std::string& message) {
  dead_ = true;
  dead_code_ = code;
  dead_operation_ = here();
  dead_message_ = message;
  throw Failure(dead_code_, dead_operation_, dead_message_);
}

void SocketMesh::fail_closed(int peer) {
  const int64_t until_ns = now_ns() + kExplainNs;
  for (;;) {
    hear();
    if (links_[static_cast<size_t>(peer)].said_goodbye)
      fail(Code::kPeerLost, peer, rank_text(peer) + " has left the mesh");
    if (now_ns() >= until_ns)
      fail(Code::kPeerLost, peer, rank_text(peer) + " closed its connection of the group");
    std::vector<pollfd> fds{{watch_.get(), POLLIN, 0}};
    poll_until(fds, until_ns);
  }
}

void SocketMesh::abort(const std::string& reason) {
  const std::lock_guard lock(abort_mutex_);
  if (aborted_) return;
  abort_reason_ = reason;
  aborted_ = true;
  const uint64_t one = 1;
  (void)!write(alarm_.get(), &one, sizeof(one));
  // A frame of a few hundred bytes goes whole or not at all, so it can't mix with one that the
  // mesh's own thread may be sending.
  tell(ControlKind::kFault,
       {Code::kPeerLost, options_.rank, "", rank_text(options_.rank) + " aborted: " + reason});
}

}  // namespace dsv3::comm
