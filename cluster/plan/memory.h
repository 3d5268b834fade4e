// Memory ledger of one rank: named lines, one function each, whose sum is the predicted peak
// (PLAN.md, Memory).
//
// Laws: the lines carry the names that the runtime's arena books under (runtime/tensor/ledger.h,
// up to the first '/'), so that predicted and measured stand side by side; what lies outside of the
// arena has names of its own: process, cuda_context, communication, exchange, fragmentation. Bytes
// a parameter in bf16 with fp32 gradients and moments: weights 2, gradients 4, master 4, moments
// 4 + 4 = 18; in fp32 the weights are the master: 16. The dtypes of gradients and moments, ZeRO and
// offload are the layout's. Accuracy to expect on GPUs: parameters exact, peak ±10 % and ±2 GiB
// (PLAN.md, Memory). On CPUs what the arena books is met to 1 %, the whole process mostly to 3 %
// (tests/bench/RESULTS.md says where not).
#pragma once

#include <cstdint>
#include <string_view>
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
StateBytes state_bytes(bool computes_in_fp32, const Layout& layout);

// What the memory of a rank on CPUs depends on beside the job: kernels/cpu multiplies in f32 where
// bf16 is not faster, and each of its threads has scratch.
struct CpuFacts {
  bool multiplies_in_bf16 = true;
  int64_t threads = 1;  // of one rank
};
// Of the cluster's first CPU, shared by `ranks_per_node`.
CpuFacts cpu_facts(const ClusterSpec& cluster, int64_t ranks_per_node);

// A job's figures that many layouts are tried on; the job outlives it.
struct MemoryModel {
  MemoryModel(const spec::JobSpec& job_in, DeviceKind device_in, int64_t devices_per_node_in = 8,
              CpuFacts cpu_in = {});
  const spec::JobSpec& job;
  DeviceKind device;
  int64_t devices_per_node;
  CpuFacts cpu;
  bool computes_in_fp32;  // then the master is what is computed with
  ShardedCounts counts;
  ActivationOptions activation;
};

// What parameters take for good. Master weights stand with the optimizer; the ledger of our CPU
// runtime books them with the weights (booked_as_kept()).
struct HeldState {
  int64_t weights = 0;
  int64_t gradients = 0;
  int64_t optimizer = 0;  // 0 on the device when offloaded
  int64_t master = 0;     // of it
  int64_t sum() const { return weights + gradients + optimizer; }
};
// Of `local` parameters, cut by ZeRO over dense_zero_group and expert_zero_group. Our runtime cuts
// what TP replicates over the TP ranks too, and of the master keeps its pieces and what is
// read_in_f32() whole. Example, bf16, 100 M dense parameters of which 1 M are read in f32, DP 4,
// ZeRO 1: weights 198 MB, master 4 · (100/4 + 1 − 1/4) = 103 MB.
HeldState held_state(const MemoryModel& model, const Layout& layout, const LocalParams& local);
// Of the layers that are whole for a moment, the largest each: under ZeRO-3 the weights of the one
// that computes and of the one that is fetched meanwhile, from ZeRO-2 on the gradients of one.
HeldState gathered_state(const MemoryModel& model, const Layout& layout);
HeldState booked_as_kept(const MemoryModel& model, HeldState state);

// Static lines of a rank of `stage`, before anything runs: held_state() and gathered_state().
HeldState static_state(const MemoryModel& model, const Layout& layout, int64_t stage);
int64_t weights_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
int64_t gradients_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// Master weights and both moments.
int64_t optimizer_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// The three together: what a search compares first.
int64_t static_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);

// Chunks of 1 / chunks_of() of the stage whose activations stage `stage` holds at once. 1F1B:
// min(M, PP − stage). All-forward-all-backward: M. Interleaved: 2(PP − stage − 1) + (VPP − 1)·PP +
// 1, at most M·VPP. Zero bubble: as 1F1B; see deferred_micro_batches().
int64_t chunks_in_flight(const MemoryModel& model, const Layout& layout, int64_t stage);
// The same in micro-batches of the whole stage.
double micro_batches_in_flight(const MemoryModel& model, const Layout& layout, int64_t stage);
// Zero bubble: micro-batches whose weight gradients wait, `stage` of them (ZB-H1), so that every
// stage holds about as much; each keeps deferred_layer_bytes(). 0 under other schedules.
int64_t deferred_micro_batches(const Layout& layout, int64_t stage);
// Saved activations of all layers of the stage, of everything in flight.
int64_t activations_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// The largest layer's backward pass or the logits, whichever is more: they don't coexist.
int64_t transient_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// Of them the logits, on the last stage: fp32 chunks of rows where the loss is computed in chunks
// (our CPU runtime), else all.
int64_t logits_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// Buffers of the expert exchange, with a bounded imbalance; 0 without routed layers on the stage.
int64_t exchange_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// CUDA's context, or the process with its libraries beside what its arena holds; `stack_bytes`:
// activations and transient.
int64_t process_bytes(const MemoryModel& model, int64_t stack_bytes);
// Our CPU runtime: tables of rotary positions, a step's counters; the kernels' scratch.
int64_t runtime_bytes(const MemoryModel& model, const Layout& layout);
int64_t workspace_bytes(const MemoryModel& model, const Layout& layout);
// The copy from which checkpoints are written in the background: master and moments of what the
// rank saves, under every ZeRO stage its own pieces (runtime/parallel/ownership.h). (4 + 2 m) ·
// (n_d / (CP·EP·DP) + n_e / (CP·DP)), n_d without a copied embedding; what TP replicates is cut by
// TP too. 0 where there is none: on GPUs (it is host memory), with checkpoint.async off, without
// periodic checkpoints, or above the limit on any rank, where training waits for the write instead.
inline constexpr int64_t kCheckpointStagingBytesMax = int64_t{4} << 30;
int64_t checkpoint_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// Buffers of the communicators that this layout creates.
int64_t communication_bytes(const MemoryModel& model, const Layout& layout);

// All lines of a rank of `stage`, largest concepts first; zero lines are left out.
std::vector<LedgerLine> memory_ledger(const MemoryModel& model, const Layout& layout,
                                      int64_t stage);
int64_t sum_bytes(const std::vector<LedgerLine>& ledger);
// Whether a line of that name is no memory of the runtime's arena, and so is never measured there.
bool is_outside_arena(std::string_view line);
// sum_bytes(memory_ledger()) without the ledger: allocates nothing.
int64_t peak_bytes(const MemoryModel& model, const Layout& layout, int64_t stage);
// The stage whose sum is the largest (the first of equals).
int64_t worst_stage(const MemoryModel& model, const Layout& layout);

// The layers of each kind that a stage runs; MTP modules count as layers of the last one.
LayerMix layer_mix(const spec::ModelSpec& model, const Layout& layout, int64_t stage);

}  // namespace dsv3::plan
