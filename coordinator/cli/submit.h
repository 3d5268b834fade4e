// What `submit` does before it talks to the coordinator: settle paths and data, plan, refuse.
#pragma once

#include <string>

#include "base/status.h"
#include "cluster/plan/plan.h"
#include "configs/spec/job_spec.h"
#include "coordinator/cli/verb.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/client.h"

namespace dsv3::cli {

// "@demo" in data.path: the demo's text, kept in the state dir and prepared where it is absent.
inline constexpr const char* kDemoData = "@demo";

// Relative paths of the job become absolute (from the current folder), "@demo" the prefix in the
// state dir. Pure but for the current folder.
void settle_paths(const Globals& globals, spec::JobSpec* job);

// Prepares the demo's data at <state-dir>/data/demo when it is not there: runs `dsv3-worker
// data-prepare` with its progress on stderr. kFailed says what to do without a network.
Status prepare_demo_data(const Globals& globals, const spec::JobSpec& job);

// kDoesNotFit with what would, or ok.
Status check_fits(const spec::JobSpec& job, const plan::Plan& plan,
                  const plan::ClusterSpec& cluster);

// Every prefix of data.path has its two files; what is in them is the rank's business. kDoesNotFit
// names the one that is not there.
Status check_data(const spec::JobSpec& job);

// Where "@demo" is: its prefix in the state dir.
std::string demo_prefix(const Globals& globals);

// 32 hexadecimal digits, for requests that must not be done twice; "" where there is no randomness.
std::string random_key();

// A connection, to a coordinator that is started where there is none; which is said on stderr.
Result<transport::Client> connect_or_start_and_say(const Globals& globals);

// The request for a planned job: what the plan chose is in its spec, and why beside it.
wire::Envelope submit_request(const spec::JobSpec& job, const plan::Plan& plan,
                              const std::string& launcher);

}  // namespace dsv3::cli
