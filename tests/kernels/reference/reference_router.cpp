// The router as its formulas in args.h say, by sorting instead of by running selection; see
// reference_backend.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {
namespace {

double log_sum_exp(const float* logits, int64_t experts) {
  const double largest = *std::max_element(logits, logits + experts);
  double sum = 0.0;
  for (int64_t e = 0; e < experts; ++e) sum += std::exp(logits[e] - largest);
  return largest + std::log(sum);
}

// Indices of values in descending order, ties by index.
std::vector<int> descending(const std::vector<double>& values) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  return order;
}

// The experts of one token. Values are compared as f32, as the contract's values are, so that ties
// are ties here too.
std::vector<int> choose(const ops::RouterShape& shape, std::vector<double> biased) {
  const int64_t per_group = shape.experts / shape.groups;
  std::vector<double> group_scores;
  for (int64_t g = 0; g < shape.groups; ++g) {
    std::vector<double> group(biased.begin() + g * per_group, biased.begin() + (g + 1) * per_group);
    std::sort(group.rbegin(), group.rend());
    const bool two = shape.score == ops::ScoreFunction::kSigmoid && per_group > 1;
    group_scores.push_back(two ? static_cast<float>(group[0] + group[1]) : group[0]);
  }
  const std::vector<int> groups = descending(group_scores);
  for (int64_t i = shape.top_groups; i < shape.groups; ++i) {
    for (int64_t e = 0; e < per_group; ++e)
      biased[groups[i] * per_group + e] = -std::numeric_limits<double>::infinity();
  }
  std::vector<int> order = descending(biased);
  order.resize(shape.top_k);
  return order;
}

double weight_divisor(const ops::RouterShape& shape, const float* scores, const int32_t* chosen) {
  double sum = 1e-20;
  for (int64_t k = 0; k < shape.top_k; ++k) sum += scores[chosen[k]];
  return shape.normalise ? sum : 1.0;
}

}  // namespace

void ReferenceBackend::router_forward(const ops::Context&, const ops::RouterForward& args) {
  const ops::RouterShape& shape = args.shape;
  const int64_t experts = shape.experts;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const float* logits = args.logits.data + t * experts;
    float* scores = args.scores.data + t * experts;
    const double lse = log_sum_exp(logits, experts);
    std::vector<double> biased(experts);
    for (int64_t e = 0; e < experts; ++e) {
      const bool is_sigmoid = shape.score == ops::ScoreFunction::kSigmoid;
      scores[e] =
          static_cast<float>(is_sigmoid ? 1.0 / (1.0 + std::exp(-static_cast<double>(logits[e])))
                                        : std::exp(logits[e] - lse));
      biased[e] = args.bias.empty() ? scores[e] : scores[e] + args.bias.data[e];
    }
    const std::vector<int> chosen = choose(shape, biased);
    for (int64_t k = 0; k < shape.top_k; ++k) {
      args.expert_idx.data[t * shape.top_k + k] = chosen[k];
      args.counts.data[chosen[k]] += 1;
    }
    if (!args.run_counts.empty()) {
      int32_t* counts = args.run_counts.data + t / args.run * experts;
      if (t % args.run == 0) std::fill(counts, counts + experts, 0);
      for (int expert : chosen) ++counts[expert];
    }
    const double divisor = weight_divisor(shape, scores, args.expert_idx.data + t * shape.top_k);
    for (int64_t k = 0; k < shape.top_k; ++k) {
      args.weights.data[t * shape.top_k + k] =
          static_cast<float>(scores[chosen[k]] / divisor * shape.scaling);
    }
  }
}

