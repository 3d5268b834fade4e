// Optimizer: AdamW over the flat parameters, with clipping by the global norm (Loshchilov & Hutter
// 2019).
//
// Laws: the norm counts every parameter once and is taken before clipping; norms' gains are not
// decayed, everything else is; the whole step is queued on the device without asking it anything
// (the norm is read back with the step's other numbers).
#pragma once

#include <cstdint>

#include "configs/spec/job_spec.h"
#include "runtime/model/params.h"
#include "runtime/model/step_state.h"

namespace dsv3::optim {

class Optimizer {
 public:
  // Zero moments [params.layout().elements] in training.moments_dtype, from `arena`
  // ("optimizer/…").
  Optimizer(const spec::TrainingSpec& training, model::ParamStore& params, tensor::Arena& arena);

  // One update with the accumulated gradients: writes kSquaredNorm, kGradNorm and the clip scale
  // of `step`, master, moments and compute copy. `number` is 1-based (bias correction and learning
  // rate); gives the learning rate used.
  double update(int64_t number, model::StepState& step);

  // Flat buffers in the layout of the parameters.
  const tensor::Tensor& exp_avg() const { return exp_avg_; }
  const tensor::Tensor& exp_avg_sq() const { return exp_avg_sq_; }

 private:
  void update_range(int64_t begin, int64_t end, bool decay, int64_t number, double lr,
                    const model::StepState& step);

  spec::TrainingSpec training_;
  model::ParamStore& params_;
  tensor::Arena& arena_;
  tensor::Tensor exp_avg_, exp_avg_sq_;
};

}  // namespace dsv3::optim
