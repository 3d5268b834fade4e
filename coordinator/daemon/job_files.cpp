// See job_files.h.
#include "coordinator/daemon/job_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "base/log.h"

namespace dsv3::daemon {
namespace {

bool is_own(const std::string& dir, const core::Job& job) {
  const Result<std::string> mark = read_file(dir + "/submitted", 64);
  return mark.ok() && *mark == submission_mark(job);
}

Status move_aside(const std::string& dir) {
  for (int n = 1;; ++n) {
    const std::string target = fmt::format("{}.old-{}", dir, n);
    if (path_exists(target)) continue;
    if (::rename(dir.c_str(), target.c_str()) != 0) {
      return Status(Code::kFailed,
                    fmt::format("'{}' belongs to another database, and can't be moved aside: {}",
                                dir, std::strerror(errno)),
                    "move it away, or choose another --state-dir");
    }
    log::warning("'{}' was left by another database: it is '{}' now", dir, target);
    return {};
  }
}

}  // namespace

std::string submission_mark(const core::Job& job) {
  return std::to_string(job.submitted_ns);
}

std::string job_dir(const std::string& state_dir, const std::string& job) {
  return fmt::format("{}/jobs/{}", state_dir, job);
}

Status write_job_files(const std::string& state_dir, const core::Job& job) {
  const std::string dir = job_dir(state_dir, job.id);
  if (!is_own(dir, job)) {
    if (path_exists(dir)) DSV3_RETURN_IF_ERROR(move_aside(dir));
    DSV3_RETURN_IF_ERROR(make_dirs(dir));
    DSV3_RETURN_IF_ERROR(write_file(dir + "/submitted", submission_mark(job)));
  }
  DSV3_RETURN_IF_ERROR(make_dirs(dir + "/logs"));
  DSV3_RETURN_IF_ERROR(make_dirs(dir + "/run"));
  DSV3_RETURN_IF_ERROR(write_file(dir + "/spec.yaml", job.submission.spec_yaml));
  return write_file(dir + "/plan.json", job.submission.plan_json);
}

Status check_job_dir(const std::string& state_dir, const core::Job& job) {
  const std::string dir = job_dir(state_dir, job.id);
  if (is_own(dir, job)) return {};
  return Status(Code::kFailed, fmt::format("the job's folder '{}' could not be made", dir),
                "see dsv3d.log in the state directory");
}

Result<LogChunk> read_log(const std::string& path, int64_t offset, uint32_t limit) {
  LogChunk chunk;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return chunk;
    return Status(Code::kFailed, fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
  }
  struct stat info {};
  if (::fstat(fd, &info) == 0) chunk.size = info.st_size;
  chunk.offset = std::clamp<int64_t>(offset < 0 ? chunk.size + offset : offset, 0, chunk.size);
  chunk.data.resize(static_cast<size_t>(std::min<int64_t>(limit, chunk.size - chunk.offset)));
  size_t done = 0;
  while (done < chunk.data.size()) {
    const ssize_t n = ::pread(fd, chunk.data.data() + done, chunk.data.size() - done,
                              static_cast<off_t>(chunk.offset) + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  chunk.data.resize(done);
  ::close(fd);
  return chunk;
}

}  // namespace dsv3::daemon
