// What kind of file system a path is on, from the kernel's number for it.
//
// Law: one table says which file systems are shared with other machines (or are served by a program
// in user space), where neither flock nor SQLite's shared memory can be trusted; the store refuses
// them and `dsv3ctl doctor` names them, from the same entry. What the table does not know is taken
// for a local disk.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace dsv3 {

enum class FilesystemKind {
  kLocal,    // a disk of this machine, or unknown to the table
  kMemory,   // tmpfs, ramfs: gone after a restart of the machine
  kNetwork,  // NFS, SMB, Lustre, 9p …
  kFuse,     // a program in user space: sshfs, gcsfuse, …
};

struct Filesystem {
  FilesystemKind kind = FilesystemKind::kLocal;
  std::string name;        // "NFS", "tmpfs"; "0x1234" where the table has none
  int64_t free_bytes = 0;  // for this user
  int64_t total_bytes = 0;
  bool read_only = false;
};

// Kind and name of statfs's f_type; sizes stay 0.
Filesystem filesystem_of_type(uint64_t magic);
// The type of the mount with this device number ("8:1") in the text of /proc/self/mountinfo:
// "ext4", "fuse.sshfs"; "" when there is none.
std::string mount_type(std::string_view mountinfo, std::string_view device);
// Of the file system that `path` is on. A FUSE mount is kLocal where its program works on a disk of
// this machine (fuseblk, fuse-overlayfs). kNotFound when
// the path is absent, kFailed otherwise.
Result<Filesystem> filesystem_of(const std::string& path);
// Whether a database may live there: neither of the network nor of a program in user space.
bool can_hold_state(FilesystemKind kind);

}  // namespace dsv3