void ReferenceBackend::router_loss(const ops::Context&, const ops::RouterLoss& args) {
  const ops::RouterShape& shape = args.shape;
  const int64_t experts = shape.experts;
  for (int64_t s = 0; s < shape.tokens / shape.sequence; ++s) {
    std::vector<double> f(experts, 0.0), share(experts, 0.0);
    for (int64_t t = s * shape.sequence; t < (s + 1) * shape.sequence; ++t) {
      const float* scores = args.scores.data + t * experts;
      const double sum = std::accumulate(scores, scores + experts, 0.0);
      for (int64_t e = 0; e < experts; ++e) share[e] += scores[e] / sum / shape.loss_sequence();
      for (int64_t k = 0; k < shape.top_k; ++k) {
        f[args.expert_idx.data[t * shape.top_k + k]] +=
            static_cast<double>(experts) / (shape.top_k * shape.loss_sequence());
      }
      const double lse = log_sum_exp(args.logits.data + t * experts, experts);
      if (args.z_loss) *args.z_loss += args.z_weight * lse * lse;
    }
    for (int64_t e = 0; e < experts && !args.sequence_counts.empty(); ++e) {
      f[e] = static_cast<double>(experts) / (shape.top_k * shape.loss_sequence()) *
             args.sequence_counts.data[s * experts + e];
    }
    for (int64_t e = 0; e < experts; ++e) {
      if (!args.fraction.empty()) args.fraction.data[s * experts + e] = static_cast<float>(f[e]);
      if (args.aux_loss) *args.aux_loss += args.aux_weight * f[e] * share[e];
    }
  }
}

void ReferenceBackend::router_backward(const ops::Context&, const ops::RouterBackward& args) {
  const ops::RouterShape& shape = args.shape;
  const int64_t experts = shape.experts;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const float* logits = args.logits.data + t * experts;
    const float* scores = args.scores.data + t * experts;
    const int32_t* chosen = args.expert_idx.data + t * shape.top_k;
    const float* dweights = args.dweights.data + t * shape.top_k;
    std::vector<double> dscores(experts, 0.0);
    const double divisor = weight_divisor(shape, scores, chosen);
    for (int64_t k = 0; k < shape.top_k; ++k) {
      const double dscaled = static_cast<double>(dweights[k]) * shape.scaling;
      dscores[chosen[k]] += dscaled / divisor;
      // The divisor holds every chosen score.
      for (int64_t j = 0; j < shape.top_k && shape.normalise; ++j) {
        dscores[chosen[j]] -= dscaled * scores[chosen[k]] / (divisor * divisor);
      }
    }
    if (args.aux_weight != 0.0f) {
      const float* f = args.fraction.data + t / shape.sequence * experts;
      const double sum = std::accumulate(scores, scores + experts, 0.0);
      for (int64_t i = 0; i < experts; ++i) {
        for (int64_t j = 0; j < experts; ++j) {
          // d(s_i / sum) / ds_j
          const double share_gradient = (i == j ? 1.0 / sum : 0.0) - scores[i] / (sum * sum);
          dscores[j] += share_gradient * args.aux_weight * f[i] / shape.loss_sequence();
        }
      }
    }
    double mean = 0.0;
    for (int64_t e = 0; e < experts; ++e) mean += dscores[e] * scores[e];
    const double lse = log_sum_exp(logits, experts);
    for (int64_t e = 0; e < experts; ++e) {
      const double s = scores[e];
      const double through_score = shape.score == ops::ScoreFunction::kSigmoid
                                       ? dscores[e] * s * (1.0 - s)
                                       : s * (dscores[e] - mean);
      const double z_gradient = 2.0 * args.z_weight * lse * std::exp(logits[e] - lse);
      args.dlogits.data[t * experts + e] = static_cast<float>(through_score + z_gradient);
    }
  }
}

void ReferenceBackend::router_bias_update(const ops::Context&, const ops::RouterBiasUpdate& args) {
  int64_t total = 0;
  for (int64_t e = 0; e < args.counts.size; ++e) total += args.counts.data[e];
  for (int64_t e = 0; e < args.counts.size; ++e) {
    const int64_t load = args.counts.data[e] * args.counts.size;
    if (load < total) args.bias.data[e] += args.rate;
    if (load > total) args.bias.data[e] -= args.rate;
  }
}

}  // namespace dsv3::reference
