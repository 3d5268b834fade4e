// Atomic writes, limited reads and maps on a real file system.
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace dsv3 {
namespace {

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/dsv3-file-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

TEST_F(FileTest, WriteThenReadGivesTheSameBytes) {
  const std::string bytes("a\0b\n", 4);
  ASSERT_TRUE(write_file(dir_ + "/x", bytes, 0600).ok());
  ASSERT_TRUE(write_file(dir_ + "/x", bytes, 0600).ok());  // replaces
  auto read = read_file(dir_ + "/x");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, bytes);
  struct stat info {};
  ASSERT_EQ(::stat((dir_ + "/x").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 1);  // no temporary left
}

TEST_F(FileTest, ReadRefusesWhatIsAbsentTooLargeOrAFolder) {
  EXPECT_EQ(read_file(dir_ + "/none").status().code(), Code::kNotFound);
  EXPECT_EQ(read_file(dir_).status().code(), Code::kInvalid);
  ASSERT_TRUE(write_file(dir_ + "/big", std::string(1000, 'x')).ok());
  EXPECT_EQ(read_file(dir_ + "/big", 999).status().code(), Code::kInvalid);
  EXPECT_TRUE(read_file(dir_ + "/big", 1000).ok());
}

TEST_F(FileTest, FailedWriteLeavesTheOldFile) {
  ASSERT_TRUE(write_file(dir_ + "/x", "old").ok());
  EXPECT_EQ(write_file(dir_ + "/none/x", "new").code(), Code::kNotFound);
  // A folder in the way makes the rename fail; the temporary is removed.
  ASSERT_TRUE(make_dirs(dir_ + "/d/e").ok());
  EXPECT_FALSE(write_file(dir_ + "/d", "new").ok());
  EXPECT_EQ(*read_file(dir_ + "/x"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 2);
}

TEST_F(FileTest, MapShowsTheFile) {
  ASSERT_TRUE(write_file(dir_ + "/x", "hello").ok());
  auto map = MappedFile::open(dir_ + "/x");
  ASSERT_TRUE(map.ok());
  MappedFile moved = std::move(map).value();
  ASSERT_EQ(moved.bytes().size(), 5u);
  EXPECT_EQ(static_cast<char>(moved.bytes()[4]), 'o');
  ASSERT_TRUE(write_file(dir_ + "/empty", "").ok());
  EXPECT_EQ(MappedFile::open(dir_ + "/empty")->bytes().size(), 0u);
  EXPECT_EQ(MappedFile::open(dir_).status().code(), Code::kInvalid);
}

}  // namespace
}  // namespace dsv3
