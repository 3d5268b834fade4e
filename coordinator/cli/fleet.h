// The machines at hand: those of the running coordinator, or this one.
#pragma once

#include <string>

#include "cluster/plan/cluster_spec.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {

struct Fleet {
  plan::ClusterSpec cluster;  // at least one node
  std::string from;           // "this machine", "the coordinator's 3 nodes"
};

// Asks the coordinator where one runs (nodes that are LOST don't count); without one, or when it
// doesn't answer, this machine is looked at.
Fleet find_fleet(const Globals& globals);

// Coordinators tell no cores of a node: those of `local`'s CPU (its first device) go to the node of
// its name. Elsewhere 0 stays.
void take_cores(const plan::Node& local, plan::ClusterSpec* cluster);

}  // namespace dsv3::cli
