// A few steps' worth of forward and backward of one tiny model in any layout, ranks as processes,
// beside the same in one process.
//
// Law: what ranks compute lies where one process has it: a rank's part of a tensor is put where its
// box says, so layouts are compared element by element. Nothing here sums or averages.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/spec/job_spec.h"
#include "runtime/model/step_state.h"
#include "runtime/model/transformer.h"
#include "runtime/parallel/pipeline.h"

namespace dsv3::parallel::testing_support {

struct LayoutRun {
  spec::JobSpec job;
  plan::Layout layout;
  int64_t sequences = 8;    // of the global batch
  int64_t micro_batch = 1;  // sequences
  model::Recompute recompute = model::Recompute::kNone;
  DType compute = DType::kF32;
};

struct Outcome {
  std::vector<double> scalars;  // of StepState, after the sum over the ranks
  std::vector<int64_t> counts;
  // Of every rank: gradients in the place of one process's buffer, NaN where it holds nothing.
  std::vector<std::vector<float>> gradients;
  std::vector<int64_t> new_allocations;   // in the third pass, of every rank
  std::vector<int64_t> actions;           // recorded, of every rank
  std::vector<int64_t> activation_bytes;  // peak, of every rank
};

// Micro-batches of a data rank's share of `tokens` [sequences, row].
class Share final : public MicroBatchSource {
 public:
  Share(const std::vector<int32_t>& tokens, int64_t row, const comm::Groups& groups,
        int64_t micro_batch);
  int64_t num_micro_batches() const override { return share_ / size_; }
  int64_t sequences(int64_t) const override { return size_; }
  Result<std::span<const int32_t>> read(int64_t micro_batch) override;

 private:
  const std::vector<int32_t>& tokens_;
  int64_t row_, share_, first_, size_;
};

// The tiny job with `layers` layers, of which the first `dense` have no experts.
spec::JobSpec deep_job(int64_t layers, int64_t dense, int64_t mtp_layers);

// In forked ranks; a failed one fails the test.
Outcome run_ranks_of(const LayoutRun& run);
// In this process, micro-batch after micro-batch.
Outcome run_alone(const LayoutRun& run);

// The largest difference between what any rank has and what one process has, over the largest of
// that tensor; with the tensor's name. Fails the test if an element is nowhere.
struct Difference {
  double value = 0;
  std::string where;
};
Difference largest_difference(const LayoutRun& run, const Outcome& ranks, const Outcome& alone);

}  // namespace dsv3::parallel::testing_support
