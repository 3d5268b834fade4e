// Server: the coordinator's side, a ZeroMQ ROUTER on 127.0.0.1 with CURVE and a ZAP allow-list from
// the first message.
//
// Law: a message reaches receive() only if its sender's public key is in keys/allowed/ (read at
// every handshake), its frame is within the limit and it decodes. Sending never blocks: a peer that
// is gone or doesn't read is kTemporary.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/keys.h"

namespace dsv3::transport {

// Who sent a message: an opaque address to answer to (new after each reconnect) and what its key
// allows.
struct Peer {
  std::string address;
  std::string key_name;
  Role role = Role::kClient;
};

// Not thread-safe (the ZAP handler's thread is its own). Move-only.
class Server {
 public:
  // Binds `preferred_endpoint` if it is given and free, else a free port of 127.0.0.1. Requires
  // ensure_keys(state_dir).
  static Result<Server> bind(const std::string& state_dir, const std::string& preferred_endpoint);

  Server(Server&&) noexcept;
  Server& operator=(Server&&) noexcept;
  ~Server();

  const std::string& endpoint() const;
  const std::string& public_key() const;

  // The next message, if one is there; never waits. kInvalid: the frame failed protocol::decode;
  // *peer is set, so that an error can be answered. Anything else that is not ok is a failure of
  // the socket itself.
  Status receive(Peer* peer, wire::Envelope* message, bool* received);
  // Queues a message to a peer; kTemporary when it is gone or its queue is full.
  Status send(const Peer& peer, const wire::Envelope& message);

  // Waits until a message is there or extra_fd is readable (-1: none) or timeout_ms have passed.
  Status wait(int extra_fd, int timeout_ms);

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv3::transport
