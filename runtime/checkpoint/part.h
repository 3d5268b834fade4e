// Part: what one of several ranks writes of a checkpoint, and how a checkpoint is made of the
// parts.
//
// Laws: (1) a rank writes only what it holds, in files of its own ("rank-00003-…"): nothing is
// gathered, no process ever has the whole model. (2) Rank 0 makes the folder before any rank
// writes, and publishes it once every rank has told that its files are flushed; what is published
// is checked to be whole, and fenced, as if one rank had written it (publish.h). (3) Nothing here
// talks to other ranks: parts travel as text, by whoever calls (runtime/train/group_saver.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/image.h"

namespace dsv3::checkpoint {

// The checkpoint that all ranks are writing.
struct PartsTarget {
  std::string dir;
  int64_t attempt = 1;
  int64_t step = 0;
  SaveProbe probe;  // of publish_parts()
};

// Rank 0, first: makes DIR and the folder that all write into; gives its path. kConflict for an
// attempt that another has fenced off, kFailed for a disk that refuses.
Result<std::string> open_parts(const PartsTarget& target);

// Every rank: writes and flushes its shard files in `folder`. Gives what rank 0 must know of them,
// as text. kInvalid as of save(SaveRequest), kFailed naming the path.
Result<std::string> write_part(const std::string& folder, const SaveRequest& request);
Result<std::string> write_part(const std::string& folder, const Image& image);

// Rank 0, last: makes one manifest of all ranks' texts, checks that every tensor is whole, and
// publishes the folder. Errors as of save(SaveRequest), naming the rank whose part is at fault
// where it is one; on failure the folder is deleted.
Result<SavedCheckpoint> publish_parts(const PartsTarget& target, const std::string& folder,
                                      std::span<const std::string> parts);

// Rank 0, when a rank has failed: deletes the folder. What cannot be deleted goes with a later
// save.
void drop_parts(const std::string& folder);

}  // namespace dsv3::checkpoint
