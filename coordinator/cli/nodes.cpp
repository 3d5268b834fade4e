// dsv3ctl nodes: the machines the coordinator knows, what they have, and when they were last heard.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string state_of(const wire::NodeStatus& node) {
  return std::string(protocol::node_state_name(static_cast<protocol::NodeState>(node.state())));
}

Json node_json(const wire::NodeStatus& node) {
  Json devices = Json::array();
  for (const wire::Device& device : node.devices()) {
    devices.push_back({{"kind", device.kind()},
                       {"name", device.name()},
                       {"uuid", device.uuid()},
                       {"memory_bytes", device.memory_bytes()}});
  }
  return {{"name", node.name()},
          {"state", state_of(node)},
          {"reason", node.reason()},
          {"since", static_cast<double>(node.since_unix_ns()) / 1e9},
          {"devices", devices},
          {"last_heard_s", node.has_last_heard_s() ? Json(node.last_heard_s()) : Json(nullptr)}};
}

int nodes(const Globals& globals) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_nodes();
  if (Status status = ask(*client, request, &envelope); !status.ok()) return fail(globals, status);
  Json rows = Json::array();
  Table table({"NODE", "STATE", "HEARD", "DEVICE", "MEMORY", "REASON"});
  for (const wire::NodeStatus& node : envelope.nodes_reply().nodes()) {
    rows.push_back(node_json(node));
    const std::string heard =
        node.has_last_heard_s() ? fmt::format("{:.1f}s ago", node.last_heard_s()) : "–";
    if (node.devices().empty())
      table.add({node.name(), state_of(node), heard, "–", "–", node.reason()});
    for (const wire::Device& device : node.devices()) {
      table.add({node.name(), state_of(node), heard, device.name(),
                 human_bytes(device.memory_bytes()), node.reason()});
    }
  }
  if (globals.json) {
    print_json({{"nodes", rows}});
  } else if (table.empty()) {
    print("no nodes yet: a node appears when a job starts on it\n");
  } else {
    print(table.render(globals.color));
  }
  return 0;
}

}  // namespace

Verb make_nodes() {
  Verb verb;
  verb.name = "nodes";
  verb.group = "Look";
  verb.summary = "The machines, their devices and when they were last heard";
  verb.help = "Example:\n  dsv3ctl nodes --json";
  verb.run = [](const Globals& globals) { return nodes(globals); };
  return verb;
}

}  // namespace dsv3::cli
