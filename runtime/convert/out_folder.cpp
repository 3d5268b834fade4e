// See out_folder.h.
#include "runtime/convert/out_folder.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <filesystem>

#include "base/text.h"

namespace dsv3::convert {

namespace fs = std::filesystem;

namespace {

// Of a checkpoint's writer that was killed; the next one clears them.
bool is_leftover(const std::string& name) {
  return name.starts_with(".tmp-") || name == ".lock" || name == ".attempt";
}

}  // namespace

Status check_free(const std::string& dir) {
  std::error_code error;
  if (!fs::exists(dir, error)) return {};
  if (!fs::is_directory(dir, error))
    return Status(Code::kConflict, fmt::format("'{}' is there and not a folder", dir));
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename().string();
    if (is_leftover(name)) continue;
    return Status(Code::kConflict, fmt::format("'{}' is not empty: it holds {}", dir, name),
                  "give another --out, or delete it");
  }
  return {};
}

Status check_room(const std::string& path, int64_t bytes) {
  std::error_code error;
  fs::path folder = fs::absolute(path, error);  // up to the nearest folder that is there
  while (!fs::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) return {};
  const auto available = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  if (available >= bytes) return {};
  return Status(Code::kDoesNotFit, fmt::format("'{}' needs {}, its disk has {} free", path,
                                               human_bytes(bytes), human_bytes(available)));
}

}  // namespace dsv3::convert
