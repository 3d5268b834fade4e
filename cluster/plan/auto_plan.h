// choose_job(): what to train where nobody says what: the preset that is recommended for a machine,
// with what is laid over it, planned for that machine. `submit auto` asks it, in the coordinator
// and for a dry run without one.
//
// Laws: PURE but for what the caller's two functions read. Nothing is chosen that could not be
// started there: what the runtime can't run yet is refused with the capability table's sentence.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/plan/plan.h"
#include "configs/spec/parse.h"

namespace dsv3::plan {

struct AutoRequest {
  int64_t tokens = 0;  // to train on; 0: the preset's own steps
  // The preset of that name, with overlays and overrides.
  std::function<Result<spec::Parsed>(const std::string& config)> load;
  // The measured speed of the machine's CPUs for this job; absent: not measured.
  std::function<std::optional<DeviceModel>(const spec::JobSpec& job)> measured;
};

struct AutoChoice {
  std::string config;  // the preset's name
  std::string why;     // the preset and the layout, in two or three sentences
  spec::JobSpec job;   // settled; its paths as they came
  Plan plan;           // feasible and runnable
};

// recommend → load → plan → settle. kInvalid for overrides with faults; kDoesNotFit, with what runs
// instead as hint, when nothing can be started there.
Result<AutoChoice> choose_job(const ClusterSpec& cluster, const std::vector<NamedJob>& presets,
                              const AutoRequest& request);

}  // namespace dsv3::plan
