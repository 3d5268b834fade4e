// Watching a job to its end: used by `wait`, `cancel`, `submit --wait` and `resume --wait`.
#pragma once

#include <functional>
#include <string>

#include "base/status.h"
#include "coordinator/cli/verb.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/client.h"

namespace dsv3::cli {

// Long-polls `job` until it is in a terminal state; `seen` gets every reply. kTimeout after
// timeout_s (0: no limit), kInterrupted or kTerminated on a signal (catch_interrupts() must be on).
Status follow_to_end(transport::Client& client, const std::string& job, double timeout_s,
                     const std::function<void(const wire::FollowReply&)>& seen,
                     wire::FollowReply* last);

// What `submit --wait` shows: live progress until the job ends, then a summary; the exit code.
// `seen`: what was told before and isn't shown again (a job that goes on).
int show_to_end(const Globals& globals, transport::Client& client, const std::string& job,
                wire::FollowReply seen);
int show_to_end(const Globals& globals, transport::Client& client, const std::string& job);

// The exit code for a job that ended: 0 completed, 1 failed or cancelled.
int exit_code_of(const wire::JobStatus& job);

}  // namespace dsv3::cli
