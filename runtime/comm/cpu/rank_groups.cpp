// Making a rank's groups; see rank_groups.h.
#include "runtime/comm/cpu/rank_groups.h"

#include <fmt/core.h>

#include <string>

#include "base/check.h"

namespace dsv3::comm {
namespace {

using plan::AxisSet;

constexpr AxisSet kWorldGroup = (1u << plan::kNumAxes) - 1;
constexpr int kGradientLanes = 2;  // tests/bench/RESULTS.md: what one, two and four hide

}  // namespace

RankGroups::RankGroups(Mesh& mesh, const plan::Layout& layout, bool copies) {
  DSV3_CHECK(layout.world_size() == mesh.world(), "a layout of another number of ranks");
  const plan::RankGrid grid(layout);
  groups_.layout = layout;
  groups_.position = grid.position(mesh.rank());
  const auto make = [&](const std::string& name, AxisSet axes) -> Communicator* {
    const std::vector<int64_t> ranks = grid.group_of(mesh.rank(), axes);
    if (ranks.size() == 1) return nullptr;
    owned_.push_back(mesh.create_group(name, std::vector<int>(ranks.begin(), ranks.end())));
    return owned_.back().get();
  };
  const auto make_lanes = [&](const char* name, AxisSet axes) {
    Lanes lanes;
    for (int lane = 0; lane < kGradientLanes; ++lane) {
      if (Communicator* group = make(fmt::format("{} {}", name, lane), axes))
        lanes.push_back(group);
    }
    return lanes;
  };
  groups_.world = make("world", kWorldGroup);
  groups_.tensor = make("tp", plan::kTpGroup);
  groups_.context = make("cp", plan::kCpGroup);
  groups_.sequence = make("tp·cp", plan::kTpGroup | plan::kCpGroup);
  groups_.experts = make("ep", layout.etp > 1 ? plan::kEpGroup : plan::kExpertShardGroup);
  groups_.forward = make("pp forward", plan::kPpGroup);
  groups_.backward = make("pp backward", plan::kPpGroup);
  groups_.dense = make_lanes("gradients", plan::kDenseGradGroup);
  // Where the members are the same the lanes are, too: fewer sockets, and buckets that join.
  groups_.replicated =
      layout.tp == 1 ? groups_.dense
                     : make_lanes("replicated gradients", plan::kDenseGradGroup | plan::kTpGroup);
  groups_.expert =
      layout.ep == 1 ? groups_.dense : make_lanes("expert gradients", plan::kExpertGradGroup);
  if (copies && layout.pp > 1 && (groups_.is_first_stage() || groups_.is_last_stage())) {
    std::vector<int64_t> stages = grid.group_of(mesh.rank(), plan::kPpGroup);
    owned_.push_back(mesh.create_group(
        "embedding", {static_cast<int>(stages.front()), static_cast<int>(stages.back())}));
    groups_.embedding = owned_.back().get();
  }
}

}  // namespace dsv3::comm
