// Choosing and setting aside; see select.h.
#include "runtime/checkpoint/select.h"

#include <fmt/format.h>

#include <utility>

#include "base/file.h"
#include "runtime/checkpoint/folder.h"

namespace dsv3::checkpoint {
namespace {

Status foreign(const Listed& entry, const std::string& job) {
  return Status(Code::kCheckpointUnusable,
                fmt::format("'{}' belongs to job '{}', not '{}'", entry.path, entry.job, job),
                "give each job its own checkpoint.path");
}

// Why the job cannot go on from this checkpoint; ok when it can.
Status examine(const Listed& entry, const std::string& job,
               const std::function<Status(const Checkpoint&)>& fits) {
  if (!entry.fault.empty()) return Status(Code::kCheckpointUnusable, entry.fault);
  if (entry.job != job) return foreign(entry, job);
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved, Checkpoint::open(entry.path, false));
  DSV3_RETURN_IF_ERROR(fits(saved));  // what does not fit needs no reading
  return saved.verify();
}

struct Rejected {
  std::string path;
  Status status;
};

Status none_usable(const std::string& dir, const std::vector<Rejected>& rejected) {
  std::string message = fmt::format("no usable checkpoint in '{}'", dir);
  std::string hint;
  for (size_t i = 0; i < rejected.size(); ++i) {
    message += (i == 0 ? ": " : "; ") + rejected[i].status.message();
    if (hint.empty()) hint = rejected[i].status.hint();
  }
  return Status(Code::kCheckpointUnusable, message,
                !hint.empty() ? hint : "repair the disk, or move the folders away to begin afresh");
}

// Gives the new names; the caller holds the folder's lock.
Result<std::vector<SetAside>> move_away(const std::string& dir,
                                        const std::vector<Rejected>& rejected) {
  std::vector<SetAside> moved;
  for (const Rejected& entry : rejected) {
    DSV3_ASSIGN_OR_RETURN(std::string moved_to, set_folder_aside(entry.path));
    moved.push_back({entry.path, std::move(moved_to), entry.status.message()});
  }
  if (!moved.empty()) DSV3_RETURN_IF_ERROR(sync_path(dir));
  return moved;
}

}  // namespace

Result<Selection> select_checkpoint(const std::string& dir, const std::string& job, int64_t attempt,
                                    const std::function<Status(const Checkpoint&)>& fits) {
  Selection selected;
  std::vector<Rejected> rejected;
  for (const Listed& entry : list_checkpoints(dir)) {
    if (!selected.path.empty()) {
      // Older ones stay unread; but another job's would fence this one off.
      if (entry.job != job) rejected.push_back({entry.path, foreign(entry, job)});
      continue;
    }
    if (Status fault = examine(entry, job, fits); !fault.ok()) {
      rejected.push_back({entry.path, std::move(fault)});
      continue;
    }
    selected.path = entry.path;
    selected.step = entry.step;
    selected.attempt = entry.attempt;
  }
  if (selected.path.empty()) {
    if (!rejected.empty()) return none_usable(dir, rejected);
    return Status(Code::kNotFound, fmt::format("no checkpoint in '{}'", dir));
  }
  DSV3_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::acquire(dir));
  DSV3_RETURN_IF_ERROR(check_claim(dir, attempt));
  DSV3_ASSIGN_OR_RETURN(selected.set_aside, move_away(dir, rejected));
  return selected;
}

}  // namespace dsv3::checkpoint
