// What plan() says beside the layout: by which device's speed it was chosen, why, and what the
// whole run takes.
#pragma once

#include <cstdint>
#include <string>

#include "cluster/plan/device_model.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/search.h"

namespace dsv3::plan {

struct ChosenDevice {
  DeviceModel model;
  bool known = false;    // false: a stand-in, good for ranking only; its times are not told
  bool assumed = false;  // known, but nobody named it: a card with as much memory
};

// options.device where given (but a CPU's calibration says nothing of GPUs: it is passed over for
// them); else the table's model of the cluster's GPU (of one without a name a
// usual card with as much memory; h100's for a name that is not known), or a rough CPU shared by
// `ranks_per_device`.
ChosenDevice choose_device(const spec::JobSpec& job, const ClusterSpec& cluster, DeviceKind kind,
                           int64_t ranks_per_device, const PlanOptions& options);

// "The fastest of 3,412 legal layouts that fits …": one sentence, and one for everything that was
// raised, taken as it stood, or given up. `found` has a chosen layout.
std::string explain_choice(const MemoryModel& memory, const TimeModel& time,
                           const SearchRequest& request, const SearchResult& found);

// Fills plan->predicted from the time of a step: throughput, MFU (causal FLOPs with MTP over the
// device's bf16 peak, for fp8 too), and days and cost of options.tokens or the job's own steps.
void predict_run(const spec::JobSpec& job, const PlanOptions& options, const DeviceModel& device,
                 double step_s, Plan* plan);

}  // namespace dsv3::plan
