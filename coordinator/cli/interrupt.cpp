// A flag set by SIGINT and SIGTERM; see interrupt.h.
#include "coordinator/cli/interrupt.h"

#include <csignal>

namespace dsv3::cli {
namespace {

volatile std::sig_atomic_t caught = 0;

void remember(int signal) {
  caught = signal;
}

}  // namespace

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = remember;  // no SA_RESTART: a blocked wait ends
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

int interrupted() {
  return caught;
}

}  // namespace dsv3::cli
