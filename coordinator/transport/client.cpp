// See client.h. A monitor socket tells a refused key from a coordinator that is only slow.
#include "coordinator/transport/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"
#include "coordinator/transport/keys.h"
#include "coordinator/transport/socket.h"

namespace dsv3::transport {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
// How often a wait looks whether the coordinator's process still lives.
constexpr int kAliveCheckMs = 200;
// A coordinator that was told to end answers first: its answer may come in, or wait to be decrypted
// by this process's own I/O thread, when its process is already gone.
constexpr int kLastAnswerMs = 2000;
constexpr const char* kMonitorAddress = "inproc://client-monitor";

Status refused() {
  return Status(Code::kNotAuthorised, "the coordinator refused this user's key",
                "put the public key into <state-dir>/keys/allowed/client-NAME.pub");
}

}  // namespace

struct Client::Impl {
  CoordinatorFile file;
  Context context;
  Socket socket;
  Socket monitor;
  uint64_t last_id = 0;

  // True once the monitor has reported a handshake that the coordinator refused.
  bool handshake_refused() {
    bool is_refused = false;
    bool received = true;
    while (received) {
      std::string event;
      std::string address;
      if (!receive_frame(monitor.get(), ZMQ_DONTWAIT, &event, &received).ok() || !received) break;
      bool more = false;
      (void)receive_frame(monitor.get(), ZMQ_DONTWAIT, &address, &more);
      uint16_t number = 0;
      if (event.size() >= sizeof number) std::memcpy(&number, event.data(), sizeof number);
      is_refused |= number == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH ||
                    number == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
    }
    return is_refused;
  }

  // Waits until the socket can do `events` (ZMQ_POLLIN or ZMQ_POLLOUT).
  Status wait_for(short events, int64_t deadline_ns, int timeout_ms) {
    while (true) {
      zmq_pollitem_t items[2] = {{socket.get(), 0, events, 0}, {monitor.get(), 0, ZMQ_POLLIN, 0}};
      const int left = left_ms(deadline_ns);
      if (zmq_poll(items, 2, std::min(left, kAliveCheckMs)) < 0 && zmq_errno() != EINTR)
        return zmq_status("cannot wait");
      if ((items[0].revents & events) != 0) return {};
      if ((items[1].revents & ZMQ_POLLIN) != 0 && handshake_refused()) return refused();
      if (!is_alive(file)) {
        if (events == ZMQ_POLLIN && zmq_poll(items, 1, std::min(left, kLastAnswerMs)) > 0)
          return {};
        return Status(Code::kNoCoordinator,
                      fmt::format("the coordinator (process {}) has ended", file.pid),
                      "start one with `dsv3ctl up`");
      }
      if (left == 0) {
        return Status(Code::kTimeout,
                      fmt::format("the coordinator did not answer within {} ms", timeout_ms));
      }
    }
  }
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

Result<Client> Client::connect(const std::string& state_dir) {
  return connect_as(state_dir, "client");
}

Result<Client> Client::connect_as(const std::string& state_dir, const std::string& key_name) {
  auto impl = std::make_unique<Impl>();
  DSV3_ASSIGN_OR_RETURN(impl->file, read_coordinator_file(state_dir));
  Result<KeyPair> keys = load_key_pair(state_dir, key_name);
  if (!keys.ok()) {
    if (keys.status().code() != Code::kNotFound) return keys.status();
    return Status(Code::kNoCoordinator, keys.status().message(), keys.status().hint());
  }
  DSV3_ASSIGN_OR_RETURN(impl->context, make_context());
  DSV3_ASSIGN_OR_RETURN(impl->socket, make_socket(impl->context.get(), ZMQ_DEALER));
  void* socket = impl->socket.get();
  DSV3_RETURN_IF_ERROR(set_curve_client(socket, *keys, impl->file.server_public_key));
  // With IMMEDIATE the socket is writable only once the handshake has passed.
  DSV3_RETURN_IF_ERROR(set_option(socket, ZMQ_IMMEDIATE, 1));
  const int events = ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
  if (zmq_socket_monitor(socket, kMonitorAddress, events) != 0)
    return zmq_status("cannot watch a connection");
  DSV3_ASSIGN_OR_RETURN(impl->monitor, make_socket(impl->context.get(), ZMQ_PAIR));
  if (zmq_connect(impl->monitor.get(), kMonitorAddress) != 0)
    return zmq_status("cannot watch a connection");
  if (zmq_connect(socket, impl->file.endpoint.c_str()) != 0) return zmq_status("cannot connect");
  return Client(std::move(impl));
}

Status Client::request(const wire::Envelope& request, wire::Envelope* reply, int timeout_ms) {
  const int64_t deadline_ns = system_clock().steady_ns() + timeout_ms * kNsPerMs;
  wire::Envelope message = request;
  message.set_request_id(++impl_->last_id);
  DSV3_ASSIGN_OR_RETURN(const std::string frame, protocol::encode(message));
  DSV3_RETURN_IF_ERROR(impl_->wait_for(ZMQ_POLLOUT, deadline_ns, timeout_ms));
  DSV3_RETURN_IF_ERROR(send_frame(impl_->socket.get(), frame, ZMQ_DONTWAIT));
  while (true) {
    DSV3_RETURN_IF_ERROR(impl_->wait_for(ZMQ_POLLIN, deadline_ns, timeout_ms));
    std::string answer;
    bool received = false;
    DSV3_RETURN_IF_ERROR(receive_frame(impl_->socket.get(), ZMQ_DONTWAIT, &answer, &received));
    if (!received) continue;
    DSV3_RETURN_IF_ERROR(protocol::decode(answer, reply));
    // A late answer to a request that timed out.
    if (reply->request_id() != impl_->last_id) continue;
    if (reply->has_error()) return protocol::from_error(reply->error());
    return {};
  }
}

}  // namespace dsv3::transport
