// Signal handlers; see interrupt.h.
#include "coordinator/cli/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <cstring>

namespace dsv3::cli {
namespace {

volatile std::sig_atomic_t caught = 0;
const char* volatile last_words = "";

void remember(int signal) {
  caught = signal;
}

void say_and_end(int signal) {
  if (::write(STDERR_FILENO, last_words, std::strlen(last_words)) < 0) return;
  ::raise(signal);  // what SA_RESETHAND left: the end
}

}  // namespace

void say_when_interrupted(const char* text) {
  last_words = text;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    ::sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;
    action.sa_handler = say_and_end;
    action.sa_flags = SA_RESETHAND;
    ::sigaction(signal, &action, nullptr);
  }
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = remember;  // no SA_RESTART: a blocked wait ends
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

void catch_hang_up() {
  struct sigaction action {};
  ::sigaction(SIGHUP, nullptr, &action);
  if (action.sa_handler == SIG_IGN) return;
  action.sa_handler = remember;
  action.sa_flags = 0;
  ::sigaction(SIGHUP, &action, nullptr);
}

void end_if_hung_up() {
  if (caught != SIGHUP) return;
  std::signal(SIGHUP, SIG_DFL);
  ::raise(SIGHUP);
}

int interrupted() {
  return caught;
}

}  // namespace dsv3::cli
