// Cross entropy over the vocabulary, its gradient written over the logits; contract in
// kernels/ops/args.h.
//
// Law: one row is one thread's, its three passes (largest, Σ exp, gradient) stay in that core's
// cache; the rows' losses are added in row order, so the loss does not depend on the number of
// threads. Of a cut vocabulary the first two passes are one op, the third another; the ranks' sums
// are put together in order of ranks, in f64.
//
//   V vocabulary
#include <cmath>
#include <limits>

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

// One row of all ranks' statistics put together.
struct RowSums {
  double largest = 0, sum = 0, label_logit = 0;
};
RowSums sums_of(const ops::CrossEntropyFinish& args, int64_t row) {
  const int64_t rows = args.labels.size;
  const auto of_rank = [&](int64_t rank) { return args.statistics.data + (rank * rows + row) * 3; };
  RowSums sums;
  sums.largest = -std::numeric_limits<double>::infinity();
  for (int64_t rank = 0; rank < args.ranks; ++rank)
    sums.largest = std::max<double>(sums.largest, of_rank(rank)[0]);
  for (int64_t rank = 0; rank < args.ranks; ++rank) {
    const float* s = of_rank(rank);
    sums.sum += s[1] * std::exp(s[0] - sums.largest);
    sums.label_logit += s[2];
  }
  return sums;
}

// Returns the row's unscaled loss; its terms become the gradient where one is wanted.
double finish_row(const ops::CrossEntropyFinish& args, int64_t row) {
  const int64_t columns = args.terms.cols;
  float* terms = args.want_grad ? row_of<float>(args.terms, row) : nullptr;
  const int32_t label = args.labels.data[row];
  if (label < 0) {
    if (args.want_grad) std::fill_n(terms, columns, 0.0f);
    return 0.0;
  }
  const RowSums sums = sums_of(args, row);
  if (args.want_grad) {
    // The kept terms are relative to these columns' largest.
    const float own = args.statistics.data[(args.rank * args.labels.size + row) * 3];
    const double share = std::exp(own - sums.largest) / sums.sum;
    const float factor = static_cast<float>(args.grad_scale * share);
    const int64_t at = label - args.first;
    const bool here = at >= 0 && at < columns;
    const double probability = here ? terms[at] * share : 0.0;
#pragma omp simd
    for (int64_t v = 0; v < columns; ++v) terms[v] *= factor;
    if (here) terms[at] = static_cast<float>((probability - 1.0) * args.grad_scale);
  }
  return sums.largest - sums.label_logit + std::log(sums.sum);
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

void cross_entropy_statistics(const ops::Context&, const ops::CrossEntropyStatistics& args) {
  const int64_t rows = args.logits.rows, columns = args.logits.cols;
#pragma omp parallel for schedule(static) if (rows * columns > kParallelMin)
  for (int64_t r = 0; r < rows; ++r) {
    float* logits = row_of<float>(args.logits, r);
    float* to = args.statistics.data + 3 * r;
    const int64_t at = args.labels.data[r] - args.first;
    to[0] = max_of(logits, columns);
    to[2] = args.labels.data[r] >= 0 && at >= 0 && at < columns ? logits[at] : 0.0f;
    to[1] = static_cast<float>(args.keep_terms ? sum_exp<true>(logits, columns, to[0], logits)
                                               : sum_exp(logits, columns, to[0]));
  }
}

void cross_entropy_finish(const ops::Context& ctx, const ops::CrossEntropyFinish& args) {
  const int64_t rows = args.labels.size;
  if (rows == 0) return;
  double* losses = reinterpret_cast<double*>(ctx.workspace->reserve(rows * sizeof(double)));
#pragma omp parallel for schedule(static) if (args.want_grad && \
                                              rows * args.terms.cols > kParallelMin)
  for (int64_t r = 0; r < rows; ++r) losses[r] = finish_row(args, r);
  if (!args.loss) return;
  double loss = 0.0;
  for (int64_t r = 0; r < rows; ++r) loss += losses[r];
  *args.loss += args.loss_scale * loss;
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
