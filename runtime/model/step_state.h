// StepState: the numbers of one optimizer step that live on the device until its end: losses,
// norms, tokens per expert.
//
// Law: one readback a step. Micro-batches add into these; the host sees them once, after the
// optimizer has been queued.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/tensor/arena.h"

namespace dsv3::model {

// Which scalar; all f64. kDropped: slots (of a token and an expert) beyond a capacity.
enum class Scalar : int { kLmLoss, kMtpLoss, kAuxLoss, kZLoss, kSquaredNorm, kGradNorm, kDropped };
inline constexpr int64_t kNumScalars = 8;  // the last one is unused

class StepState {
 public:
  // moe_layers × experts exact counters. The memory is booked as "step".
  StepState(tensor::Arena& arena, int64_t moe_layers, int64_t experts);

  // Zeroes everything on the device.
  void reset();
  double* scalar(Scalar which) const {
    return reinterpret_cast<double*>(data_.as<int64_t>()) + static_cast<int>(which);
  }
  // [experts] of MoE layer moe_idx (0 …, MTP's after the main model's).
  ops::Vector<int64_t> counts(int64_t moe_idx) const {
    return ops::Vector<int64_t>(data_.as<int64_t>() + kNumScalars + moe_idx * experts_, experts_);
  }
  // All of them at once, for sums over ranks: [kNumScalars], [moe_layers · experts].
  ops::Vector<double> scalars() const { return {scalar(Scalar::kLmLoss), kNumScalars}; }
  ops::Vector<int64_t> all_counts() const {
    return {data_.as<int64_t>() + kNumScalars, data_.shape[0] - kNumScalars};
  }
  // Device f32: the factor by which the optimizer multiplies gradients.
  float* clip_scale() const { return clip_scale_.as<float>(); }

  // Waits for the device and copies everything to the host; then the host_… functions hold.
  void read_back();
  double host_scalar(Scalar which) const;
  std::span<const int64_t> host_counts(int64_t moe_idx) const {
    return std::span(host_).subspan(static_cast<size_t>(kNumScalars + moe_idx * experts_),
                                    static_cast<size_t>(experts_));
  }

 private:
  tensor::Arena& arena_;
  int64_t experts_;
  tensor::Tensor data_;        // [kNumScalars + moe_layers · experts]: f64 bits, then i64
  tensor::Tensor clip_scale_;  // [1] f32
  std::vector<int64_t> host_;
};

}  // namespace dsv3::model
