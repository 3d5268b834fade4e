// A file written piece by piece and published whole.
//
// Law: the path holds the old file or the whole new one, also after a crash or a full disk: bytes
// go to a temporary file beside it, which finish() flushes and renames; without finish() the
// temporary file is removed. For a file that fits into memory at once, base/file.h's write_file()
// is the same with less to hold.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/leftovers.h"
#include "base/status.h"

namespace dsv3 {

// Move-only; one thread at a time. Every error names the path and the system's reason (disk full,
// permission).
class FileWriter {
 public:
  // Opens the temporary file beside `path`; kNotFound or kFailed when its folder is absent or not
  // writable.
  static Result<FileWriter> create(const std::string& path, mode_t mode = 0644);
  FileWriter() = default;
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&& other) noexcept;
  ~FileWriter();

  // Adds bytes at the end (buffered). After an error every further call returns an error.
  Status append(std::span<const std::byte> bytes);
  Status append(std::string_view bytes);
  // Flushes to the disk and renames to the path, then flushes its folder. Call once, last.
  Status finish();
  // Bytes appended so far.
  int64_t size_bytes() const { return size_bytes_; }

 private:
  Status drain(std::span<const std::byte> bytes);

  int fd_ = -1;
  std::string path_;
  std::string temporary_;
  Leftover leftover_;  // temporary_, until it is renamed or removed
  std::vector<std::byte> buffer_;
  int64_t size_bytes_ = 0;
};

}  // namespace dsv3
