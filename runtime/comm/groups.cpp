// What a rank's groups say of themselves; see groups.h.
#include "runtime/comm/groups.h"

#include <set>

namespace dsv3::comm {

const Groups& Groups::alone() {
  static const Groups groups;
  return groups;
}

int64_t Groups::wait_ns() const {
  std::set<const Communicator*> seen{world,   tensor,  context,  sequence,
                                     experts, forward, backward, embedding};
  for (const Lanes* lanes : {&replicated, &dense, &expert})
    seen.insert(lanes->begin(), lanes->end());
  int64_t total = 0;
  for (const Communicator* group : seen) total += group ? group->traffic().wait_ns : 0;
  return total;
}

}  // namespace dsv3::comm
