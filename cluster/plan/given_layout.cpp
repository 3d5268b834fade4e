// See given_layout.h.
#include "cluster/plan/given_layout.h"

#include <algorithm>

namespace dsv3::plan {
namespace {

int64_t or_one(int64_t size) {
  return std::max<int64_t>(1, size);
}

// The fewest chunks of a rank, at least 2, that make even stages; 2 where none does, which
// check_layout() refuses with the reason.
int64_t fewest_chunks(int64_t num_layers, int64_t pp) {
  for (int64_t chunks = 2; chunks * pp <= num_layers; ++chunks) {
    if (num_layers % (chunks * pp) == 0) return chunks;
  }
  return 2;
}

}  // namespace

Layout layout_as_given(const spec::JobSpec& job, int64_t world) {
  const spec::ParallelSpec& parallel = job.parallel;
  Layout layout;
  layout.tp = or_one(parallel.tensor_parallel_size);
  layout.cp = or_one(parallel.context_parallel_size);
  layout.pp = or_one(parallel.pipeline_parallel_size);
  layout.ep = or_one(parallel.expert_parallel_size);
  layout.dp = or_one(parallel.data_parallel_size);
  layout.etp = or_one(parallel.expert_tensor_parallel_size);
  if (parallel.data_parallel_size < 1 && world > 0) {
    layout.dp = or_one(world / (layout.tp * layout.cp * layout.pp * layout.ep));
  }
  layout.zero_stage = parallel.zero_stage;
  layout.recompute = parallel.recompute;
  if (parallel.pipeline_schedule != "auto") layout.schedule = parallel.pipeline_schedule;
  if (layout.schedule == "interleaved" && layout.pp > 1) {
    layout.virtual_stages = fewest_chunks(job.model.num_layers, layout.pp);
  }
  layout.pipeline_layers = parallel.pipeline_layers;
  if (layout.schedule == "interleaved" && layout.pp > 1 && !layout.pipeline_layers.empty()) {
    layout.virtual_stages = or_one(static_cast<int64_t>(layout.pipeline_layers.size()) / layout.pp);
  }
  layout.micro_batch = or_one(job.training.micro_batch_size);
  layout.grad_accumulation =
      or_one(job.training.global_batch_size / (layout.micro_batch * layout.dense_dp()));
  layout.moments_dtype = job.training.moments_dtype;
  layout.grads_dtype = job.training.grads_dtype;
  // The planner takes offloading only where nothing else fits; a job taken as it stands asks for
  // it.
  layout.offload_optimizer = parallel.offload_optimizer;
  return layout;
}

}  // namespace dsv3::plan
