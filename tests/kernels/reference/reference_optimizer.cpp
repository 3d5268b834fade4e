// The optimizer's arithmetic as args.h says; see reference_backend.h.
#include <algorithm>
#include <cmath>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {

void ReferenceBackend::squared_norm(const ops::Context&, const ops::SquaredNorm& args) {
  for (int64_t i = 0; i < args.x.size; ++i)
    *args.sum += static_cast<double>(args.x.data[i]) * args.x.data[i];
}

void ReferenceBackend::adamw(const ops::Context&, const ops::AdamW& args) {
  for (int64_t i = 0; i < args.master.size; ++i) {
    const double g =
        args.grad.data[i] * static_cast<double>(args.grad_scale ? *args.grad_scale : 1.0f);
    const double m =
        args.beta1 * load(args.exp_avg, args.moments_dtype, i) + (1.0 - args.beta1) * g;
    const double v =
        args.beta2 * load(args.exp_avg_sq, args.moments_dtype, i) + (1.0 - args.beta2) * g * g;
    const double master = args.master.data[i];
    const double update = m / args.bias1 / (std::sqrt(v / args.bias2) + args.eps);
    store(args.exp_avg, args.moments_dtype, i, m);
    store(args.exp_avg_sq, args.moments_dtype, i, v);
    args.master.data[i] =
        static_cast<float>(master - args.lr * (update + args.weight_decay * master));
    if (args.compute) store(args.compute, DType::kBf16, i, args.master.data[i]);
  }
}

void ReferenceBackend::clip_scale(const ops::Context&, const ops::ClipScale& args) {
  const double norm = std::sqrt(*args.sum_of_squares);
  *args.norm = norm;
  *args.scale =
      args.max_norm > 0.0f ? static_cast<float>(std::min(1.0, args.max_norm / norm)) : 1.0f;
}

}  // namespace dsv3::reference
