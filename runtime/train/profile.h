// Where a training step's time goes, op by op.
//
// Laws: the steps are run_step()'s own, on the job's own data; only the device notes what it is
// asked (kernels/ops/profile.h). The rows and what is outside of ops sum to the step. A limit is
// measured here, on this machine, right before and right after, and the larger is taken, for what
// else runs can only lower it: nothing is read from a data sheet. Nothing is saved: the job's
// folder is only read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "configs/spec/job_spec.h"

namespace dsv3::train {

struct ProfileOptions {
  spec::JobSpec spec;          // data_parallel_size is 1
  std::string checkpoint_dir;  // the newest valid in it, else spec.checkpoint.load, else initial
                               // weights
  int64_t data_ranks = 1;      // of the job: a step has one's share of the global batch
  int64_t warmup_steps = 2;
  int64_t steps = 5;
  // Called before each step (and each measurement) with what it is; may be empty.
  std::function<void(std::string_view phase, int64_t done, int64_t total)> progress;
};

// All calls of one op with one shape at one place; numbers are of a mean step.
struct ProfileRow {
  std::string op;              // "gemm", "mla_attention_backward", "fill_zero"
  std::string role;            // of a product: "forward", "input grad", "weight grad"; else ""
  std::string place;           // parameter without its layer: "self_attn.q_b_proj"; "": none
  std::vector<int64_t> shape;  // products: m, n, k; others: rows, width (cost.h)
  DType dtype = DType::kF32;
  double calls = 0;
  double seconds = 0;
  double flops = 0;    // of matrix products (kernels/ops/cost.h)
  double bytes = 0;    // read and written, each argument once
  double limit_s = 0;  // the longer of flops at the GEMM peak of dtype and bytes at copy speed
  // True where the arithmetic, not the memory, is what limits it.
  bool compute_bound = false;
};

struct StepProfile {
  std::string checkpoint;  // "": initial weights
  int64_t first_step = 0;  // steps done before
  std::string device;      // "cpu (2 threads)"
  DType compute_dtype = DType::kF32;
  int64_t steps = 0;
  int64_t tokens = 0;  // of a step
  double step_s = 0;   // mean
  double outside_s = 0;
  double tokens_per_s = 0;
  double mfu = 0;  // of peak_flops_per_s, as in training
  double peak_flops_per_s = 0;
  double peak_f32_flops_per_s = 0;  // the same where the compute dtype is f32
  double copy_bytes_per_s = 0;      // read and written
  std::vector<ProfileRow> rows;     // longest first
};

// Restores or initialises, warms up, measures. Errors as train()'s; kInvalid for steps < 1.
Result<StepProfile> profile_steps(const ProfileOptions& options);

// Whether an op that arithmetic limits took clearly less time than its limit allows: then the
// machine was busy while the limit was measured, and limit and mfu say little.
bool beats_its_limit(const std::vector<ProfileRow>& rows);

// "model.layers.3.mlp.experts.down_proj" → "mlp.experts.down_proj".
std::string place_of_parameter(std::string_view block);

}  // namespace dsv3::train
