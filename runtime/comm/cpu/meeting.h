// The meeting: how the ranks of an attempt find each other and get one control connection per pair.
//
// Law: nobody is waited for beyond the deadline, and who is missing is named. The higher rank of a
// pair connects to the lower one.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "runtime/comm/cpu/door.h"
#include "runtime/comm/cpu/mesh.h"

namespace dsv3::comm {

// Between two looks at MeshOptions::stop: a request may come without waking the poll.
inline constexpr int64_t kStopLookNs = 50'000'000;

struct Links {
  std::unique_ptr<Door> door;      // stays open for the groups' connections
  std::vector<Address> addresses;  // of each rank's door, as this rank reaches it
  std::vector<Fd> control;         // to each rank; own: invalid
};

// Errors as Mesh::connect.
Result<Links> meet(const MeshOptions& options);

// A hello of this rank.
Hello make_hello(const MeshOptions& options, Purpose purpose);

}  // namespace dsv3::comm
