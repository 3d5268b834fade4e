// See filesystem.h. The numbers are those of statfs(2) and linux/magic.h.
#include "base/filesystem.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

namespace dsv3 {
namespace {

struct Known {
  uint64_t magic;
  FilesystemKind kind;
  const char* name;
};

constexpr Known kKnown[] = {
    {0xEF53, FilesystemKind::kLocal, "ext4"},
    {0x58465342, FilesystemKind::kLocal, "xfs"},
    {0x9123683E, FilesystemKind::kLocal, "btrfs"},
    {0x2FC12FC1, FilesystemKind::kLocal, "zfs"},
    {0xF2F52010, FilesystemKind::kLocal, "f2fs"},
    {0x794C7630, FilesystemKind::kLocal, "overlayfs"},
    {0x01021994, FilesystemKind::kMemory, "tmpfs"},
    {0x858458F6, FilesystemKind::kMemory, "ramfs"},
    {0x6969, FilesystemKind::kNetwork, "NFS"},
    {0x517B, FilesystemKind::kNetwork, "SMB"},
    {0xFF534D42, FilesystemKind::kNetwork, "CIFS"},
    {0xFE534D42, FilesystemKind::kNetwork, "SMB2"},
    {0x00C36400, FilesystemKind::kNetwork, "Ceph"},
    {0x0BD00BD0, FilesystemKind::kNetwork, "Lustre"},
    {0x47504653, FilesystemKind::kNetwork, "GPFS"},
    {0x19830326, FilesystemKind::kNetwork, "BeeGFS"},
    {0x5346414F, FilesystemKind::kNetwork, "AFS"},
    {0x7461636F, FilesystemKind::kNetwork, "OCFS2"},
    {0x73757245, FilesystemKind::kNetwork, "Coda"},
    {0x01021997, FilesystemKind::kNetwork, "9p"},
    {0x786F4256, FilesystemKind::kNetwork, "a VirtualBox shared folder"},
    {0x65735546, FilesystemKind::kFuse, "FUSE"},
};

std::string read_mountinfo() {
  std::ifstream file("/proc/self/mountinfo");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void tell_fuse_apart(const std::string& path, Filesystem* found) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return;
  const std::string type =
      mount_type(read_mountinfo(), fmt::format("{}:{}", major(info.st_dev), minor(info.st_dev)));
  if (!type.empty()) found->name = type;
  if (type == "fuseblk" || type == "fuse.fuse-overlayfs") found->kind = FilesystemKind::kLocal;
}

}  // namespace

Filesystem filesystem_of_type(uint64_t magic) {
  for (const Known& known : kKnown) {
    if (known.magic == magic) return {.kind = known.kind, .name = known.name};
  }
  return {.kind = FilesystemKind::kLocal, .name = fmt::format("{:#x}", magic)};
}

std::string mount_type(std::string_view mountinfo, std::string_view device) {
  // "36 35 98:0 /root /mount rw,noatime shared:1 - ext3 /dev/root rw": proc(5). The last one
  // counts.
  std::istringstream lines{std::string(mountinfo)};
  std::string found;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, number, word;
    if (!(words >> id >> parent >> number) || number != device) continue;
    while (words >> word && word != "-") {
    }
    if (words >> word) found = word;
  }
  return found;
}

Result<Filesystem> filesystem_of(const std::string& path) {
  struct statfs info {};
  if (::statfs(path.c_str(), &info) != 0) {
    return Status(errno == ENOENT ? Code::kNotFound : Code::kFailed,
                  fmt::format("cannot look at '{}': {}", path, std::strerror(errno)));
  }
  Filesystem found = filesystem_of_type(static_cast<uint32_t>(info.f_type));
  if (found.kind == FilesystemKind::kFuse) tell_fuse_apart(path, &found);
  const auto block = static_cast<int64_t>(info.f_frsize > 0 ? info.f_frsize : info.f_bsize);
  found.free_bytes = static_cast<int64_t>(info.f_bavail) * block;
  found.total_bytes = static_cast<int64_t>(info.f_blocks) * block;
  found.read_only = (static_cast<unsigned long>(info.f_flags) & ST_RDONLY) != 0;
  return found;
}

bool can_hold_state(FilesystemKind kind) {
  return kind == FilesystemKind::kLocal || kind == FilesystemKind::kMemory;
}

}  // namespace dsv3
