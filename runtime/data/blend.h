// Which dataset the k-th sample of a blend comes from.
//
// Law (Tijdeman's chairman assignment, Discrete Mathematics 32 (1980) 323): after every prefix of k
// samples, dataset i has had k·w_i of them within 1 − 1/(2n − 2) < 1. Integer arithmetic only, so
// every machine picks the same. (The plain "largest deficit" rule drifts past one sample from four
// datasets on.)
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

namespace dsv3::data {

// Thread-safe. Weights are taken as multiples of 2^-30 of their sum.
class Blend {
 public:
  // At least one weight, all > 0.
  explicit Blend(std::span<const double> weights);

  struct Pick {
    int64_t dataset_idx = 0;
    int64_t sample_idx = 0;  // how many samples the dataset has given before
  };
  // The source of sample k ≥ 0. Costs at most kStride steps of counting once the position has been
  // reached.
  Pick at(int64_t k) const;
  // The dataset's share of all samples.
  double weight(int64_t dataset_idx) const;

 private:
  // Picks sample k when `counts` holds the samples before it, and counts it.
  int64_t advance(int64_t k, std::span<int64_t> counts) const;

  std::vector<int64_t> weights_;
  int64_t total_ = 0;
  mutable std::mutex mutex_;
  mutable std::vector<int64_t> snapshots_;  // counts before sample 0, kStride, 2·kStride …
  mutable std::vector<int64_t> counts_;     // scratch
};

}  // namespace dsv3::data
