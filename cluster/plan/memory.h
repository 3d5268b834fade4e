// Memory ledger of one rank: named lines, one function each, whose sum is the predicted peak
// (planner.md 3.2 to 3.4).
//
// Law: the same lines for CPU and GPU, printed beside what the arena measured. Bytes a parameter in
// bf16 with fp32 gradients and moments: weights 2, gradients 4, master 4, moments 4 + 4 = 18; in
// fp32 the weights are the master: 16. Accuracy to expect: parameters exact, peak ±10 % and ±2 GiB
// (planner.md 3.5).
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/plan/activations.h"
#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/layout.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/shard_map.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// Bytes a parameter takes in each role.
struct StateBytes {
  int64_t weight = 2;
  int64_t grad = 4;
  int64_t master = 4;  // 0 where the weights are the master
  int64_t moment = 4;  // of each of the two
  int64_t optimizer() const { return master + 2 * moment; }
};
StateBytes state_bytes(const spec::TrainingSpec& training);

// A job's figures that many layouts are tried on; the job outlives it.
struct MemoryModel {
  MemoryModel(const spec::JobSpec& job_in, DeviceKind device_in, int64_t devices_per_node_in = 8);
  const spec::JobSpec& job;
  DeviceKind device;
  int64_t devices_per_node;
  ShardedCounts counts;
  StateBytes state;
  ActivationOptions activation;
};

// Static lines of a rank of `stage`, before anything runs.
int64_t weights_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
int64_t gradients_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// Master weights and both moments, cut by ZeRO over dense_zero_group and expert_zero_group; 0 on
// the device when offloaded.
int64_t optimizer_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);

// Micro-batches whose activations stage `stage` holds at once: 1F1B min(M, PP − stage);
// all-forward-all-backward M.
int64_t micro_batches_in_flight(const Layout& layout, int64_t stage);
// Saved activations of all layers of the stage, of all micro-batches in flight.
int64_t activations_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// The largest layer's backward pass or the logits, whichever is more: they don't coexist.
int64_t transient_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// Logits on the last stage: fp32 chunks of rows where the loss is computed in chunks (our CPU
// runtime), else all.
int64_t logits_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// CUDA's context, or the process with its libraries.
int64_t runtime_bytes(const MemoryModel& model);
// The copy from which checkpoints are written in the background, master and moments of the stage; 0
// where there is none: on GPUs (it is host memory), with checkpoint.async off, without periodic
// checkpoints, or above the limit, where training waits for the write instead.
inline constexpr int64_t kCheckpointStagingBytesMax = int64_t{4} << 30;
int64_t checkpoint_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// Buffers of the communicators that this layout creates.
int64_t communication_bytes(const MemoryModel& model, const Layout& layout);

// All lines of a rank of `stage`, largest concepts first; zero lines are left out.
std::vector<LedgerLine> memory_ledger(const MemoryModel& model, const Layout& layout,
                                      int64_t stage);
int64_t sum_bytes(const std::vector<LedgerLine>& ledger);
// The stage whose sum is the largest (the first of equals).
int64_t worst_stage(const MemoryModel& model, const Layout& layout);

}  // namespace dsv3::plan
