// POSIX files behind Status; see file.h.
#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/bus_error.h"
#include "base/leftovers.h"

namespace dsv3 {
namespace {

// Closes a descriptor at the end of the scope.
struct Fd {
  int fd = -1;
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
};

Status system_error(const char* what, const std::string& path) {
  const int error = errno;
  const Code code = error == ENOENT ? Code::kNotFound : Code::kFailed;
  return Status(code, fmt::format("{} '{}': {}", what, path, std::strerror(error)));
}

constexpr int kPipeWaitMs = 300;

// Whether there is something to read, or the end, within the time (-1: any).
bool readable_within(int fd, int timeout_ms) {
  pollfd wanted{fd, POLLIN, 0};
  int ready = 0;
  while ((ready = ::poll(&wanted, 1, timeout_ms)) < 0 && errno == EINTR) {
  }
  return ready > 0;
}

Status write_all(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error("cannot write", path);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

}  // namespace

Result<std::string> read_file(const std::string& path, int64_t limit_bytes) {
  // Not blocking: opening a pipe would wait for a writer that may never come.
  Fd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return system_error("cannot read", path);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return system_error("cannot read", path);
  if (S_ISDIR(info.st_mode))
    return Status(Code::kInvalid, fmt::format("'{}' is a directory, not a file", path));
  if (S_ISFIFO(info.st_mode) && !readable_within(file.fd, kPipeWaitMs))
    return Status(Code::kInvalid, fmt::format("'{}' is a pipe that nobody writes to", path));
  std::string bytes;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = ::read(file.fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && readable_within(file.fd, -1)) continue;
    if (n < 0) return system_error("cannot read", path);
    if (n == 0) return bytes;
    bytes.append(buffer, static_cast<size_t>(n));
    if (static_cast<int64_t>(bytes.size()) > limit_bytes) {
      return Status(Code::kInvalid, fmt::format("'{}' is larger than {} bytes", path, limit_bytes));
    }
  }
}

Status write_file(const std::string& path, std::string_view bytes, mode_t mode) {
  const std::string temporary = fmt::format("{}.tmp.{}", path, ::getpid());
  const Leftover leftover(temporary);
  {
    Fd file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)};
    if (file.fd < 0) return system_error("cannot write", path);  // the name that was asked for
    Status status = write_all(file.fd, bytes, path);
    if (status.ok() && ::fsync(file.fd) != 0) status = system_error("cannot flush", path);
    if (!status.ok()) {
      ::unlink(temporary.c_str());
      return status;
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    Status status = system_error("cannot rename to", path);
    ::unlink(temporary.c_str());
    return status;
  }
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return sync_path(parent.empty() ? "." : parent);
}

Status make_dirs(const std::string& path, mode_t mode) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return {};
  const std::string parent = std::filesystem::path(path).parent_path().string();
  if (!parent.empty() && parent != path) DSV3_RETURN_IF_ERROR(make_dirs(parent, mode));
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return system_error("cannot create folder", path);
  return {};
}

Status sync_path(const std::string& path) {
  Fd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return system_error("cannot open", path);
  if (::fsync(file.fd) != 0 && errno != EINVAL) return system_error("cannot flush", path);
  return {};
}

bool path_exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

std::string executable_dir() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
}

std::string default_state_dir() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    return std::string(state) + "/dsv3ctl";
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    // As a service without HOME. Never a folder that others can make before us: keys are kept here.
    const passwd* user = ::getpwuid(::geteuid());
    home = user != nullptr && *user->pw_dir != '\0' ? user->pw_dir : "/nonexistent";
  }
  return std::string(home) + "/.local/state/dsv3ctl";
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  // Not blocking: a named pipe is refused below instead of waited for.
  Fd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return system_error("cannot read", path);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return system_error("cannot read", path);
  if (!S_ISREG(info.st_mode))
    return Status(Code::kInvalid, fmt::format("'{}' is not a regular file", path));
  MappedFile mapped;
  mapped.size_ = static_cast<size_t>(info.st_size);
  if (mapped.size_ == 0) return mapped;
  void* address = ::mmap(nullptr, mapped.size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (address == MAP_FAILED) {
    mapped.size_ = 0;
    const bool memory = errno == ENOMEM;  // of addresses: ulimit -v
    const Status status = system_error("cannot map", path);
    return memory ? Status(Code::kOutOfMemory, status.message()) : status;
  }
  mapped.data_ = static_cast<const std::byte*>(address);
  mapped.place_ = list_map(mapped.data_, mapped.size_, path);
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      place_(std::exchange(other.place_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(place_, other.place_);
  return *this;
}

MappedFile::~MappedFile() {
  unlist_map(place_);
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace dsv3
