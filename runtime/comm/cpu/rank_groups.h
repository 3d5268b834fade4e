// RankGroups: a rank's groups (../groups.h), made over a mesh.
#pragma once

#include <memory>
#include <vector>

#include "runtime/comm/cpu/mesh.h"
#include "runtime/comm/groups.h"

namespace dsv3::comm {

// Groups with the communicators that they point to.
class RankGroups {
 public:
  // Every rank of the mesh calls it with the same layout, whose world_size() is the mesh's.
  // `copies`: the last stage holds the embedding too. Throws Failure.
  RankGroups(Mesh& mesh, const plan::Layout& layout, bool copies);
  const Groups& groups() const { return groups_; }

 private:
  Groups groups_;
  std::vector<std::unique_ptr<Communicator>> owned_;
};

}  // namespace dsv3::comm
