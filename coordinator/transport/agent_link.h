// AgentLink: the agent's two-way connection to the coordinator, which may die and come back on
// another port.
//
// Law: the link never blocks longer than asked, and never loses the agent: a coordinator that is
// away is a state of the link, not an error. What must not be lost (reports) is kept by the caller
// until a ReportAck covers it, and sent again after refresh() said true. zmq.h appears in this
// folder's .cpp files only.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"

namespace dsv3::transport {

// Not thread-safe. Move-only.
class AgentLink {
 public:
  // Uses <state_dir>/coordinator.json and the key pair <state_dir>/keys/agent.key. kNoCoordinator
  // when the file is absent.
  static Result<AgentLink> connect(const std::string& state_dir);

  AgentLink(AgentLink&&) noexcept;
  AgentLink& operator=(AgentLink&&) noexcept;
  ~AgentLink();

  // Queues one message; never waits. While the coordinator is away messages wait in the queue and
  // are sent when it is back at the same port; they are gone when refresh() moves to another.
  // kTemporary when the queue is full (send it again later).
  Status send(const wire::Envelope& message);

  // The next message. Waits at most timeout_ms (0: only what is there); *received is false when
  // there is none. kInvalid: a frame failed protocol::decode and was dropped.
  Status receive(wire::Envelope* message, bool* received, int timeout_ms);

  // A descriptor for poll(POLLIN). It is edge-triggered (ZMQ_FD): before every poll(), and after
  // every send(), call receive(…, 0) until nothing is received; then wait. It changes when
  // refresh() returns true.
  int fd() const;

  // Reads coordinator.json again and connects anew when the coordinator's instance or endpoint has
  // changed. True when it did: say AgentHello again and send what is not acknowledged. Cheap; call
  // it every second while no HeartbeatAck comes.
  Result<bool> refresh();

 private:
  struct Impl;
  explicit AgentLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv3::transport
