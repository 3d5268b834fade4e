// Files: whole reads with a limit, atomic writes, read-only maps.
//
// Law: a file written here is either the old one or the whole new one, also after a crash
// (temporary file, fsync, rename, fsync of the folder). Every error names the path and the system's
// reason.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace dsv3 {

// The whole file; kInvalid when it is larger than limit_bytes or a directory, kNotFound when
// absent. A pipe is read to its end ("<(command)"); one that nobody writes to is kInvalid.
Result<std::string> read_file(const std::string& path, int64_t limit_bytes = int64_t{64} << 20);
// Replaces `path` atomically and durably. kFailed (disk full, permission) leaves the old file as it
// was.
Status write_file(const std::string& path, std::string_view bytes, mode_t mode = 0644);
// Creates the folder and its parents; ok when it is there already.
Status make_dirs(const std::string& path, mode_t mode = 0755);
// Flushes a file's or folder's data to the disk.
Status sync_path(const std::string& path);
bool path_exists(const std::string& path);
// Folder that holds the running executable (for finding its siblings).
std::string executable_dir();
// $XDG_STATE_HOME/dsv3ctl, or ~/.local/state/dsv3ctl.
std::string default_state_dir();

// A file mapped read-only. Move-only; unmapped at destruction. An empty file maps to an empty span.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int place_ = -1;  // on bus_error.h's list
};

}  // namespace dsv3
