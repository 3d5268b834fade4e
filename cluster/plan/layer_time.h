// Seconds of one layer's passes over one micro-batch: its ops on the device, and its exchanges.
//
// Law: PURE. Compute is the sum of step_ops.h's lists; what is exchanged is comm_volume.h's: TP
// with sequence parallelism gathers before and scatters after attention and the feed-forward,
// forward and backward, and gathers what the blocks read once more for their weight gradients: norm
// outputs are kept cut (Korthikanti et al. 2022, arXiv 2205.05198, 4.2.2). Latents are made of a
// rank's own tokens, so attention gathers those, and the residual stream only where queries have no
// latent; CP gathers the latents of keys and values, which every rank projects up for the whole
// sequence. Experts exchange tokens over EP·TP (etp 1) or EP, in parts (expert_overlap.h), and all
// wait for the busiest. Exchanges are what is not hidden behind compute.
#pragma once

#include <algorithm>

#include "cluster/plan/comm_cost.h"
#include "cluster/plan/device_model.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// Hidden behind compute where the links have their own engines. Transformer Engine overlaps gathers
// and scatters with the products beside them in chunks; about half stays in sight (Megatron-LM's
// tp-comm-overlap). Not measured with our runtime. What is hidden of the experts' exchange follows
// from its parts (expert_overlap.h); without parallel.overlap_expert_exchange nothing is.
inline constexpr double kTensorExchangeHidden = 0.5;

// How much more than the mean the busiest rank's experts get, and all ranks wait for it: balanced
// without an auxiliary loss, the busiest expert is 4 to 7 % above the mean over a whole set
// (Wang et al. 2024, arXiv 2408.15664), and further in a single micro-batch, less in a rank's sum
// of several. Not fitted to any run.
inline constexpr double kExpertImbalance = 1.1;

struct PassTime {
  double compute = 0;             // with weight, without recompute
  double weight = 0;              // weight gradients that can be put off, of compute
  double recompute = 0;           // computed again
  double tp = 0, cp = 0, ep = 0;  // what is not hidden
  double hidden = 0;              // of tp and ep: the links are busy while compute goes on
  double total() const { return compute + recompute + tp + cp + ep; }
  // Compute behind which another exchange fits.
  double quiet() const { return std::max(0.0, compute + recompute - hidden); }
};

struct LayerTime {
  PassTime forward, backward;
};

// Of one micro-batch under a layout's TP, CP, EP, ETP, micro-batch and recomputation, and whether
// its weight gradients are put off.
struct ModelTimes {
  LayerTime dense, routed, mtp;
  LayerTime embedding, head;  // on the first and last stage
};

ModelTimes model_times(const spec::JobSpec& job, const Layout& layout, const DeviceModel& device,
                       int64_t devices_per_node);

}  // namespace dsv3::plan
