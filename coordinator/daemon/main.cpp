// dsv3d: the coordinator of one state directory. It stays in the foreground; `dsv3ctl up` starts it
// in its own session. It is ready when <state-dir>/coordinator.json is there. SIGTERM and SIGINT
// end it cleanly; jobs keep running.
#include <fmt/format.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/file.h"
#include "base/log.h"
#include "coordinator/daemon/daemon.h"

namespace {

int fail(const dsv3::Status& status) {
  std::fputs(fmt::format("dsv3d: {}\n", status.to_string()).c_str(), stderr);  // doesn't throw
  return static_cast<int>(status.code());
}

// Signals come as readable bytes of a descriptor; blocked before the first thread starts, so in all
// of them.
int block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  return signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
}

}  // namespace

int main(int argc, char** argv) {
  dsv3::daemon::Options options;
  options.version = DSV3_VERSION;
  options.state_dir = dsv3::default_state_dir();
  CLI::App app{"dsv3d: the dsv3ctl coordinator"};
  app.add_option("--state-dir", options.state_dir, "where everything is kept (a local disk)");
  app.add_option("--agent", options.agent_program,
                 "path of dsv3-agent (default: beside this program)");
  bool foreground = true;
  app.add_flag("--foreground", foreground, "stay attached to the terminal (it always does)");
  app.set_version_flag("--version", options.version);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  dsv3::log::init("dsv3d");
  const int signal_fd = block_signals();
  auto daemon = dsv3::daemon::Daemon::create(options);
  if (!daemon.ok()) return fail(daemon.status());
  const dsv3::Status status = (*daemon)->run(signal_fd);
  return status.ok() ? 0 : fail(status);
}
