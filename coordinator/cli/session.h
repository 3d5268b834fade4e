// A verb's talk with the coordinator: connect, ask, start one where there is none.
//
// Law: no call waits without a deadline, and "no coordinator" is never shown as an empty answer.
#pragma once

#include <string>

#include "base/status.h"
#include "coordinator/cli/verb.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/client.h"

namespace dsv3::cli {

inline constexpr int kRequestTimeoutMs = 10'000;
inline constexpr int kStartTimeoutMs = 15'000;

// A connection to the running coordinator of globals.state_dir. kNoCoordinator says how to start
// one.
Result<transport::Client> connect(const Globals& globals);

// As connect(), but starts dsv3d (found beside this program) when there is none, waits until it
// answers and says so on stderr. `started`, if given, tells whether it did.
Result<transport::Client> connect_or_start(const Globals& globals, bool* started = nullptr);

// One request and its reply, with the usual deadline.
Status ask(transport::Client& client, const wire::Envelope& request, wire::Envelope* reply,
           int timeout_ms = kRequestTimeoutMs);

}  // namespace dsv3::cli
