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

void ReferenceBackend::cross_entropy_statistics(const ops::Context&,
                                                const ops::CrossEntropyStatistics& args) {
  for (int64_t r = 0; r < args.logits.rows; ++r) {
    double largest = -std::numeric_limits<double>::infinity(), sum = 0.0, label_logit = 0.0;
    for (int64_t v = 0; v < args.logits.cols; ++v) {
      largest = std::max(largest, load(args.logits, r, v));
      if (args.labels.data[r] == args.first + v) label_logit = load(args.logits, r, v);
    }
    largest = static_cast<float>(largest);  // as it is stored, and the terms are relative to it
    for (int64_t v = 0; v < args.logits.cols; ++v) {
      const double term = std::exp(load(args.logits, r, v) - largest);
      sum += term;
      if (args.keep_terms) store(args.logits, r, v, term);
    }
    args.statistics.data[3 * r] = static_cast<float>(largest);
    args.statistics.data[3 * r + 1] = static_cast<float>(sum);
    args.statistics.data[3 * r + 2] = static_cast<float>(label_logit);
  }
}

void ReferenceBackend::cross_entropy_finish(const ops::Context&,
                                            const ops::CrossEntropyFinish& args) {
  const int64_t rows = args.labels.size;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t label = args.labels.data[r];
    double sum = 0.0, label_logit = 0.0;  // Σ e^logit, relative to this rank's largest
    const double own = args.statistics.data[(args.rank * rows + r) * 3];
    for (int64_t rank = 0; rank < args.ranks; ++rank) {
      const float* s = args.statistics.data + (rank * rows + r) * 3;
      sum += s[1] * std::exp(s[0] - own);
      label_logit += s[2];
    }
    if (label >= 0 && args.loss)
      *args.loss += args.loss_scale * (own + std::log(sum) - label_logit);
    for (int64_t v = 0; v < args.terms.cols && args.want_grad; ++v) {
      const double onehot = label == args.first + v ? 1.0 : 0.0;
      store(args.terms, r, v,
            label < 0 ? 0.0 : args.grad_scale * (load(args.terms, r, v) / sum - onehot));
    }
  }
}

}  // namespace dsv3::reference
