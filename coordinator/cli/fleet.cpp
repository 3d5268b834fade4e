// See fleet.h.
#include "coordinator/cli/fleet.h"

#include <fmt/format.h>

#include "cluster/inventory/inventory.h"
#include "configs/spec/gpu_table.h"
#include "coordinator/cli/session.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

constexpr int kPatienceMs = 2'000;

plan::Node node_of(const wire::NodeStatus& status) {
  plan::Node node{.name = status.name()};
  for (const wire::Device& d : status.devices()) {
    plan::Device device;
    device.kind = d.kind() == "cuda" ? plan::DeviceKind::kCuda : plan::DeviceKind::kCpu;
    device.name = d.name();
    device.uuid = d.uuid();
    device.memory_bytes = d.memory_bytes();
    if (device.kind == plan::DeviceKind::kCuda) device.sm_version = spec::gpu_sm_version(d.name());
    node.devices.push_back(std::move(device));
  }
  return node;
}

}  // namespace

void take_cores(const plan::Node& local, plan::ClusterSpec* cluster) {
  for (plan::Node& node : cluster->nodes) {
    if (node.name != local.name || local.devices.empty()) continue;
    const plan::Device& here = local.devices[0];
    for (plan::Device& device : node.devices) {
      if (device.kind != plan::DeviceKind::kCpu || device.name != here.name) continue;
      device.cores = here.cores;
      device.multiplies_in_bf16 = here.multiplies_in_bf16;
    }
  }
}

Fleet find_fleet(const Globals& globals) {
  Fleet fleet;
  wire::Envelope request, reply;
  request.mutable_nodes();
  auto client = connect(globals);
  if (client.ok() && ask(*client, request, &reply, kPatienceMs).ok()) {
    for (const wire::NodeStatus& status : reply.nodes_reply().nodes()) {
      if (status.state() != wire::NODE_LOST) fleet.cluster.nodes.push_back(node_of(status));
    }
  }
  const size_t nodes = fleet.cluster.nodes.size();
  if (nodes == 0) return {inventory::local_cluster(), "this machine"};
  take_cores(inventory::local_cluster().nodes[0], &fleet.cluster);
  fleet.from = nodes == 1 ? "the coordinator's node " + fleet.cluster.nodes[0].name
                          : fmt::format("the coordinator's {} nodes", nodes);
  return fleet;
}

}  // namespace dsv3::cli
