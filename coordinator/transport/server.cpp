// See server.h. ZAP is RFC 27 of ZeroMQ: libzmq asks inproc://zeromq.zap.01 about every handshake.
#include "coordinator/transport/server.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <thread>
#include <vector>

#include "base/log.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"
#include "coordinator/transport/socket.h"

namespace dsv3::transport {
namespace {

constexpr const char* kZapAddress = "inproc://zeromq.zap.01";
constexpr size_t kCurveKeyBytes = 32;
constexpr size_t kKeyChars = 40;
// Replies that are still queued when the process ends are given this long.
constexpr int kServerLingerMs = 500;

// All frames of one message; empty when the context is being ended.
std::vector<std::string> receive_frames(void* socket) {
  std::vector<std::string> frames;
  int more = 1;
  while (more != 0) {
    std::string frame;
    bool received = false;
    if (!receive_frame(socket, 0, &frame, &received).ok()) return {};
    if (!received) continue;
    frames.push_back(std::move(frame));
    size_t bytes = sizeof more;
    if (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &bytes) != 0) return {};
  }
  return frames;
}

// Request: version, request id, domain, address, identity, mechanism, credentials. Reply: version,
// request id, code, text, user, metadata.
void answer_zap(void* socket, const std::string& state_dir,
                const std::vector<std::string>& request) {
  std::string code = "400";
  std::string text = "not in the allow-list";
  std::string user;
  if (request.size() == 7 && request[5] == "CURVE" && request[6].size() == kCurveKeyBytes) {
    std::array<char, kKeyChars + 1> public_key{};
    zmq_z85_encode(public_key.data(), reinterpret_cast<const uint8_t*>(request[6].data()),
                   kCurveKeyBytes);
    if (const auto allowed = find_allowed_key(state_dir, public_key.data())) {
      code = "200";
      text = "OK";
      user = allowed->name;
    } else {
      log::warning("refused a connection from {}: its key {} is not in keys/allowed", request[3],
                   public_key.data());
    }
  }
  const std::string request_id = request.size() > 1 ? request[1] : "";
  const std::array<std::string, 6> reply = {"1.0", request_id, code, text, user, ""};
  for (size_t i = 0; i < reply.size(); ++i) {
    if (!send_frame(socket, reply[i], i + 1 < reply.size() ? ZMQ_SNDMORE : 0).ok()) return;
  }
}

void serve_zap(Socket socket, const std::string& state_dir) {
  while (true) {
    const std::vector<std::string> request = receive_frames(socket.get());
    if (request.empty()) return;
    answer_zap(socket.get(), state_dir, request);
  }
}

}  // namespace

struct Server::Impl {
  KeyPair keys;
  std::string endpoint;
  Context context;
  Socket socket;
  std::thread zap;

  ~Impl() {
    socket.reset();
    if (context) zmq_ctx_shutdown(context.get());
    if (zap.joinable()) zap.join();
  }

  Status start_zap(const std::string& state_dir) {
    DSV3_ASSIGN_OR_RETURN(Socket zap_socket, make_socket(context.get(), ZMQ_REP));
    if (zmq_bind(zap_socket.get(), kZapAddress) != 0)
      return zmq_status("cannot serve authentication");
    zap = std::thread(serve_zap, std::move(zap_socket), state_dir);
    return {};
  }

  Status bind_router(const std::string& preferred_endpoint) {
    DSV3_ASSIGN_OR_RETURN(socket, make_socket(context.get(), ZMQ_ROUTER));
    DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_CURVE_SERVER, 1));
    DSV3_RETURN_IF_ERROR(
        set_option(socket.get(), ZMQ_CURVE_SECRETKEY, std::string_view(keys.secret_key)));
    DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_ZAP_DOMAIN, std::string_view("dsv3ctl")));
    DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_ROUTER_MANDATORY, 1));
    DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_LINGER, kServerLingerMs));
    const bool wanted = !preferred_endpoint.empty();
    if (!wanted || zmq_bind(socket.get(), preferred_endpoint.c_str()) != 0) {
      if (zmq_bind(socket.get(), "tcp://127.0.0.1:*") != 0)
        return zmq_status("cannot bind a port of 127.0.0.1");
    }
    std::array<char, 256> bound{};
    size_t bytes = bound.size();
    if (zmq_getsockopt(socket.get(), ZMQ_LAST_ENDPOINT, bound.data(), &bytes) != 0)
      return zmq_status("cannot read the port");
    endpoint = bound.data();
    return {};
  }
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::Server(Server&&) noexcept = default;
Server& Server::operator=(Server&&) noexcept = default;
Server::~Server() = default;

Result<Server> Server::bind(const std::string& state_dir, const std::string& preferred_endpoint) {
  auto impl = std::make_unique<Impl>();
  DSV3_ASSIGN_OR_RETURN(impl->keys, load_key_pair(state_dir, "server"));
  DSV3_ASSIGN_OR_RETURN(impl->context, make_context());
  DSV3_RETURN_IF_ERROR(impl->start_zap(state_dir));
  DSV3_RETURN_IF_ERROR(impl->bind_router(preferred_endpoint));
  return Server(std::move(impl));
}

const std::string& Server::endpoint() const {
  return impl_->endpoint;
}
const std::string& Server::public_key() const {
  return impl_->keys.public_key;
}

Status Server::receive(Peer* peer, wire::Envelope* message, bool* received) {
  *received = false;
  void* socket = impl_->socket.get();
  DSV3_RETURN_IF_ERROR(receive_frame(socket, ZMQ_DONTWAIT, &peer->address, received));
  if (!*received) return {};
  std::string body;
  std::string user;
  int num_frames = 1;
  int more = 0;
  size_t bytes = sizeof more;
  while (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &bytes) == 0 && more != 0) {
    bool part = false;
    DSV3_RETURN_IF_ERROR(receive_frame(socket, ZMQ_DONTWAIT, &body, &part, &user));
    ++num_frames;
  }
  peer->key_name = user;
  peer->role = user.starts_with("agent") ? Role::kAgent : Role::kClient;
  if (num_frames != 2)
    return Status(Code::kInvalid,
                  fmt::format("a message of {} parts; one is expected", num_frames - 1));
  return protocol::decode(body, message);
}

Status Server::send(const Peer& peer, const wire::Envelope& message) {
  DSV3_ASSIGN_OR_RETURN(const std::string frame, protocol::encode(message));
  DSV3_RETURN_IF_ERROR(send_frame(impl_->socket.get(), peer.address, ZMQ_DONTWAIT | ZMQ_SNDMORE));
  return send_frame(impl_->socket.get(), frame, ZMQ_DONTWAIT);
}

Status Server::wait(int extra_fd, int timeout_ms) {
  zmq_pollitem_t items[2] = {{impl_->socket.get(), 0, ZMQ_POLLIN, 0},
                             {nullptr, extra_fd, ZMQ_POLLIN, 0}};
  if (zmq_poll(items, extra_fd >= 0 ? 2 : 1, timeout_ms) < 0 && zmq_errno() != EINTR)
    return zmq_status("cannot wait");
  return {};
}

}  // namespace dsv3::transport
