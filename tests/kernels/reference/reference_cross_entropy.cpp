// Cross entropy as args.h says; see reference_backend.h.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {

void ReferenceBackend::cross_entropy(const ops::Context&, const ops::CrossEntropy& args) {
  const int64_t vocabulary = args.logits.cols;
  for (int64_t r = 0; r < args.logits.rows; ++r) {
    const int32_t label = args.labels.data[r];
    double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (int64_t v = 0; v < vocabulary; ++v) largest = std::max(largest, load(args.logits, r, v));
    for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(load(args.logits, r, v) - largest);
    const double lse = largest + std::log(sum);
    if (label >= 0) *args.loss += args.loss_scale * (lse - load(args.logits, r, label));
    for (int64_t v = 0; v < vocabulary && args.want_grad; ++v) {
      const double probability = std::exp(load(args.logits, r, v) - lse);
      store(args.logits, r, v,
            label < 0 ? 0.0 : args.grad_scale * (probability - (v == label ? 1.0 : 0.0)));
    }
  }
}

}  // namespace dsv3::reference
