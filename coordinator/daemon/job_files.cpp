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

namespace dsv3::daemon {

std::string job_dir(const std::string& state_dir, const std::string& job) {
  return fmt::format("{}/jobs/{}", state_dir, job);
}

Status write_job_files(const std::string& state_dir, const core::Job& job) {
  const std::string dir = job_dir(state_dir, job.id);
  DSV3_RETURN_IF_ERROR(make_dirs(dir + "/logs"));
  DSV3_RETURN_IF_ERROR(make_dirs(dir + "/run"));
  DSV3_RETURN_IF_ERROR(write_file(dir + "/spec.yaml", job.submission.spec_yaml));
  return write_file(dir + "/plan.json", job.submission.plan_json);
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
