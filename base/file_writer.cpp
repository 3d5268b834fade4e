// Buffered POSIX writes behind Status; see file_writer.h.
#include "base/file_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/file.h"

namespace dsv3 {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

Status system_error(const char* what, const std::string& path) {
  const int error = errno;
  const Code code = error == ENOENT ? Code::kNotFound : Code::kFailed;
  return Status(code, fmt::format("{} '{}': {}", what, path, std::strerror(error)));
}

}  // namespace

Result<FileWriter> FileWriter::create(const std::string& path, mode_t mode) {
  FileWriter writer;
  writer.path_ = path;
  writer.temporary_ = fmt::format("{}.tmp.{}", path, ::getpid());
  writer.leftover_ = Leftover(writer.temporary_);
  writer.fd_ = ::open(writer.temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (writer.fd_ < 0) return system_error("cannot write", writer.temporary_);
  writer.buffer_.reserve(kBufferBytes);
  return writer;
}

FileWriter::FileWriter(FileWriter&& other) noexcept {
  *this = std::move(other);
}

FileWriter& FileWriter::operator=(FileWriter&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(leftover_, other.leftover_);
  std::swap(buffer_, other.buffer_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

Status FileWriter::drain(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Status status = system_error("cannot write", path_);
      ::close(std::exchange(fd_, -1));
      ::unlink(temporary_.c_str());
      return status;
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return {};
}

Status FileWriter::append(std::span<const std::byte> bytes) {
  if (fd_ < 0) return Status(Code::kFailed, fmt::format("'{}' is not open for writing", path_));
  size_bytes_ += static_cast<int64_t>(bytes.size());
  if (buffer_.size() + bytes.size() > kBufferBytes) {
    DSV3_RETURN_IF_ERROR(drain(buffer_));
    buffer_.clear();
    if (bytes.size() >= kBufferBytes) return drain(bytes);
  }
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  return {};
}

Status FileWriter::append(std::string_view bytes) {
  return append(std::as_bytes(std::span<const char>(bytes.data(), bytes.size())));
}

Status FileWriter::finish() {
  if (fd_ < 0) return Status(Code::kFailed, fmt::format("'{}' is not open for writing", path_));
  DSV3_RETURN_IF_ERROR(drain(buffer_));
  buffer_.clear();
  Status status;
  if (::fsync(fd_) != 0) status = system_error("cannot flush", path_);
  // A network file system may tell of a full disk only here.
  if (::close(std::exchange(fd_, -1)) != 0 && status.ok())
    status = system_error("cannot close", path_);
  if (status.ok() && ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    status = system_error("cannot rename to", path_);
  }
  if (!status.ok()) {
    ::unlink(temporary_.c_str());
    return status;
  }
  leftover_.forget();
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  return sync_path(parent.empty() ? "." : parent);
}

}  // namespace dsv3
