// Ctrl-C while something is asked or followed: the verb ends and says how it stands with the job,
// which goes on.
#pragma once

namespace dsv3::cli {

// From here on SIGINT and SIGTERM only set a flag.
void catch_interrupts();
// From here on SIGINT, SIGTERM and SIGHUP write `text` on stderr before they end the process; those
// that are ignored (nohup) stay so. catch_interrupts() takes their place.
void say_when_interrupted(const char* text);
// SIGHUP is remembered as well, by a command that has something to take back when its terminal is
// closed; one that is ignored (nohup) stays so.
void catch_hang_up();
// Ends this process by SIGHUP if that came: the last thing such a command does.
void end_if_hung_up();
// The signal that came (SIGINT, SIGTERM, SIGHUP), or 0.
int interrupted();

}  // namespace dsv3::cli
