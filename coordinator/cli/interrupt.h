// Ctrl-C while following: the verb detaches and says so; the job goes on.
#pragma once

namespace dsv3::cli {

// From here on SIGINT and SIGTERM only set a flag.
void catch_interrupts();
// The signal that came (SIGINT, SIGTERM), or 0.
int interrupted();

}  // namespace dsv3::cli
