// What `submit` does before it talks to the coordinator: settle paths and data, plan, refuse.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/status.h"
#include "cluster/plan/plan.h"
#include "configs/spec/job_spec.h"
#include "configs/spec/paths.h"
#include "coordinator/cli/verb.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/client.h"

namespace dsv3::cli {

// "@demo" in data.path is kept in the state dir and prepared where it is absent.
using spec::kDemoData;

// spec::settle_paths() from the current folder, with the prefix in the state dir.
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

// The speed of this machine's CPUs for jobs of that dtype, as measured; absent where it was not. A
// calibration that can't be read is noted on stderr.
std::optional<plan::DeviceModel> measured_device(const Globals& globals, const std::string& dtype);

// What a dry run prints: for people `head`, the plan as `dsv3ctl plan` shows it, and the command
// that starts the ranks; with --json {…fields, "plan", "launch_script"}. Returns the exit code.
int show_dry_run(const Globals& globals, const plan::Plan& plan, const std::string& head,
                 nlohmann::ordered_json fields);

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
