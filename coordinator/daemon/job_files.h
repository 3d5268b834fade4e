// The folders of jobs: <state-dir>/jobs/<id>/{spec.yaml, plan.json, submitted, logs/, run/}.
//
// Law: a job starts in a folder of its own. `submitted` names the submission that a folder belongs
// to; one that another database left under the same id (its checkpoints would be resumed, its
// agents' records believed) is moved aside, never used and never deleted.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "coordinator/core/state.h"

namespace dsv3::daemon {

// The time of the submission, in its event too: no other submission has it.
std::string submission_mark(const core::Job& job);
std::string job_dir(const std::string& state_dir, const std::string& job);
// Writes spec.yaml, plan.json and submitted and makes logs/ and run/. A folder that is not the
// job's is renamed to <id>.old-<n> first. Idempotent.
Status write_job_files(const std::string& state_dir, const core::Job& job);
// Ok when the job's folder is there and its own; else kFailed.
Status check_job_dir(const std::string& state_dir, const core::Job& job);

struct LogChunk {
  int64_t offset = 0;  // of data's first byte
  int64_t size = 0;    // of the file
  std::string data;
};
// At most `limit` bytes of a log from `offset` (negative: counted from the end). A file that isn't
// there yet is empty.
Result<LogChunk> read_log(const std::string& path, int64_t offset, uint32_t limit);

}  // namespace dsv3::daemon
