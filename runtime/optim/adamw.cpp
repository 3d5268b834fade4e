// The optimizer's step; see adamw.h.
#include "runtime/optim/adamw.h"

#include <cmath>

#include "kernels/ops/ops.h"
#include "runtime/optim/schedule.h"

namespace dsv3::optim {

using model::Scalar;

Optimizer::Optimizer(const spec::TrainingSpec& training, model::ParamStore& params,
                     tensor::Arena& arena)
    : training_(training), params_(params), arena_(arena) {
  const DType dtype = training.moments_dtype == "bf16" ? DType::kBf16 : DType::kF32;
  exp_avg_ = arena.persistent("optimizer/exp_avg", dtype, {params.layout().elements});
  exp_avg_sq_ = arena.persistent("optimizer/exp_avg_sq", dtype, {params.layout().elements});
}

void Optimizer::update_range(int64_t begin, int64_t end, bool decay, int64_t number, double lr,
                             const model::StepState& step) {
  if (begin == end) return;
  const auto moment = [begin](const tensor::Tensor& t) {
    return static_cast<void*>(static_cast<std::byte*>(t.data) +
                              begin * static_cast<int64_t>(dtype_bytes(t.dtype)));
  };
  const tensor::Tensor& compute = params_.compute();
  const auto n = static_cast<double>(number);
  ops::adamw(arena_.context(),
             {.master = {params_.master().as<float>() + begin, end - begin},
              .grad = {params_.grad().as<float>() + begin, end - begin},
              .exp_avg = moment(exp_avg_),
              .exp_avg_sq = moment(exp_avg_sq_),
              .moments_dtype = exp_avg_.dtype,
              .compute = compute.empty() || !decay ? nullptr : compute.as<Bf16>() + begin,
              .grad_scale = step.clip_scale(),
              .lr = static_cast<float>(lr),
              .beta1 = static_cast<float>(training_.beta1),
              .beta2 = static_cast<float>(training_.beta2),
              .eps = static_cast<float>(training_.eps),
              .weight_decay = decay ? static_cast<float>(training_.weight_decay) : 0.0f,
              .bias1 = static_cast<float>(1.0 - std::pow(training_.beta1, n)),
              .bias2 = static_cast<float>(1.0 - std::pow(training_.beta2, n))});
}

double Optimizer::update(int64_t number, model::StepState& step) {
  const double lr = learning_rate(training_, number);
  const model::ParamLayout& layout = params_.layout();
  ops::squared_norm(arena_.context(), {.x = params_.grad().vector<const float>(),
                                       .sum = step.scalar(Scalar::kSquaredNorm)});
  ops::clip_scale(arena_.context(), {.sum_of_squares = step.scalar(Scalar::kSquaredNorm),
                                     .max_norm = static_cast<float>(training_.grad_clip),
                                     .scale = step.clip_scale(),
                                     .norm = step.scalar(Scalar::kGradNorm)});
  update_range(0, layout.decay_elements, true, number, lr, step);
  update_range(layout.decay_elements, layout.elements, false, number, lr, step);
  return lr;
}

}  // namespace dsv3::optim
