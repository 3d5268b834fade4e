// Client: one connection of dsv3ctl (or of a test) to the coordinator of a state directory.
//
// Law: every wait has a deadline, and a client that isn't allowed learns that (kNotAuthorised)
// instead of waiting. The connection is a ZeroMQ DEALER with CURVE: the server's public key comes
// from <state-dir>/coordinator.json, the own key pair from <state-dir>/keys/. zmq.h appears in this
// folder's .cpp files only.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/coordinator_file.h"

namespace dsv3::transport {

// Not thread-safe; use one per thread. Move-only.
class Client {
 public:
  // Opens a connection (it is made in the background; the first request waits for it).
  // kNoCoordinator: none is running here, or its keys are absent. kNotAuthorised: the key file is
  // not readable by this user.
  static Result<Client> connect(const std::string& state_dir);
  // As connect(), with a named key pair <state-dir>/keys/<key_name>.key instead of "client".
  static Result<Client> connect_as(const std::string& state_dir, const std::string& key_name);

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // Sends `request` (its id and version are filled in) and waits for the reply with that id. An
  // Error body comes back as its Status. kTimeout: no reply in time (the coordinator may still do
  // it). kNotAuthorised: the coordinator refused the key. kNoCoordinator: its process ended
  // meanwhile.
  Status request(const wire::Envelope& request, wire::Envelope* reply, int timeout_ms);

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv3::transport
