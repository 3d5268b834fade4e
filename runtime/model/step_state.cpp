// Device-side scalars of a step; see step_state.h.
#include "runtime/model/step_state.h"

#include <bit>

namespace dsv3::model {

StepState::StepState(tensor::Arena& arena, int64_t moe_layers, int64_t experts)
    : arena_(arena),
      experts_(experts),
      data_(arena.persistent("runtime/step", DType::kI64, {kNumScalars + moe_layers * experts})),
      clip_scale_(arena.persistent("runtime/step", DType::kF32, {1})),
      host_(static_cast<size_t>(data_.num_elements())) {}

void StepState::reset() {
  arena_.device().backend().fill_zero(data_.data, static_cast<size_t>(data_.bytes()),
                                      arena_.device().stream());
}

void StepState::read_back() {
  arena_.device().backend().copy_to_host(
      host_.data(), data_.data, static_cast<size_t>(data_.bytes()), arena_.device().stream());
  arena_.device().synchronize();
}

double StepState::host_scalar(Scalar which) const {
  return std::bit_cast<double>(host_[static_cast<size_t>(which)]);
}

}  // namespace dsv3::model
