// Groups whose operations are seen before they start: to list them, or to end a rank in one.
//
// Law: nothing is changed but what the watcher does. Communicators that were one stay one (sums of
// gradients are joined where their groups are the same).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/groups.h"

namespace dsv3::parity {

// Told the group's name and the operation's.
using Watcher = std::function<void(const std::string& group, std::string_view op)>;

class WatchedGroups {
 public:
  // What `groups` points to outlives it.
  WatchedGroups(const comm::Groups& groups, Watcher watcher);
  const comm::Groups& groups() const { return groups_; }

 private:
  comm::Communicator* watched(comm::Communicator* inner);

  Watcher watcher_;
  comm::Groups groups_;
  std::map<comm::Communicator*, std::unique_ptr<comm::Communicator>> owned_;
};

}  // namespace dsv3::parity
