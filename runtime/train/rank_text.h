// Texts and outcomes between ranks: what one rank has to say, and whether all of them succeeded.
//
// Laws: every rank of the group calls the same function at the same point; each waits with the
// disk's deadline, because what is said is often about a disk that one of them has waited for. An
// agreed status is the same on every rank, so that none goes on alone.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/comm/communicator.h"

namespace dsv3::train {

// The text of rank `root`, on every rank. Throws Failure, as all below.
std::string broadcast_text(comm::Communicator& world, std::string_view what,
                           const std::string& text, int root = 0);

// Every rank's text, in order of ranks, on rank 0; nothing on the others.
std::vector<std::string> gather_texts(comm::Communicator& world, std::string_view what,
                                      const std::string& text);

// Ok when all ranks' are; else that of the lowest rank that has failed, which it names ("rank 3:
// …").
Status agree(comm::Communicator& world, std::string_view what, const Status& own);

// Rank 0's status, on every rank.
Status broadcast_status(comm::Communicator& world, std::string_view what, const Status& status);

// For as long as it lives operations of the group have the disk's deadline.
class DiskDeadline {
 public:
  explicit DiskDeadline(comm::Communicator& world);
  DiskDeadline(const DiskDeadline&) = delete;
  DiskDeadline& operator=(const DiskDeadline&) = delete;
  ~DiskDeadline();

 private:
  comm::Communicator& world_;
};

}  // namespace dsv3::train
