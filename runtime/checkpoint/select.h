// Which checkpoint an attempt goes on from, and what becomes of those that cannot be gone on from.
//
// Law: a checkpoint that cannot be used is named and renamed, never deleted, and only where an
// older one takes its place; a folder in which none can be used is left as it is and is an error,
// so that no run silently begins again at step 0. Only the attempt that holds the folder's claim
// renames. FORMAT.md, "Set aside".
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/checkpoint/checkpoint.h"

namespace dsv3::checkpoint {

struct SetAside {
  std::string path;      // where it was
  std::string moved_to;  // "DIR/unusable-step-00000123", with "-2", "-3" … where that is taken
  std::string reason;    // one sentence, naming path and fault
};

struct Selection {
  std::string path;
  int64_t step = 0;
  int64_t attempt = 0;
  std::vector<SetAside> set_aside;
};

// The newest checkpoint in DIR that is `job`'s, opens with all checksums right and of which `fits`
// is ok. Those that are newer, unreadable ones and other jobs' are set aside. kNotFound where DIR
// has no checkpoint at all; kCheckpointUnusable, naming each and its fault, where none can be used;
// kConflict when `attempt` does not hold the claim; kFailed when a folder cannot be renamed.
Result<Selection> select_checkpoint(const std::string& dir, const std::string& job, int64_t attempt,
                                    const std::function<Status(const Checkpoint&)>& fits);

}  // namespace dsv3::checkpoint
