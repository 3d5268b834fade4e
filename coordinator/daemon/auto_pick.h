// What `submit auto` submits: the preset that is recommended for this machine, with its layout.
//
// Law: nothing is picked that could not be started here: what the runtime can't run yet is refused
// with the capability table's sentence, before anything is on record.
#pragma once

#include <string>

#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/plan.h"
#include "coordinator/core/event.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::daemon {

struct AutoPick {
  std::string config;  // the preset's name
  std::string why;     // the preset and the layout, in two or three sentences
  core::Submission submission;
};

// inventory → recommend → overlays and overrides → plan → settle. Reads the presets. Relative paths
// become absolute (from request.working_dir), "@demo" the prefix in the state directory. kInvalid
// for overrides with faults; kDoesNotFit, with what runs instead as hint, when nothing can be
// started here.
Result<AutoPick> pick_job(const plan::ClusterSpec& cluster, const wire::SubmitAutoRequest& request,
                          const std::string& state_dir);

}  // namespace dsv3::daemon
