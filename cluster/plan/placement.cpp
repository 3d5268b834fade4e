// See placement.h.
#include "cluster/plan/placement.h"

namespace dsv3::plan {

std::map<std::string, std::vector<uint32_t>> ranks_by_node(const Plan& plan) {
  std::map<std::string, std::vector<uint32_t>> out;  // plan.ranks are by global_rank
  for (const RankPlacement& rank : plan.ranks)
    out[rank.node].push_back(static_cast<uint32_t>(rank.global_rank));
  return out;
}

}  // namespace dsv3::plan
