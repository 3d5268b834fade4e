// Atomic writes, limited reads and maps on a real file system.
#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/bus_error.h"

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

TEST_F(FileTest, APipeIsReadToItsEndAndNotWaitedForWithoutAWriter) {
  const std::string pipe = dir_ + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(read_file(pipe).status().code(), Code::kInvalid);
  EXPECT_EQ(MappedFile::open(pipe).status().code(), Code::kInvalid);
  const std::string text(200'000, 'x');  // more than a pipe holds
  const pid_t writer = ::fork();
  if (writer == 0) {
    const int fd = ::open(pipe.c_str(), O_WRONLY);
    size_t at = 0;
    while (at < text.size()) {
      const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
      if (n <= 0) ::_exit(1);
      at += static_cast<size_t>(n);
    }
    ::_exit(0);
  }
  const auto read = read_file(pipe);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(*read, text);
  int status = -1;
  ASSERT_EQ(::waitpid(writer, &status, 0), writer);
  EXPECT_EQ(status, 0);
}

TEST_F(FileTest, LinksInACircleAreAnErrorWithTheirName) {
  ASSERT_EQ(::symlink("b", (dir_ + "/a").c_str()), 0);
  ASSERT_EQ(::symlink("a", (dir_ + "/b").c_str()), 0);
  for (const Status& status :
       {read_file(dir_ + "/a").status(), MappedFile::open(dir_ + "/a").status()}) {
    EXPECT_EQ(status.code(), Code::kFailed);
    EXPECT_NE(status.message().find(dir_ + "/a"), std::string::npos) << status.message();
  }
}

// Reads the last byte of a map after another cut the file to nothing.
void read_what_was_cut(const std::string& path) {
  name_bus_errors("reader", 75);
  const auto map = MappedFile::open(path);
  std::filesystem::resize_file(path, 0);
  ::_exit(static_cast<int>(map->bytes().back()));
}

TEST_F(FileTest, AMapWhoseFileIsCutShortEndsTheProcessWithItsName) {
  ASSERT_TRUE(write_file(dir_ + "/data.bin", std::string(8192, 'x')).ok());
  EXPECT_EXIT(read_what_was_cut(dir_ + "/data.bin"), testing::ExitedWithCode(75),
              "reader: '" + dir_ + "/data.bin' was cut short");
}

// The same, once it is off the list: nothing is known of it.
void read_what_is_not_listed(const std::string& path) {
  name_bus_errors("reader", 75);
  const int fd = ::open(path.c_str(), O_RDONLY);
  const auto* map =
      static_cast<const std::byte*>(::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0));
  unlist_map(list_map(map, 4096, path));
  std::filesystem::resize_file(path, 0);
  ::_exit(static_cast<int>(*map));
}

TEST_F(FileTest, ABusErrorElsewhereEndsTheProcessAsEver) {
  ASSERT_TRUE(write_file(dir_ + "/x", std::string(4096, 'x')).ok());
  EXPECT_EXIT(read_what_is_not_listed(dir_ + "/x"), testing::KilledBySignal(SIGBUS), "^$");
}

}  // namespace
}  // namespace dsv3
