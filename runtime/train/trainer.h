// The training loop of one rank: data → model → optimizer, with validation, checkpoints and
// reports at its edges.
//
// Law: nothing here knows that a coordinator, ZeroMQ or SQLite exist. Whoever runs the loop gives
// a TrainObserver; reports are handed over once a step, outside the step's hot path, and an
// observer must not block.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "configs/spec/job_spec.h"

namespace dsv3::comm {
struct Groups;
}

namespace dsv3::train {

// One optimizer step. Losses are means per token of the global batch; loss is what was
// differentiated.
struct StepReport {
  int64_t step = 0;  // 1-based: the number of finished steps
  double loss = 0;
  double lm_loss = 0;
  double mtp_loss = 0;   // unweighted mean over depths
  double aux_loss = 0;   // weighted, as added to the loss
  double z_loss = 0;     // weighted, as added to the loss
  double grad_norm = 0;  // before clipping
  double lr = 0;
  int64_t tokens = 0;  // of this step
  double step_s = 0;
  double tokens_per_s = 0;
  double mfu = 0;            // share of TrainStart::peak_flops_per_s; 0: unknown
  int64_t memory_bytes = 0;  // the arena's peak
  int64_t dropped = 0;       // choices (a token and an expert) beyond moe.capacity_factor
  // Of step_s: spent waiting for other ranks, that is communication which nothing hid.
  double exposed_comm_s = 0;
};

struct ValidationReport {
  int64_t step = 0;
  double loss = 0;  // lm loss, nats per token
  int64_t tokens = 0;
};

struct CheckpointReport {
  int64_t step = 0;
  std::string path;
  int64_t bytes = 0;
  double seconds = 0;  // from when it was due to its publication
  double pause_s = 0;  // of them training stood still
};

struct MemoryEntry {
  std::string name;  // the ledger's name, e.g. "weights", "activations/attention"
  int64_t peak_bytes = 0;
};

// Said once, before the first step.
struct TrainStart {
  int64_t first_step = 0;  // steps already done (resumed)
  int64_t max_steps = 0;
  int64_t params_total = 0;
  std::string device;           // "cpu (2 threads)"
  std::string compute_dtype;    // "bf16" or "f32": what matrices are multiplied in, and why if not
                                // what was asked
  double flops_per_token = 0;   // causal attention counted half (configs/spec/counts.h)
  double peak_flops_per_s = 0;  // measured 1024³ GEMM of compute_dtype on this machine
  double unigram_entropy = 0;   // nats per token of the training text; 0: unknown
};

class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_start(const TrainStart&) {}
  virtual void on_step(const StepReport&) {}
  virtual void on_validation(const ValidationReport&) {}
  // Tokens per expert of one layer in one step, exact; summed over the global batch.
  virtual void on_expert_counts(int64_t /*step*/, int64_t /*layer*/,
                                std::span<const int64_t> /*counts*/) {}
  // After its publication, in the thread that trains: one or more steps later when it was written
  // in the background.
  virtual void on_checkpoint(const CheckpointReport&) {}
  // What a person should know and no report says, one sentence: a checkpoint set aside or not
  // written. Also before on_start(). It is in the log already.
  virtual void on_note(const std::string& /*text*/) {}
  virtual void on_memory(const std::vector<MemoryEntry>&) {}
  // Asked between steps. stop: checkpoint and return; checkpoint: save once and go on (asking
  // clears the request).
  virtual bool stop_requested() { return false; }
  virtual bool checkpoint_requested() { return false; }
};

struct TrainOptions {
  spec::JobSpec spec;
  std::string job = "local";
  int64_t attempt = 1;
  std::string submission;      // what no other job has, whatever its id; "": not known
  std::string checkpoint_dir;  // where step-*/ folders go; "": no checkpoints
  bool resume = true;          // from the newest valid checkpoint in checkpoint_dir, else
                               // spec.checkpoint.load, else fresh
  // Called at named points of every save (checkpoint/checkpoint.h), by the thread that writes; for
  // tests. Empty: nothing.
  std::function<Status(std::string_view point)> checkpoint_probe;
  // The run is known to have saved this step: to find no checkpoint is an error then. 0: it is not.
  int64_t saved_step = 0;
  // The other ranks of the layout, and this one's place among them; outlives train(). All ranks
  // call train() with the same spec. Null: this rank alone.
  const comm::Groups* groups = nullptr;
};

struct TrainSummary {
  int64_t steps = 0;     // trained by this call
  bool stopped = false;  // ended early on request
  double first_loss = 0;
  double last_loss = 0;
  double validation_loss = 0;
};

// Runs the job's steps on this process's device. Bad data, a bad checkpoint or a loss that is not
// finite come back as a Status with the worker's exit code (DESIGN.md); device failures throw
// Failure.
Result<TrainSummary> train(const TrainOptions& options, TrainObserver& observer);

}  // namespace dsv3::train
