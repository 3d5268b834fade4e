// A stand-in for dsv3-agent. Prints "up <variable FAKE_NOTE>", then waits; with --job ending in
// "exits-7" it exits with 7 at once, in "stubborn" it ignores SIGTERM; in "leaves-one" it starts a
// process in a session of its own that ignores SIGTERM, prints "left <pid>" and exits.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
  std::string job;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string(argv[i]) == "--job") job = argv[i + 1];
  }
  if (job.ends_with("stubborn")) ::signal(SIGTERM, SIG_IGN);
  const char* note = std::getenv("FAKE_NOTE");
  std::printf("up %s\n", note == nullptr ? "" : note);
  std::fflush(stdout);
  if (job.ends_with("leaves-one")) {
    ::signal(SIGTERM, SIG_IGN);
    const pid_t left = ::fork();
    if (left == 0) {
      ::setsid();
      while (true) ::pause();
    }
    std::printf("left %d\n", left);
    return 0;
  }
  if (job.ends_with("exits-7")) return 7;
  while (true) ::pause();
}
