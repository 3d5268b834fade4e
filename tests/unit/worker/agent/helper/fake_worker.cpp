// A stand-in for dsv3-worker. FAKE_RANK says what it does after its hello:
//   steps=N      reports N steps, then ends well          fail=N  says a failure with code N and
//   ends with it ticks        reports a step every millisecond until RankStop wait         waits
//   for RankStop, says it, ends well   stubborn  never ends
//   orphan       leaves a process in a session of its own behind, then ends well
// FAKE_RANK_<rank> wins over FAKE_RANK. With --rendezvous it prints where it meets, and the token.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "coordinator/protocol/dsv3.pb.h"
#include "worker/link/reporter.h"

namespace {

using dsv3::link::Reporter;

void say_exit(Reporter& reporter, int code, const std::string& text) {
  dsv3::wire::RankMessage message;
  message.mutable_exit_report()->set_code(code);
  message.mutable_exit_report()->set_message(text);
  reporter.send(message);
  (void)reporter.drain(20'000);
}

void say_step(Reporter& reporter, int64_t step) {
  dsv3::wire::RankMessage message;
  message.mutable_step()->set_step(step);
  message.mutable_step()->set_loss(1.0 / static_cast<double>(step));
  reporter.send(message);
}

int wait_for_stop(Reporter& reporter, bool ticks) {
  for (int64_t step = 1; !reporter.stop_requested(); ++step) {
    if (ticks) say_step(reporter, step);
    if (reporter.take_checkpoint_request()) {
      dsv3::wire::RankMessage message;
      message.mutable_checkpoint_done()->set_step(5);
      reporter.send(message);
    }
    ::usleep(1000);
  }
  say_exit(reporter, 0,
           reporter.stop_without_checkpoint() ? "stopped, no checkpoint" : "stopped, checkpoint");
  return 0;
}

void leave_orphan() {
  const pid_t middle = ::fork();
  if (middle == 0) {
    const pid_t left = ::fork();
    if (left == 0) {
      ::setsid();
      ::signal(SIGTERM, SIG_IGN);
      while (true) ::pause();
    }
    std::printf("left %d\n", left);
    std::fflush(stdout);
    ::_exit(0);
  }
  ::waitpid(middle, nullptr, 0);
}

}  // namespace

int main(int argc, char** argv) {
  std::string rank = "0", rendezvous;
  int fd = -1;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string(argv[i]) == "--link-fd") fd = std::atoi(argv[i + 1]);
    if (std::string(argv[i]) == "--rank") rank = argv[i + 1];
    if (std::string(argv[i]) == "--rendezvous") rendezvous = argv[i + 1];
  }
  const char* own = std::getenv(("FAKE_RANK_" + rank).c_str());
  const char* common = std::getenv("FAKE_RANK");
  const std::string what = own != nullptr ? own : common != nullptr ? common : "wait";
  char folder[512] = {};
  std::printf("rank %s does %s in %s\n", rank.c_str(), what.c_str(),
              ::getcwd(folder, sizeof folder - 1));
  const char* token = std::getenv("DSV3_JOB_TOKEN");
  if (!rendezvous.empty())
    std::printf("meets at %s with %s\n", rendezvous.c_str(), token == nullptr ? "" : token);
  std::fflush(stdout);
  if (what == "orphan") leave_orphan();
  auto started = Reporter::start(fd);
  if (!started.ok()) return 2;
  Reporter& reporter = **started;
  dsv3::wire::RankMessage hello;
  hello.mutable_hello()->set_pid(::getpid());
  reporter.send(hello);
  if (what == "stubborn") {
    ::signal(SIGTERM, SIG_IGN);
    while (true) ::pause();
  }
  if (what == "wait" || what == "ticks") return wait_for_stop(reporter, what == "ticks");
  const int number = std::atoi(what.substr(what.find('=') + 1).c_str());
  if (what.starts_with("fail=")) {
    say_exit(reporter, number, "the loss is not finite");
    return number;
  }
  for (int step = 1; step <= number; ++step) say_step(reporter, step);
  say_exit(reporter, 0, "all steps are done");
  return 0;
}
