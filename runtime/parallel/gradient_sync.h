// GradientSync: sums the gradients of the ranks that hold the same parameters, while backward still
// computes the rest.
//
// Laws: (1) what is summed, and in which order, follows from the parameters' layout alone: the same
// on every rank, in every step, with overlap or without, so both give the same bits. (2) A range is
// on its way only when nothing more is added to it. (3) Every element is in exactly one range.
// (Buckets in backward order: PyTorch DDP, Li et al. 2020, arXiv 2006.15704.)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/comm/groups.h"
#include "runtime/model/params.h"
#include "runtime/model/pass.h"

namespace dsv3::parallel {

// The flat elements [begin, end) of the parameters' buffers.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const Range&) const = default;
};

// Ranges that are complete after an event of the backward pass, by event: 0 is head_done(), then
// the layers from the last (MTP's) to the first, then the end. Neighbours are joined until a range
// has at least `bytes_min` bytes of f32; what stays smaller goes with the end.
// Worked example, 2 layers of 3 MiB and a head of 40 KiB before them, bytes_min 4 MiB: {} {} {both
// layers, joined} {head and whatever is left}.
std::vector<std::vector<Range>> gradient_schedule(const model::ParamLayout& layout,
                                                  int64_t num_layers, int64_t bytes_min);

struct SyncOptions {
  int64_t num_layers = 0;  // with MTP modules
  bool overlap = true;     // false: everything is sent after the backward pass
  int64_t bytes_min = int64_t{1} << 20;
};

// Of one rank. Gradients must lie in memory that the communicator can read (CPU).
class GradientSync final : public model::BackwardObserver {
 public:
  // params and groups outlive it.
  GradientSync(model::ParamStore& params, const comm::Groups& groups, const SyncOptions& options);

  // Give it to the backward pass of the step's LAST micro-batch only.
  void head_done() override;
  void layer_done(int64_t layer) override;
  void between_operations() override;
  // After that backward pass: starts what is left and waits; the gradients are then the sum over
  // the group, the same bits on every rank. Throws Failure.
  void finish();

 private:
  void start_until(size_t events);

  model::ParamStore& params_;
  comm::Lanes lanes_;
  SyncOptions options_;
  std::vector<std::vector<Range>> schedule_;
  std::vector<std::string> names_;  // of the ranges, in order
  size_t next_event_ = 0;
  size_t next_range_ = 0;
};

}  // namespace dsv3::parallel
