// Which file systems may hold the state, from the kernel's numbers (the oracle is statfs(2)'s list)
// and from mountinfo's text; the real call on what every Linux has.
#include "base/filesystem.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace dsv3 {
namespace {

TEST(Filesystem, OfTheNetworkOrOfAProgramCannotHoldState) {
  // NFS, SMB2, Lustre, 9p, FUSE
  for (const uint64_t magic :
       {0x6969ull, 0xFE534D42ull, 0x0BD00BD0ull, 0x01021997ull, 0x65735546ull})
    EXPECT_FALSE(can_hold_state(filesystem_of_type(magic).kind)) << std::hex << magic;
  // ext4, xfs, overlayfs, tmpfs, and one that no table has
  for (const uint64_t magic : {0xEF53ull, 0x58465342ull, 0x794C7630ull, 0x01021994ull, 0x1234ull})
    EXPECT_TRUE(can_hold_state(filesystem_of_type(magic).kind)) << std::hex << magic;
  EXPECT_EQ(filesystem_of_type(0x01021997).name, "9p");
  EXPECT_EQ(filesystem_of_type(0x1234).name, "0x1234");
}

TEST(Filesystem, TheMountsTypeIsTheOneOfItsDevice) {
  const char* mountinfo =
      "22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw\n"
      "28 1 8:1 / / rw shared:1 master:2 - ext4 /dev/sda1 rw\n"
      "90 28 0:45 / /mnt/a rw - fuse.sshfs me@host:/ rw\n"
      "damaged line\n";
  EXPECT_EQ(mount_type(mountinfo, "8:1"), "ext4");
  EXPECT_EQ(mount_type(mountinfo, "0:45"), "fuse.sshfs");
  EXPECT_EQ(mount_type(mountinfo, "0:4"), "");
  EXPECT_EQ(mount_type("", "8:1"), "");
}

TEST(Filesystem, TheRealOneHasASizeAndAnAbsentPathNone) {
  const auto here = filesystem_of(testing::TempDir());
  ASSERT_TRUE(here.ok()) << here.status().to_string();
  EXPECT_EQ(here->total_bytes,
            static_cast<int64_t>(std::filesystem::space(testing::TempDir()).capacity));
  EXPECT_FALSE(here->read_only);
  EXPECT_EQ(filesystem_of("/no/such/path").status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace dsv3
