// Cross entropy over the vocabulary, its gradient written over the logits; contract in
// kernels/ops/args.h.
//
// Law: one row is one thread's, its three passes (largest, Σ exp, gradient) stay in that core's
// cache; the rows' losses are added in row order, so the loss does not depend on the number of
// threads.
//
//   V vocabulary
#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

// logits = grad_scale · (terms / sum − onehot(label)).
template <typename T>
void write_gradient(const float* terms, double sum, int32_t label, float grad_scale, T* logits,
                    int64_t vocabulary) {
  const float factor = static_cast<float>(grad_scale / sum);
#pragma omp simd
  for (int64_t v = 0; v < vocabulary; ++v) logits[v] = from_float<T>(terms[v] * factor);
  logits[label] = from_float<T>(static_cast<float>((terms[label] / sum - 1.0) * grad_scale));
}

// Returns the row's unscaled loss; overwrites its logits when a gradient is wanted. terms: scratch
// of V floats.
template <typename T>
double row_loss(const ops::CrossEntropy& args, T* logits, int32_t label, float* terms) {
  const int64_t vocabulary = args.logits.cols;
  if (label < 0) {
    if (args.want_grad) std::fill_n(logits, vocabulary, T(0.0f));
    return 0.0;
  }
  DSV3_CHECK(label < vocabulary, "cross_entropy: a label is outside the vocabulary");
  const float largest = max_of(logits, vocabulary), label_logit = to_float(logits[label]);
  double sum;
  if (args.want_grad) {
    sum = sum_exp<true>(logits, vocabulary, largest, terms);
    write_gradient(terms, sum, label, args.grad_scale, logits, vocabulary);
  } else {
    sum = sum_exp(logits, vocabulary, largest);
  }
  return static_cast<double>(largest) - label_logit + std::log(sum);
}

}  // namespace

namespace DSV3_CPU_ROWS {

void cross_entropy(const ops::Context& ctx, const ops::CrossEntropy& args) {
  const int64_t rows = args.logits.rows;
  if (rows == 0) return;
  // Scratch: [rows] f64 losses, then [threads, V] f32 exponentials, so that each is computed once.
  const int64_t per_thread = ceil_div(args.logits.cols, 16) * 16;
  const int64_t losses_bytes = ceil_div(rows, 8) * 64;
  std::byte* scratch =
      ctx.workspace->reserve(losses_bytes + omp_get_max_threads() * per_thread * sizeof(float));
  double* losses = reinterpret_cast<double*>(scratch);
  float* terms = reinterpret_cast<float*>(scratch + losses_bytes);
  dispatch(args.logits.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for schedule(static) if (rows * args.logits.cols > kParallelMin)
    for (int64_t r = 0; r < rows; ++r) {
      losses[r] = row_loss<T>(args, row_of<T>(args.logits, r), args.labels.data[r],
                              terms + omp_get_thread_num() * per_thread);
    }
  });
  double loss = 0.0;
  for (int64_t r = 0; r < rows; ++r) loss += losses[r];
  *args.loss += args.loss_scale * loss;
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
