// Thin owners of ZeroMQ's C handles, for this folder's .cpp files only.
//
// Law: every socket has its limits set here, in one place: frame size, queue lengths, linger,
// handshake time.
#pragma once

#include <zmq.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "coordinator/transport/keys.h"

namespace dsv3::transport {

inline constexpr int kQueueMessages = 10'000;
inline constexpr int kHandshakeMs = 5'000;
inline constexpr int kReconnectMs = 50;
inline constexpr int kReconnectMaxMs = 1'000;

struct ContextDeleter {
  void operator()(void* context) const { zmq_ctx_term(context); }
};
struct SocketDeleter {
  void operator()(void* socket) const { zmq_close(socket); }
};
using Context = std::unique_ptr<void, ContextDeleter>;
using Socket = std::unique_ptr<void, SocketDeleter>;

Result<Context> make_context();
// A socket with the common limits and LINGER 0.
Result<Socket> make_socket(void* context, int type);
// The client's half of CURVE: own pair and the server's public key.
Status set_curve_client(void* socket, const KeyPair& own, const std::string& server_public_key);
Status set_option(void* socket, int option, int value);
Status set_option(void* socket, int option, std::string_view value);
// "what: reason" from zmq_errno().
Status zmq_status(const char* what);
// A received frame. *received is false when none is there (EAGAIN, EINTR).
Status receive_frame(void* socket, int flags, std::string* frame, bool* received,
                     std::string* user = nullptr);
// Sends one frame with these flags; kTemporary on EAGAIN and EHOSTUNREACH.
Status send_frame(void* socket, std::string_view frame, int flags);
// Milliseconds left until steady time deadline_ns, at least 0.
int left_ms(int64_t deadline_ns);

}  // namespace dsv3::transport
