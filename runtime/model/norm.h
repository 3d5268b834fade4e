// RMSNorm as the modules use it (Zhang & Sennrich 2019).
//
// Law: the statistics go into the stash; the gain's gradient comes with the input's, so it is part
// of backward_input and never deferred.
#pragma once

#include "runtime/model/pass.h"

namespace dsv3::model {

// y = norm(x) · gain; rstd [rows] is kept for the backward. x and y may be strided.
inline void norm_forward(const Pass& pass, const Gain& gain, float eps, ops::ConstMatrix x,
                         ops::Matrix y, const tensor::Tensor& rstd) {
  ops::rms_norm_forward(
      pass.ctx, {.x = x, .gain = gain.value, .y = y, .rstd = rstd.vector<float>(), .eps = eps});
}

// dx (+)= the gradient of x; the gain's gradient is accumulated.
inline void norm_backward(const Pass& pass, const Gain& gain, ops::ConstMatrix dy,
                          ops::ConstMatrix x, const tensor::Tensor& rstd, ops::Matrix dx,
                          bool accumulate_dx) {
  ops::rms_norm_backward(pass.ctx, {.dy = dy,
                                    .x = x,
                                    .gain = gain.value,
                                    .rstd = rstd.vector<float>(),
                                    .dx = dx,
                                    .dgain = gain.grad,
                                    .accumulate_dx = accumulate_dx});
}

}  // namespace dsv3::model
