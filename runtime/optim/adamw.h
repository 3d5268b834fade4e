// Optimizer: AdamW over the flat parameters that this rank updates, with clipping by the global
// norm (Loshchilov & Hutter 2019).
//
// Laws: the norm counts every parameter of the model once, whatever the layout, and is taken before
// clipping; norms' gains are not decayed, everything else is; the whole step is queued on the
// device without asking it anything (the norm is read back with the step's other numbers). A rank
// keeps moments of what it updates alone (ZeRO: runtime/parallel/ownership.h).
#pragma once

#include <cstdint>
#include <vector>

#include "configs/spec/job_spec.h"
#include "runtime/model/params.h"
#include "runtime/model/step_state.h"
#include "runtime/parallel/ownership.h"

namespace dsv3::optim {

class Optimizer {
 public:
  // Zero moments in training.moments_dtype for the elements of ownership.updated, its ranges one
  // behind the other, from `arena`: "optimizer/…", or "host/optimizer/…" where the layout keeps
  // them in host memory (which on the CPU is the same memory; the name keeps the device's sum
  // honest).
  Optimizer(const spec::TrainingSpec& training, model::ParamStore& params,
            const parallel::Ownership& ownership, tensor::Arena& arena);
  // A rank alone: everything is updated here.
  Optimizer(const spec::TrainingSpec& training, model::ParamStore& params, tensor::Arena& arena)
      : Optimizer(training, params, parallel::Ownership::whole(params.layout()), arena) {}

  // Adds the squares of the gradients that this rank represents to kSquaredNorm of `step`. Over
  // several ranks that scalar is then to be summed.
  void add_squared_norm(model::StepState& step);
  // After that sum, one update with the accumulated gradients: writes kGradNorm and the clip scale
  // of `step`, and of ownership().updated master, moments and compute copy. `number` is 1-based
  // (bias correction and learning rate); gives the learning rate used.
  double update(int64_t number, model::StepState& step);

  const parallel::Ownership& ownership() const { return ownership_; }
  // [elements of ownership().updated], in its order; a rank alone: in the layout of the parameters.
  const tensor::Tensor& exp_avg() const { return exp_avg_; }
  const tensor::Tensor& exp_avg_sq() const { return exp_avg_sq_; }

 private:
  struct Part {
    parallel::Range range;
    int64_t at = 0;       // its first moment (and, under ZeRO 2, the sum of its gradients)
    bool copied = false;  // has a compute copy
    bool decay = false;
  };
  const float* grad(const parallel::Range& range, int64_t at) const;
  void update_part(const Part& part, int64_t number, double lr, const model::StepState& step);

  spec::TrainingSpec training_;
  model::ParamStore& params_;
  tensor::Arena& arena_;
  parallel::Ownership ownership_;
  std::vector<Part> parts_;  // `updated`, cut where the compute copy ends and where decay ends
  tensor::Tensor exp_avg_, exp_avg_sq_;
};

}  // namespace dsv3::optim
