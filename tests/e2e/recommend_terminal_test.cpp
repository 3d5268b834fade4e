// `recommend` at a terminal: a pseudo-terminal types, as a person would. Every wait is for a
// prompt, with a deadline.
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/clock.h"
#include "tests/e2e/home.h"

namespace dsv3::e2e {
namespace {

constexpr int64_t kPatienceNs = int64_t{20} * 1'000'000'000;

class Terminal {
 public:
  explicit Terminal(const Home& home) {
    const std::string program = std::string(DSV3_BIN_DIR) + "/dsv3ctl";
    pid_ = ::forkpty(&fd_, nullptr, nullptr, nullptr);
    if (pid_ == 0) {
      for (const auto& [name, value] : home.environment()) ::setenv(name.c_str(), value.c_str(), 1);
      ::execl(program.c_str(), "dsv3ctl", "recommend", static_cast<char*>(nullptr));
      ::_exit(127);
    }
  }
  ~Terminal() {
    if (fd_ >= 0) ::close(fd_);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& keys) {
    ASSERT_EQ(::write(fd_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  // True once `text` has appeared after what was seen before.
  bool sees(const std::string& text) {
    const int64_t deadline_ns = system_clock().steady_ns() + kPatienceNs;
    size_t at;
    while ((at = out_.find(text, seen_)) == std::string::npos) {
      if (!read_more() || system_clock().steady_ns() > deadline_ns) return false;
    }
    seen_ = at + text.size();
    return true;
  }
  // Reads to the end; what waitpid() says.
  int end() {
    while (read_more()) {
    }
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return status;
  }
  const std::string& out() const { return out_; }

 private:
  bool read_more() {
    pollfd ready{fd_, POLLIN, 0};
    if (::poll(&ready, 1, 20'000) != 1) return false;
    char bytes[4096];
    const ssize_t n = ::read(fd_, bytes, sizeof bytes);  // EIO: the other end is closed
    if (n <= 0) return false;
    out_.append(bytes, static_cast<size_t>(n));
    return true;
  }

  pid_t pid_ = 0;
  int fd_ = -1;
  std::string out_;
  size_t seen_ = 0;
};

TEST(RecommendAtATerminal, AsksChecksAndAnswers) {
  const Home home;
  Terminal terminal(home);
  ASSERT_TRUE(terminal.sees("How many GPUs")) << terminal.out();
  terminal.type("many\n");
  ASSERT_TRUE(terminal.sees("How many GPUs")) << "a wrong answer is asked for again";
  terminal.type("8\n");
  ASSERT_TRUE(terminal.sees("Which GPU"));
  terminal.type("h100\n");
  ASSERT_TRUE(terminal.sees("What for"));
  terminal.type("research\n");
  ASSERT_TRUE(terminal.sees("Budget"));
  terminal.type("\n");
  ASSERT_TRUE(terminal.sees("Tokens"));
  terminal.type("\n");
  const int status = terminal.end();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << terminal.out();
  EXPECT_NE(terminal.out().find("dsv3ctl plan 10b --gpus 8 --gpu h100"), std::string::npos)
      << terminal.out();
}

TEST(RecommendAtATerminal, CtrlDAndCtrlCEndItCleanly) {
  const Home home;
  Terminal ended(home);
  ASSERT_TRUE(ended.sees("How many GPUs"));
  ended.type("\x04");
  const int at_end = ended.end();
  EXPECT_TRUE(WIFEXITED(at_end) && WEXITSTATUS(at_end) == 0) << ended.out();
  Terminal interrupted(home);
  ASSERT_TRUE(interrupted.sees("How many GPUs"));
  interrupted.type("\x03");
  const int at_signal = interrupted.end();
  EXPECT_TRUE(WIFSIGNALED(at_signal) && WTERMSIG(at_signal) == SIGINT) << interrupted.out();
}

// No terminal: no question, whatever stdin holds.
TEST(RecommendAtATerminal, ElsewhereItNeverAsks) {
  const Home home;
  const Outcome outcome = home.ctl({"recommend"});
  EXPECT_EQ(outcome.err.find("How many"), std::string::npos) << outcome.err;
  EXPECT_FALSE(outcome.out.empty());
}

}  // namespace
}  // namespace dsv3::e2e
