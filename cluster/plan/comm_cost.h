// Seconds of each kind of exchange, from its volume and the links it crosses.
//
// Laws: PURE; one function an exchange, each with its equation. Inside a node ranks talk over
// node_link, between nodes over network_link, one adapter a device. A collective over both goes in
// two levels: inside the node first, then each rank with its peers in other nodes for its share
// (NCCL's and MPI's hierarchical rings). Volumes are of one rank, in bytes.
#pragma once

#include <cstdint>

#include "cluster/plan/device_model.h"
#include "cluster/plan/layout.h"
#include "cluster/plan/rank_grid.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

struct Links {
  Link node;
  Link network;
};

// How the ranks of one group lie: `inner` of them in each of `outer` nodes.
struct GroupShape {
  int64_t inner = 1;
  int64_t outer = 1;
  int64_t size() const { return inner * outer; }
  bool operator==(const GroupShape&) const = default;
};

// The group of rank 0 over `axes` on nodes of `devices_per_node` (0: one node). Example: EP 16 with
// TP 2 on nodes of 8: ranks 0, 2, …, 30; 4 of them in each of 4 nodes.
GroupShape group_shape(const Layout& layout, AxisSet axes, int64_t devices_per_node);

// All-gather, or reduce-scatter, whose whole result (input) has `bytes`:
//   (i − 1)/i · V / node + (o − 1)/o · V/i / network, + (i − 1) node latencies + ⌈log2 o⌉ network
//   latencies (NCCL's PAT and trees go in a logarithm of steps between nodes).
// Example: 1 GB over 8 ranks of a node at 100 GB/s without latency: 8.75 ms.
double gather_seconds(double bytes, const GroupShape& group, const Links& links);
// Its reduce-scatter and all-gather.
double all_reduce_seconds(double bytes, const GroupShape& group, const Links& links);
// A point-to-point message.
double send_seconds(double bytes, const Link& link);

// Nodes that one token's experts are expected on: of n nodes that may be reached, k experts drawn
// evenly hit n·(1 − (1 − 1/n)^k). Group-limited routing (n_group > 1) reaches topk_group groups,
// n/n_group nodes each and at least one.
// Example: DeepSeek-V3, EP 64 on 8 nodes: 4·(1 − (3/4)^8) = 3.6 nodes; without the limit 5.25.
double nodes_of_a_token(const spec::MoeSpec& moe, int64_t nodes);

// One all-to-all that carries `tokens` tokens of `token_bytes` to their top-k experts (dispatch) or
// back (combine): over the network once a node and token, inside the node once an expert, both at
// once (DeepEP's two-level exchange).
//   max(tokens·token_bytes·reached·(o − 1)/o / network, tokens·k·token_bytes·(i − 1)/i / node)
// plus a latency of each link that is used.
double exchange_seconds(const spec::MoeSpec& moe, double tokens, double token_bytes,
                        const GroupShape& group, const Links& links);

}  // namespace dsv3::plan
