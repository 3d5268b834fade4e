// The equations of comm_cost.h.
#include "cluster/plan/comm_cost.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace dsv3::plan {
namespace {

double per_second(double bytes, const Link& link) {
  return bytes <= 0 ? 0 : bytes / link.bytes_per_s;
}

// (n − 1)/n: what leaves a rank of n.
double away(int64_t n) {
  return static_cast<double>(n - 1) / static_cast<double>(n);
}

int64_t steps_of(int64_t nodes) {
  int64_t steps = 0;
  while ((int64_t{1} << steps) < nodes) ++steps;
  return steps;
}

}  // namespace

GroupShape group_shape(const Layout& layout, AxisSet axes, int64_t devices_per_node) {
  const std::array<int64_t, kNumAxes> sizes{layout.tp, layout.cp, layout.ep, layout.dp, layout.pp};
  GroupShape shape;
  int64_t stride = 1;
  for (int axis = 0; axis < kNumAxes; ++axis) {
    const int64_t size = sizes[static_cast<size_t>(axis)];
    if (axes >> axis & 1) {
      const int64_t room =
          devices_per_node < 1 ? size : std::max<int64_t>(1, devices_per_node / stride);
      // Ranks of a node that a group's size doesn't divide by: the node's share is rounded up.
      const int64_t nodes = (size + room - 1) / room;
      shape.outer *= nodes;
      shape.inner *= (size + nodes - 1) / nodes;
    }
    stride *= size;
  }
  return shape;
}

double gather_seconds(double bytes, const GroupShape& group, const Links& links) {
  if (group.size() <= 1) return 0;
  const double share = bytes / static_cast<double>(group.inner);
  return per_second(bytes * away(group.inner), links.node) +
         per_second(share * away(group.outer), links.network) +
         static_cast<double>(group.inner - 1) * links.node.latency_s +
         static_cast<double>(steps_of(group.outer)) * links.network.latency_s;
}

double all_reduce_seconds(double bytes, const GroupShape& group, const Links& links) {
  return 2 * gather_seconds(bytes, group, links);
}

double send_seconds(double bytes, const Link& link) {
  return per_second(bytes, link) + link.latency_s;
}

double nodes_of_a_token(const spec::MoeSpec& moe, int64_t nodes) {
  double reachable = static_cast<double>(nodes);
  if (moe.n_group > 1) {
    const double per_group =
        std::max(1.0, static_cast<double>(nodes) / static_cast<double>(moe.n_group));
    reachable = std::min(reachable, static_cast<double>(moe.topk_group) * per_group);
  }
  return reachable *
         (1 - std::pow(1 - 1 / reachable, static_cast<double>(moe.num_experts_per_token)));
}

double exchange_seconds(const spec::MoeSpec& moe, double tokens, double token_bytes,
                        const GroupShape& group, const Links& links) {
  if (group.size() <= 1) return 0;
  const double sent = tokens * token_bytes;
  const double network =
      per_second(sent * nodes_of_a_token(moe, group.outer) * away(group.outer), links.network);
  const double node = per_second(
      sent * static_cast<double>(moe.num_experts_per_token) * away(group.inner), links.node);
  return std::max(network, node) + (group.inner > 1 ? links.node.latency_s : 0) +
         (group.outer > 1 ? links.network.latency_s : 0);
}

}  // namespace dsv3::plan
