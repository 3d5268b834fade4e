// What a signal takes away and what it leaves, in a forked process that is really signalled; and a
// log that starts a new file.
#include "base/leftovers.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "base/file.h"
#include "base/file_writer.h"
#include "base/log_file.h"

namespace dsv3 {
namespace {

namespace fs = std::filesystem;

class LeftoversTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/dsv3-leftovers-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { fs::remove_all(dir_); }

  // Forks; the child runs `body` with its stderr in a file, then waits for a signal or ends with 9.
  // The signal that ended it, or its exit code.
  int end_of(const std::function<void()>& body, int signal) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      const int fd = ::open((dir_ + "/said").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(fd, STDERR_FILENO);
      body();
      ::kill(::getpid(), signal);
      for (int i = 0; i < 1000; ++i) ::usleep(10'000);
      ::_exit(9);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  }
  std::string said() const { return *read_file(dir_ + "/said"); }

  std::string dir_;
};

TEST_F(LeftoversTest, ASignalTakesWhatIsUnfinishedAndNothingElse) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const auto body = [&] {
      ASSERT_TRUE(remove_leftovers_on_signals("test").ok());
      static Leftover folder(dir_ + "/folder");
      fs::create_directories(dir_ + "/folder/below");
      ASSERT_TRUE(write_file(dir_ + "/folder/below/file", "x").ok());
      static FileWriter writer = FileWriter::create(dir_ + "/half").value();
      ASSERT_TRUE(writer.append(std::string(3 << 20, 'x')).ok());
      static Leftover whole(dir_ + "/whole");
      ASSERT_TRUE(write_file(dir_ + "/whole", "whole").ok());
      whole.forget();
    };
    EXPECT_EQ(end_of(body, signal), signal);
    EXPECT_EQ(said(), "test: interrupted, what was unfinished is removed\n");
    EXPECT_EQ(*read_file(dir_ + "/whole"), "whole");
    fs::remove(dir_ + "/whole");
    fs::remove(dir_ + "/said");
    EXPECT_TRUE(fs::is_empty(dir_)) << fs::directory_iterator(dir_)->path();
  }
}

TEST_F(LeftoversTest, ANewFileCannotBeBegunOnceASignalHasCome) {
  const auto body = [&] {
    ASSERT_TRUE(remove_leftovers_on_signals("test").ok());
    ::kill(::getpid(), SIGTERM);
    for (int i = 0;; ++i) {  // until the signal's thread stops us
      FileWriter writer = FileWriter::create(dir_ + "/file-" + std::to_string(i)).value();
      (void)writer.append("x");
    }
  };
  EXPECT_EQ(end_of(body, SIGTERM), SIGTERM);
  fs::remove(dir_ + "/said");
  EXPECT_TRUE(fs::is_empty(dir_)) << fs::directory_iterator(dir_)->path();
}

TEST_F(LeftoversTest, AnIgnoredSignalStaysIgnored) {
  const auto body = [&] {
    ::signal(SIGHUP, SIG_IGN);  // nohup
    ASSERT_TRUE(remove_leftovers_on_signals("test").ok());
    ::kill(::getpid(), SIGHUP);
    ::_exit(0);
  };
  EXPECT_EQ(end_of(body, SIGHUP), 0);
}

TEST_F(LeftoversTest, ALogThatIsTooLargeIsContinuedInANewFile) {
  const std::string path = dir_ + "/said";
  const auto body = [&] {
    for (int i = 0; i < 3; ++i) {
      const std::string line = std::string(1000, static_cast<char>('a' + i)) + "\n";
      (void)!::write(STDERR_FILENO, line.data(), line.size());
      log::rotate_file(path, 900);
      log::rotate_file(path, 900);  // the new one is small
      log::rotate_file(dir_ + "/another", 0);
    }
    (void)!::write(STDERR_FILENO, "end\n", 4);
    ::_exit(0);
  };
  EXPECT_EQ(end_of(body, SIGTERM), 0);
  EXPECT_EQ(*read_file(path), "end\n");
  EXPECT_EQ(*read_file(path + ".1"), std::string(1000, 'c') + "\n");
  EXPECT_FALSE(path_exists(dir_ + "/another"));
}

}  // namespace
}  // namespace dsv3
