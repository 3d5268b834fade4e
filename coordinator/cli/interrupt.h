// Ctrl-C while something is asked or followed: the verb ends and says how it stands with the job,
// which goes on.
#pragma once

namespace dsv3::cli {

// From here on SIGINT and SIGTERM only set a flag.
void catch_interrupts();
// From here on SIGINT, SIGTERM and SIGHUP write `text` on stderr before they end the process; those
// that are ignored (nohup) stay so. catch_interrupts() takes their place.
void say_when_interrupted(const char* text);
// The signal that came (SIGINT, SIGTERM), or 0.
int interrupted();

}  // namespace dsv3::cli
