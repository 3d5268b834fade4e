// The optimizer's step; see adamw.h.
#include "runtime/optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/ops/ops.h"
#include "runtime/optim/schedule.h"

namespace dsv3::optim {

using model::Scalar;

Optimizer::Optimizer(const spec::TrainingSpec& training, model::ParamStore& params,
                     const parallel::Ownership& ownership, tensor::Arena& arena)
    : training_(training), params_(params), arena_(arena), ownership_(ownership) {
  const model::ParamLayout& layout = params.layout();
  const int64_t copied = params.compute().empty() ? 0 : layout.compute_elements;
  int64_t elements = 0;
  for (const parallel::Range& range : ownership_.updated) {
    int64_t begin = range.begin;
    for (const int64_t end : {copied, layout.decay_elements, range.end}) {
      const int64_t stop = std::min(end, range.end);
      if (stop <= begin) continue;
      const Part part{.range = {begin, stop},
                      .at = elements,
                      .copied = stop <= copied,
                      .decay = stop <= layout.decay_elements};
      parts_.push_back(part);
      elements += stop - begin;
      begin = stop;
    }
  }
  const DType dtype = training.moments_dtype == "bf16" ? DType::kBf16 : DType::kF32;
  const bool offload = layout.cut.offload_optimizer;
  const auto moment = [&](const char* here, const char* in_host) {
    return arena.persistent(offload ? in_host : here, dtype, {elements},
                            offload ? tensor::Home::kHost : tensor::Home::kDevice);
  };
  exp_avg_ = moment("optimizer/exp_avg", "host/optimizer/exp_avg");
  exp_avg_sq_ = moment("optimizer/exp_avg_sq", "host/optimizer/exp_avg_sq");
}

void Optimizer::update_part(const Part& part, int64_t number, double lr,
                            const model::StepState& step) {
  const auto moment = [&part](const tensor::Tensor& t) {
    return static_cast<void*>(static_cast<std::byte*>(t.data) +
                              part.at * static_cast<int64_t>(dtype_bytes(t.dtype)));
  };
  const tensor::Tensor& compute = params_.compute();
  const auto n = static_cast<double>(number);
  ops::adamw(arena_.context(),
             {.master = {params_.master_at(part.range), part.range.size()},
              .grad = {grad(part.range, part.at), part.range.size()},
              .exp_avg = moment(exp_avg_),
              .exp_avg_sq = moment(exp_avg_sq_),
              .moments_dtype = exp_avg_.dtype,
              .compute = part.copied ? compute.as<Bf16>() + part.range.begin : nullptr,
              .grad_scale = step.clip_scale(),
              .lr = static_cast<float>(lr),
              .beta1 = static_cast<float>(training_.beta1),
              .beta2 = static_cast<float>(training_.beta2),
              .eps = static_cast<float>(training_.eps),
              .weight_decay = part.decay ? static_cast<float>(training_.weight_decay) : 0.0f,
              .bias1 = static_cast<float>(1.0 - std::pow(training_.beta1, n)),
              .bias2 = static_cast<float>(1.0 - std::pow(training_.beta2, n))});
}

// The sums of the gradients of `range`; `at` is where it begins among the updated elements.
const float* Optimizer::grad(const parallel::Range& range, int64_t at) const {
  const tensor::Tensor& sums = params_.grad_sums();
  return sums.empty() ? params_.grad().as<float>() + range.begin : sums.as<float>() + at;
}

void Optimizer::add_squared_norm(model::StepState& step) {
  DSV3_CHECK(params_.grad_sums().empty() || ownership_.represented == ownership_.updated);
  int64_t at = 0;
  for (const parallel::Range& range : ownership_.represented) {
    ops::squared_norm(arena_.context(), {.x = {grad(range, at), range.size()},
                                         .sum = step.scalar(Scalar::kSquaredNorm)});
    at += range.size();
  }
}

double Optimizer::update(int64_t number, model::StepState& step) {
  const double lr = learning_rate(training_, number);
  ops::clip_scale(arena_.context(), {.sum_of_squares = step.scalar(Scalar::kSquaredNorm),
                                     .max_norm = static_cast<float>(training_.grad_clip),
                                     .scale = step.clip_scale(),
                                     .norm = step.scalar(Scalar::kGradNorm)});
  for (const Part& part : parts_) update_part(part, number, lr, step);
  return lr;
}

}  // namespace dsv3::optim
