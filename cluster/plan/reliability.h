// What failures cost a long training: how often a job of N nodes is interrupted, how often it
// should write a checkpoint, and which share of the time goes into steps that stand.
//
// Law: PURE; one model, stated: failures are independent and memoryless (a Poisson process), a
// failure loses the work since the last checkpoint and costs a restart, during which the job can
// fail again (J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart
// dumps", FGCS 22, 2006). The test compares it with a simulation that knows no formula.
#pragma once

#include <cstdint>

namespace dsv3::plan {

// Llama 3 (arXiv 2407.21783, 3.3.4): 419 unexpected interruptions in 54 days on 16,384 GPUs, which
// are 2,048 nodes of 8: 54·24·2048/419 hours between failures of one node.
inline constexpr double kNodeMtbfHours = 6335;
// From the failure to the first new step: noticing it, starting the gang, loading a checkpoint.
inline constexpr double kRestartSeconds = 300;
// Of one node to shared storage; all nodes write at once.
inline constexpr double kStorageBytesPerSecondPerNode = 1e9;
// Of one GPU to its host's memory: PCIe 4 of 16 lanes, what copies of large pinned buffers reach of
// its 32 GB/s.
inline constexpr double kCopyBytesPerSecondPerGpu = 20e9;

struct FailureModel {
  double node_mtbf_s = kNodeMtbfHours * 3600;
  double checkpoint_s = 0;  // that training waits for one checkpoint; 0: nothing
  double restart_s = kRestartSeconds;
  // From the copy to the written checkpoint, while training goes on (checkpoint.async); until then
  // a failure falls back to the checkpoint before, and the next copy waits.
  double write_s = 0;
};

// Seconds between two failures of a job on `nodes`: node_mtbf_s / nodes.
double job_mtbf_s(const FailureModel& model, int64_t nodes);

// Young's interval of useful work between two checkpoints, √(2·C·M), of a checkpoint of C s in a
// job that fails every M s.
double young_interval_s(double checkpoint_s, double mtbf_s);
// Daly's: √(2CM)·[1 + ⅓·√(C/2M) + ⅑·C/2M] − C, and M where C ≥ 2M.
double daly_interval_s(double checkpoint_s, double mtbf_s);

// Share of the wall time that is useful work when a checkpoint follows every interval_s of it:
// τ / (M·e^{R/M}·(e^{(τ+C)/M} − 1)). 1 without failures and checkpoint cost. A failure in the W
// seconds of write_s after a copy, of τ + C, loses one interval more: W more seconds a failure,
// which are taken as part of R (to first order in W/M). Requires interval_s > 0.
double effective_time_ratio(const FailureModel& model, int64_t nodes, double interval_s);

// The interval that makes the ratio largest, in whole steps of step_s (at least one), and the ratio
// there; never shorter than write_s. Without a checkpoint cost: after every step.
struct CheckpointChoice {
  int64_t interval_steps = 1;
  double interval_s = 0;
  double effective_time_ratio = 1;
};
CheckpointChoice best_checkpoint_interval(const FailureModel& model, int64_t nodes, double step_s);

// Bytes of a checkpoint: fp32 master weights and both moments of every trained parameter.
int64_t checkpoint_file_bytes(int64_t parameters, bool bf16_moments);

}  // namespace dsv3::plan
