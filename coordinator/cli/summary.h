// What a job came to: the end of `submit --wait`, on stderr.
#pragma once

#include "base/status.h"
#include "coordinator/cli/verb.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/client.h"

namespace dsv3::cli {

// Loss at start and end, validation beside the unigram entropy, speed, expert balance, where things
// are, three commands to try.
Status print_summary(transport::Client& client, const wire::JobStatus& job);

}  // namespace dsv3::cli
