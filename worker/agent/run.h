// The whole program of dsv3-agent, for its main.
#pragma once

namespace dsv3::agent {

// Reads the command line, runs an Agent, returns the process's exit code (DESIGN.md): 2 for a bad
// command line, 75 when no coordinator is to be found.
int run(int argc, char** argv);

}  // namespace dsv3::agent
