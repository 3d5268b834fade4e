// What a rank's groups say of themselves; see groups.h.
#include "runtime/comm/groups.h"

#include <algorithm>
#include <array>

namespace dsv3::comm {

const Groups& Groups::alone() {
  static const Groups groups;
  return groups;
}

int64_t Groups::wait_ns() const {
  int64_t total = 0;
  for (const Communicator* group :
       {world, tensor, context, sequence, experts, forward, backward, embedding})
    total += group ? group->traffic().wait_ns : 0;
  // Where two classes are summed by the same ranks their lanes are the same.
  const std::array<const Lanes*, 3> classes = {&replicated, &dense, &expert};
  for (size_t i = 0; i < classes.size(); ++i) {
    const auto same = [&](const Lanes* other) { return *other == *classes[i]; };
    if (std::any_of(classes.begin(), classes.begin() + static_cast<ptrdiff_t>(i), same)) continue;
    for (const Communicator* lane : *classes[i]) total += lane->traffic().wait_ns;
  }
  return total;
}

}  // namespace dsv3::comm
