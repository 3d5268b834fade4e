// Where a plan's ranks run, node by node: what a submission asks for.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cluster/plan/plan.h"

namespace dsv3::plan {

// The global ranks of each node that has any, in rising order; empty for a plan that doesn't fit.
std::map<std::string, std::vector<uint32_t>> ranks_by_node(const Plan& plan);

}  // namespace dsv3::plan
