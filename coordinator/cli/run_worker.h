// Verbs that compute: dsv3ctl becomes dsv3-worker, which has the runtime.
//
// Law: only dsv3-worker links the runtime. The worker takes this process's place, with its terminal
// and its signals, and ends with an exit code of dsv3ctl.
#pragma once

#include <string>
#include <vector>

#include "coordinator/cli/verb.h"

namespace dsv3::cli {

// Runs `dsv3-worker VERB WORDS`, found beside this program, in this process's place; --json is
// added where it was given. Returns only when it can't be started: then the exit code, after saying
// why.
int run_worker(const Globals& globals, const std::string& verb,
               const std::vector<std::string>& words);

}  // namespace dsv3::cli
