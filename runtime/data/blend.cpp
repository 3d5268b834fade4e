// Tijdeman's rule with snapshots, so that any position can be reached; see blend.h.
#include "runtime/data/blend.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace dsv3::data {
namespace {

constexpr int64_t kStride = 512;
using Wide = __int128;

}  // namespace

Blend::Blend(std::span<const double> weights) {
  DSV3_CHECK(!weights.empty());
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (const double weight : weights) {
    DSV3_CHECK(weight > 0.0);
    weights_.push_back(std::max<int64_t>(1, std::llround(weight / sum * 0x1.0p30)));
  }
  total_ = std::accumulate(weights_.begin(), weights_.end(), int64_t{0});
  counts_.resize(weights_.size());
  snapshots_.assign(weights_.size(), 0);
}

double Blend::weight(int64_t dataset_idx) const {
  return static_cast<double>(weights_[dataset_idx]) / static_cast<double>(total_);
}

int64_t Blend::advance(int64_t k, std::span<int64_t> counts) const {
  // With λ = weight/total and n datasets: among those with λ·(k + 1) − count ≥ 1/(2n − 2), the one
  // whose deadline (1 − 1/(2n − 2) + count − λ·(k + 1)) / λ comes first. All times total·(2n − 2),
  // to stay with integers.
  const auto n = static_cast<int64_t>(counts.size());
  const Wide scale = 2 * n - 2;
  int64_t best = -1;
  Wide best_slack = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Wide deficit = scale * (Wide{weights_[i]} * (k + 1) - Wide{counts[i]} * total_);
    if (deficit < total_) continue;
    const Wide slack = (scale - 1) * total_ - deficit;
    if (best < 0 || slack * weights_[best] < best_slack * weights_[i]) {
      best = i;
      best_slack = slack;
    }
  }
  DSV3_CHECK(best >= 0, "the deficits sum to one sample, so one dataset is due");
  ++counts[best];
  return best;
}

Blend::Pick Blend::at(int64_t k) const {
  DSV3_CHECK(k >= 0);
  if (weights_.size() == 1) return {0, k};
  const size_t n = weights_.size();
  const std::lock_guard lock(mutex_);
  while (static_cast<int64_t>(snapshots_.size() / n) <= k / kStride) {
    const auto first = static_cast<int64_t>(snapshots_.size() / n - 1) * kStride;
    std::copy_n(snapshots_.end() - static_cast<int64_t>(n), n, counts_.begin());
    for (int64_t j = first; j < first + kStride; ++j) advance(j, counts_);
    snapshots_.insert(snapshots_.end(), counts_.begin(), counts_.end());
  }
  std::copy_n(snapshots_.begin() + (k / kStride) * static_cast<int64_t>(n), n, counts_.begin());
  for (int64_t j = k / kStride * kStride; j < k; ++j) advance(j, counts_);
  const int64_t dataset_idx = advance(k, counts_);
  return {dataset_idx, counts_[dataset_idx] - 1};
}

}  // namespace dsv3::data
