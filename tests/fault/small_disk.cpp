// mount(2) in a namespace of this process; see small_disk.h.
#include "tests/fault/small_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/filesystem.h"
#include "base/process.h"

namespace dsv3::e2e {
namespace {

void write_text(const char* path, const std::string& text) {
  std::ofstream(path) << text;
}

// Root enters a mount namespace; anybody else a user namespace first, in which they are root.
int enter_namespace() {
  if (::unshare(CLONE_NEWNS) == 0) return 0;
  const uid_t user = ::geteuid();
  const gid_t group = ::getegid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return errno;
  write_text("/proc/self/setgroups", "deny");
  write_text("/proc/self/uid_map", fmt::format("{0} {0} 1", user));
  write_text("/proc/self/gid_map", fmt::format("{0} {0} 1", group));
  return 0;
}

std::string prepare() {
  if (const int error = enter_namespace(); error != 0)
    return fmt::format("no mount namespace: {}", std::strerror(error));
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return fmt::format("mounts can't be made private: {}", std::strerror(errno));
  std::string probe = testing::TempDir() + "dsv3-mount-XXXXXX";
  if (::mkdtemp(probe.data()) == nullptr) return "no temporary folder";
  std::string why;
  if (::mount("tmpfs", probe.c_str(), "tmpfs", 0, "size=4k") != 0) {
    why = fmt::format("mounting is not allowed: {}", std::strerror(errno));
  } else {
    ::umount2(probe.c_str(), MNT_DETACH);
  }
  ::rmdir(probe.c_str());
  return why;
}

}  // namespace

std::string why_no_mounts() {
  static const std::string why = prepare();
  return why;
}

std::unique_ptr<Mount> Mount::memory(const std::string& path, const std::string& options) {
  std::filesystem::create_directories(path);
  EXPECT_EQ(::mount("tmpfs", path.c_str(), "tmpfs", 0, options.c_str()), 0) << std::strerror(errno);
  return std::unique_ptr<Mount>(new Mount(path));
}

std::unique_ptr<Mount> Mount::read_only(const std::string& path) {
  EXPECT_EQ(::mount(path.c_str(), path.c_str(), nullptr, MS_BIND, nullptr), 0)
      << std::strerror(errno);
  EXPECT_EQ(::mount(nullptr, path.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr), 0)
      << std::strerror(errno);
  return std::unique_ptr<Mount>(new Mount(path));
}

std::unique_ptr<Mount> Mount::fuse(const std::string& source, const std::string& path,
                                   std::string* why) {
  std::filesystem::create_directories(source);
  std::filesystem::create_directories(path);
  const char* program = "/usr/bin/bindfs";
  if (::access("/dev/fuse", R_OK | W_OK) != 0) *why = "/dev/fuse can't be used";
  if (::access(program, X_OK) != 0) *why = "there is no bindfs (Debian package bindfs)";
  if (!why->empty()) return nullptr;
  std::unique_ptr<Mount> mount(new Mount(path));
  mount->program_ = std::make_unique<Running>(std::vector<std::string>{program, "-f", source, path},
                                              Environment{});
  const auto is_there = [&] {
    const Result<Filesystem> found = filesystem_of(path);
    return found.ok() && found->kind == FilesystemKind::kFuse;
  };
  if (!wait_until([&] { return is_there() || !process_alive(mount->program_->pid()); }, 10) ||
      !is_there()) {
    *why = "bindfs did not mount: " + mount->program_->err();
    return nullptr;
  }
  return mount;
}

Mount::~Mount() {
  ::umount2(path_.c_str(), MNT_DETACH);
}

void Mount::fill(int64_t bytes_left) const {
  empty();
  const int fd = ::open(ballast().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0) << std::strerror(errno);
  const std::vector<char> page(4096, 'x');
  int64_t size = 0;
  for (ssize_t n = 0; (n = ::write(fd, page.data(), page.size())) > 0;) size += n;
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(::ftruncate(fd, std::max<int64_t>(0, size - bytes_left)), 0);
  ::close(fd);
}

void Mount::empty() const {
  ::unlink(ballast().c_str());
}

}  // namespace dsv3::e2e
