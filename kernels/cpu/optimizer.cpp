// The optimizer's arithmetic: gradient norm, clipping factor, AdamW (Loshchilov & Hutter 2019);
// contract in kernels/ops/args.h.
//
// Law: a sum of squares is added in blocks whose bounds depend on its size alone, in f64, so that
// the norm is the same for any number of threads. AdamW reads and writes each state once.
#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

double block_sum_of_squares(const float* x, int64_t n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const double value = x[i];
    sum += value * value;
  }
  return sum;
}

// One block [begin, begin + count) of AdamW; Moment is the moments' type.
template <typename Moment, bool kHasCompute>
void adamw_block(const ops::AdamW& args, float grad_scale, int64_t begin, int64_t count) {
  float* master = args.master.data + begin;
  const float* grad = args.grad.data + begin;
  Moment* exp_avg = static_cast<Moment*>(args.exp_avg) + begin;
  Moment* exp_avg_sq = static_cast<Moment*>(args.exp_avg_sq) + begin;
  Bf16* compute = kHasCompute ? static_cast<Bf16*>(args.compute) + begin : nullptr;
  const float beta1 = args.beta1, beta2 = args.beta2, eps = args.eps, lr = args.lr;
  const float inverse_bias1 = 1.0f / args.bias1, inverse_bias2 = 1.0f / args.bias2;
  const float decay = args.weight_decay;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = grad[i] * grad_scale;
    const float m = beta1 * to_float(exp_avg[i]) + (1.0f - beta1) * g;
    const float v = beta2 * to_float(exp_avg_sq[i]) + (1.0f - beta2) * g * g;
    const float update = m * inverse_bias1 / (std::sqrt(v * inverse_bias2) + eps);
    const float value = master[i] - lr * (update + decay * master[i]);
    exp_avg[i] = from_float<Moment>(m);
    exp_avg_sq[i] = from_float<Moment>(v);
    master[i] = value;
    if constexpr (kHasCompute) compute[i] = from_float<Bf16>(value);
  }
}

}  // namespace

namespace DSV3_CPU_ROWS {

void squared_norm(const ops::Context& ctx, const ops::SquaredNorm& args) {
  const int64_t blocks = ceil_div(args.x.size, kBlock);
  if (blocks == 0) return;
  double* sums = reinterpret_cast<double*>(ctx.workspace->reserve(blocks * sizeof(double)));
  for_each_block(1, args.x.size, true, [&](int64_t, int64_t begin, int64_t count) {
    sums[begin / kBlock] = block_sum_of_squares(args.x.data + begin, count);
  });
  double sum = 0.0;
  for (int64_t b = 0; b < blocks; ++b) sum += sums[b];
  *args.sum += sum;
}

void adamw(const ops::Context&, const ops::AdamW& args) {
  const float grad_scale = args.grad_scale ? *args.grad_scale : 1.0f;
  dispatch(args.moments_dtype, [&](auto moment) {
    using Moment = decltype(moment);
    for_each_block(1, args.master.size, true, [&](int64_t, int64_t begin, int64_t count) {
      if (args.compute) {
        adamw_block<Moment, true>(args, grad_scale, begin, count);
      } else {
        adamw_block<Moment, false>(args, grad_scale, begin, count);
      }
    });
  });
}

void clip_scale(const ops::Context&, const ops::ClipScale& args) {
  const double norm = std::sqrt(*args.sum_of_squares);
  *args.norm = norm;
  // Written so that a NaN norm gives a NaN scale: a broken gradient must not pass as a clipped one.
  *args.scale = args.max_norm == 0.0f || norm <= args.max_norm
                    ? 1.0f
                    : static_cast<float>(args.max_norm / norm);
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
