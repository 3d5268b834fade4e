// The folder that holds a job's checkpoints: which are there, who may publish, how one appears.
//
// Law: publishing is one rename under a lock, after the fence has been looked at under the same
// lock; so of two attempts the lower one can never appear after the higher has claimed the folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace dsv3::checkpoint {

// "step-00000123"; −1 for names that are none.
std::string step_folder_name(int64_t step);
int64_t step_of_folder_name(const std::string& name);

// One step-* folder. `attempt` is −1 and `fault` set where the manifest cannot be read.
struct Listed {
  std::string path;
  int64_t step = 0;
  int64_t attempt = -1;
  std::string job;
  std::string fault;
};

// Newest first: by attempt, then by step, because a later attempt may have gone on from an earlier
// step. Unreadable ones come first (whether they are newer cannot be known). Empty where the folder
// is absent.
std::vector<Listed> list_checkpoints(const std::string& dir);

// Holds DIR/.lock (flock) until destroyed.
class FolderLock {
 public:
  static Result<FolderLock> acquire(const std::string& dir);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

// kConflict when a higher attempt has claimed DIR or published in it, or when what is there is
// another job's.
Status check_fence(const std::string& dir, const std::string& job, int64_t attempt);
// kConflict when a higher attempt has claimed DIR: the part of check_fence() that reads one number.
Status check_not_fenced(const std::string& dir, int64_t attempt);
// Renames `temporary` (in DIR, all flushed) to its step's folder, replacing what is there. The
// caller holds the lock. What was replaced is left under the temporary name for the caller to
// delete.
Status publish(const std::string& dir, const std::string& temporary, int64_t step);
// kConflict unless `attempt` is the one that has claimed DIR.
Status check_claim(const std::string& dir, int64_t attempt);
// Renames DIR/step-00000123 to DIR/unusable-step-00000123, or with "-2", "-3" … behind it where
// that is taken; gives the new path. From then on no listing sees it and nothing here deletes it.
// The caller holds the lock and flushes DIR.
Result<std::string> set_folder_aside(const std::string& path);
// Deletes a folder with all that is in it.
Status remove_folder(const std::string& path);
// Deletes temporary folders that attempts up to `attempt` left behind.
void remove_leftovers(const std::string& dir, int64_t attempt);
// The name for a folder being written: ".tmp-step-00000123-attempt-2".
std::string temporary_folder_name(int64_t step, int64_t attempt);

}  // namespace dsv3::checkpoint
