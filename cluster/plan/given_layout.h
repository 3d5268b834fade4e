// The layout of a job that is taken as it stands: no search, nothing chosen but what is left free.
//
// Law: what the configuration gives is kept; a size that it leaves free is 1, and the data ranks
// are as many as the other sizes leave. PURE.
#pragma once

#include <cstdint>

#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// `world` ranks, 0: as many as the sizes make, with one data rank where that is free. When the
// others don't divide `world` the product differs: the caller says so. Interleaved stages get the
// fewest chunks that divide the layers evenly (at least 2). Not checked: check_layout() does.
Layout layout_as_given(const spec::JobSpec& job, int64_t world);

}  // namespace dsv3::plan
