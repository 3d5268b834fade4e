// See agent_link.h.
#include "coordinator/transport/agent_link.h"

#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"
#include "coordinator/transport/coordinator_file.h"
#include "coordinator/transport/keys.h"
#include "coordinator/transport/socket.h"

namespace dsv3::transport {

struct AgentLink::Impl {
  std::string state_dir;
  CoordinatorFile file;
  Context context;
  Socket socket;

  // Replaces the socket by one that is connected to `to`.
  Status open(const CoordinatorFile& to) {
    DSV3_ASSIGN_OR_RETURN(const KeyPair keys, load_key_pair(state_dir, "agent"));
    DSV3_ASSIGN_OR_RETURN(Socket fresh, make_socket(context.get(), ZMQ_DEALER));
    DSV3_RETURN_IF_ERROR(set_curve_client(fresh.get(), keys, to.server_public_key));
    if (zmq_connect(fresh.get(), to.endpoint.c_str()) != 0) return zmq_status("cannot connect");
    socket = std::move(fresh);
    file = to;
    return {};
  }
};

AgentLink::AgentLink(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AgentLink::AgentLink(AgentLink&&) noexcept = default;
AgentLink& AgentLink::operator=(AgentLink&&) noexcept = default;
AgentLink::~AgentLink() = default;

Result<AgentLink> AgentLink::connect(const std::string& state_dir) {
  auto impl = std::make_unique<Impl>();
  impl->state_dir = state_dir;
  DSV3_ASSIGN_OR_RETURN(const CoordinatorFile file, read_coordinator_file_of_any(state_dir));
  DSV3_ASSIGN_OR_RETURN(impl->context, make_context());
  DSV3_RETURN_IF_ERROR(impl->open(file));
  return AgentLink(std::move(impl));
}

Status AgentLink::send(const wire::Envelope& message) {
  DSV3_ASSIGN_OR_RETURN(const std::string frame, protocol::encode(message));
  return send_frame(impl_->socket.get(), frame, ZMQ_DONTWAIT);
}

Status AgentLink::receive(wire::Envelope* message, bool* received, int timeout_ms) {
  *received = false;
  if (timeout_ms > 0) {
    zmq_pollitem_t item = {impl_->socket.get(), 0, ZMQ_POLLIN, 0};
    if (zmq_poll(&item, 1, timeout_ms) <= 0) return {};
  }
  std::string frame;
  DSV3_RETURN_IF_ERROR(receive_frame(impl_->socket.get(), ZMQ_DONTWAIT, &frame, received));
  if (!*received) return {};
  const Status status = protocol::decode(frame, message);
  *received = status.ok();
  return status;
}

int AgentLink::fd() const {
  int fd = -1;
  size_t bytes = sizeof fd;
  DSV3_CHECK(zmq_getsockopt(impl_->socket.get(), ZMQ_FD, &fd, &bytes) == 0);
  return fd;
}

Result<bool> AgentLink::refresh() {
  const Result<CoordinatorFile> now = read_coordinator_file(impl_->state_dir);
  if (!now.ok()) {
    // Away for the moment: the old connection keeps trying.
    if (now.status().code() == Code::kNoCoordinator) return false;
    return now.status();
  }
  if (now->instance == impl_->file.instance && now->endpoint == impl_->file.endpoint) return false;
  DSV3_RETURN_IF_ERROR(impl_->open(*now));
  return true;
}

}  // namespace dsv3::transport
