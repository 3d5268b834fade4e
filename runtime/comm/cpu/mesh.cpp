// Mesh::connect and create_group: from options to connections.
#include "runtime/comm/cpu/mesh.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "base/check.h"
#include "base/hash.h"
#include "runtime/comm/cpu/socket_mesh.h"

namespace dsv3::comm {
namespace {

Status check(const MeshOptions& o) {
  const auto bad = [](const std::string& what) { return Status(Code::kInvalid, what); };
  if (o.world < 1 || o.world > kWorldMax)
    return bad("a mesh has 1 to " + std::to_string(kWorldMax) + " ranks, not " +
               std::to_string(o.world));
  if (o.rank < 0 || o.rank >= o.world)
    return bad("rank " + std::to_string(o.rank) + " is not one of " + std::to_string(o.world));
  if (o.token.size() > kTokenBytesMax)
    return bad("the token has " + std::to_string(o.token.size()) + " bytes; at most " +
               std::to_string(kTokenBytesMax) + " are allowed");
  if (o.connect_timeout_ms <= 0 || o.operation_timeout_ms <= 0)
    return bad("the mesh's time limits must be positive");
  if (o.transport != "auto" && o.transport != "tcp")
    return bad("the transport '" + o.transport + "' is neither auto nor tcp");
  const bool local = o.rendezvous.starts_with("local:") && o.rendezvous.size() > 6;
  const bool tcp =
      o.rendezvous.starts_with("tcp:") && o.rendezvous.find(':', 4) != std::string::npos;
  if (!local && !tcp)
    return bad("the rendezvous '" + o.rendezvous + "' is neither local:NAME nor tcp:HOST:PORT");
  if (local && o.transport == "tcp")
    return bad("the transport tcp needs a rendezvous tcp:HOST:PORT");
  return {};
}

uint64_t group_key(const std::string& name, const std::vector<int>& members) {
  std::string text = name;
  for (const int m : members) text += "," + std::to_string(m);
  const std::string hex = checksum(std::as_bytes(std::span(text.data(), text.size())));
  return std::strtoull(hex.substr(0, 16).c_str(), nullptr, 16);
}

}  // namespace

Result<std::unique_ptr<Mesh>> Mesh::connect(const MeshOptions& options) {
  DSV3_RETURN_IF_ERROR(check(options));
  Links links;
  if (options.world == 1) {
    links.control.resize(1);
    links.addresses.resize(1);
    links.door = std::make_unique<Door>(options.token, 1);
  } else {
    DSV3_ASSIGN_OR_RETURN(links, meet(options));
  }
  Fd watch(epoll_create1(EPOLL_CLOEXEC));
  Fd alarm(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!watch.valid() || !alarm.valid())
    return Status(Code::kFailed, "no descriptor for the mesh: " + error_text(errno),
                  "raise the limit of open files");
  return std::unique_ptr<Mesh>(
      new SocketMesh(options, std::move(links), std::move(watch), std::move(alarm)));
}

std::unique_ptr<Communicator> SocketMesh::create_group(const std::string& name,
                                                       const std::vector<int>& members) {
  enter(nullptr);
  int rank = -1;
  for (size_t i = 0; i < members.size(); ++i) {
    DSV3_CHECK(members[i] >= 0 && members[i] < world(), "a member outside the mesh");
    DSV3_CHECK(i == 0 || members[i] > members[i - 1], "members must ascend");
    if (members[i] == options_.rank) rank = static_cast<int>(i);
  }
  DSV3_CHECK(rank >= 0, "a group is created by its members only");
  const uint64_t key = group_key(name, members);
  current_text_ = "create_group '" + name + "'";
  std::vector<Fd> channels = connect_members(members, key, turns_[key]++);
  current_text_.clear();
  return std::make_unique<Group>(*this, name, members, rank, std::move(channels));
}

std::vector<Fd> SocketMesh::connect_members(const std::vector<int>& members, uint64_t key,
                                            uint32_t turn) {
  const int64_t until_ns = now_ns() + operation_timeout_ns();
  std::vector<Fd> channels(members.size());
  std::vector<Call> calls;
  calls.reserve(members.size());
  Hello hello = make_hello(options_, Purpose::kGroup);
  hello.group_key = key;
  hello.group_turn = turn;
  for (const int m : members)
    if (m < options_.rank) calls.emplace_back(m, addresses_[static_cast<size_t>(m)], hello, 0);
  for (;;) {
    door_->receive();
    std::string missing;
    int first_missing = -1;
    size_t next_call = 0;
    for (size_t i = 0; i < members.size(); ++i) {
      const int m = members[i];
      if (m == options_.rank) continue;
      Call* call = m < options_.rank ? &calls[next_call++] : nullptr;
      if (channels[i].valid()) continue;
      if (call != nullptr) {
        call->step();
        if (call->done()) channels[i] = call->take();
      } else {
        channels[i] = door_->take(Purpose::kGroup, m, key, turn).fd;
      }
      if (channels[i].valid()) continue;
      if (links_[static_cast<size_t>(m)].said_goodbye)
        fail(Code::kPeerLost, m, "rank " + std::to_string(m) + " has left the mesh");
      if (first_missing < 0) first_missing = m;
      missing += (missing.empty() ? "" : ", ") + std::to_string(m);
    }
    if (missing.empty()) return channels;
    if (options_.stop && options_.stop()) abort("stopped while the ranks were meeting");
    hear();
    if (now_ns() >= until_ns)
      fail(Code::kCollectiveTimeout, first_missing,
           "still waiting for rank(s) " + missing + " after " +
               std::to_string(options_.operation_timeout_ms) + " ms");
    std::vector<pollfd> fds{{watch_.get(), POLLIN, 0}};
    int64_t until = options_.stop ? std::min(until_ns, now_ns() + kStopLookNs) : until_ns;
    door_->add_poll(fds, until);
    for (const Call& call : calls) call.add_poll(fds, until);
    poll_until(fds, until);
  }
}

}  // namespace dsv3::comm
