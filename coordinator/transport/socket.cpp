// See socket.h.
#include "coordinator/transport/socket.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"
#include "coordinator/protocol/frames.h"

namespace dsv3::transport {

Status zmq_status(const char* what) {
  return Status(Code::kFailed, fmt::format("{}: {}", what, zmq_strerror(zmq_errno())));
}

Result<Context> make_context() {
  Context context(zmq_ctx_new());
  if (!context) return zmq_status("cannot start ZeroMQ");
  return context;
}

Status set_option(void* socket, int option, int value) {
  if (zmq_setsockopt(socket, option, &value, sizeof value) != 0)
    return zmq_status("cannot set a socket's option");
  return {};
}

Status set_option(void* socket, int option, std::string_view value) {
  if (zmq_setsockopt(socket, option, value.data(), value.size()) != 0)
    return zmq_status("cannot set a socket's option");
  return {};
}

Result<Socket> make_socket(void* context, int type) {
  Socket socket(zmq_socket(context, type));
  if (!socket) return zmq_status("cannot make a socket");
  const int64_t frame_max = protocol::kFrameMaxBytes;
  if (zmq_setsockopt(socket.get(), ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max) != 0) {
    return zmq_status("cannot limit the frame size");
  }
  DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_LINGER, 0));
  DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_SNDHWM, kQueueMessages));
  DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_RCVHWM, kQueueMessages));
  DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_HANDSHAKE_IVL, kHandshakeMs));
  DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_RECONNECT_IVL, kReconnectMs));
  DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_RECONNECT_IVL_MAX, kReconnectMaxMs));
  DSV3_RETURN_IF_ERROR(set_option(socket.get(), ZMQ_TCP_KEEPALIVE, 1));
  return socket;
}

Status set_curve_client(void* socket, const KeyPair& own, const std::string& server_public_key) {
  DSV3_RETURN_IF_ERROR(
      set_option(socket, ZMQ_CURVE_SERVERKEY, std::string_view(server_public_key)));
  DSV3_RETURN_IF_ERROR(set_option(socket, ZMQ_CURVE_PUBLICKEY, std::string_view(own.public_key)));
  return set_option(socket, ZMQ_CURVE_SECRETKEY, std::string_view(own.secret_key));
}

Status receive_frame(void* socket, int flags, std::string* frame, bool* received,
                     std::string* user) {
  *received = false;
  zmq_msg_t message;
  zmq_msg_init(&message);
  const int bytes = zmq_msg_recv(&message, socket, flags);
  Status status;
  if (bytes >= 0) {
    frame->assign(static_cast<const char*>(zmq_msg_data(&message)), static_cast<size_t>(bytes));
    const char* user_id = user != nullptr ? zmq_msg_gets(&message, "User-Id") : nullptr;
    if (user_id != nullptr) *user = user_id;
    *received = true;
  } else if (zmq_errno() != EAGAIN && zmq_errno() != EINTR) {
    status = zmq_status("cannot receive");
  }
  zmq_msg_close(&message);
  return status;
}

Status send_frame(void* socket, std::string_view frame, int flags) {
  while (zmq_send(socket, frame.data(), frame.size(), flags) < 0) {
    if (zmq_errno() == EINTR) continue;
    if (zmq_errno() == EAGAIN || zmq_errno() == EHOSTUNREACH) {
      return Status(Code::kTemporary, "the peer is not connected, or its queue is full");
    }
    return zmq_status("cannot send");
  }
  return {};
}

int left_ms(int64_t deadline_ns) {
  const int64_t left_ns = deadline_ns - system_clock().steady_ns();
  return static_cast<int>(std::clamp<int64_t>((left_ns + 999'999) / 1'000'000, 0, 1 << 30));
}

}  // namespace dsv3::transport
