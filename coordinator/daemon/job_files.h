// The folders of jobs: <state-dir>/jobs/<id>/{spec.yaml, plan.json, logs/, run/}.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "coordinator/core/state.h"

namespace dsv3::daemon {

std::string job_dir(const std::string& state_dir, const std::string& job);
// Writes spec.yaml and plan.json and makes logs/ and run/. Idempotent.
Status write_job_files(const std::string& state_dir, const core::Job& job);

struct LogChunk {
  int64_t offset = 0;  // of data's first byte
  int64_t size = 0;    // of the file
  std::string data;
};
// At most `limit` bytes of a log from `offset` (negative: counted from the end). A file that isn't
// there yet is empty.
Result<LogChunk> read_log(const std::string& path, int64_t offset, uint32_t limit);

}  // namespace dsv3::daemon
