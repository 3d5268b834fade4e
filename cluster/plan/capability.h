// Capability: what today's runtime can run, as one table. The planner plans more than that;
// submitting asks here first.
//
// Law: a thing that the runtime doesn't do is named here with its reason, and refused before a
// worker starts; widening the runtime means taking a row out. PURE.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

struct Capability {
  const char* name;    // "zero3"
  const char* reason;  // "ZeRO-3 is not run yet (parallel.zero_stage must be 2 or less)"
};

// The rows that this job on this layout would need and the runtime lacks; empty: it runs.
std::vector<Capability> missing_capabilities(const spec::JobSpec& job, const Layout& layout,
                                             DeviceKind device);

// The same for a job taken as it stands (layout_as_given()): Ok, or kInvalid naming every missing
// thing.
Status check_runnable(const spec::JobSpec& job);

}  // namespace dsv3::plan
