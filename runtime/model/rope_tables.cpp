// The formulas of rope_tables.h.
#include "runtime/model/rope_tables.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace dsv3::model {
namespace {

double yarn_gain(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

bool is_yarn(const spec::MlaSpec& mla) {
  return mla.rope_scaling.type == "yarn";
}

// Radians per position of each pair.
std::vector<double> frequencies(const spec::MlaSpec& mla) {
  const auto dim = static_cast<double>(mla.qk_rope_head_dim);
  const spec::RopeScaling& scaling = mla.rope_scaling;
  std::vector<double> result;
  double low = 0, high = 0;
  if (is_yarn(mla)) {
    const auto pair_of_rotations = [&](double rotations) {
      const auto original = static_cast<double>(scaling.original_max_position);
      return dim * std::log(original / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(mla.rope_theta));
    };
    low = std::max(std::floor(pair_of_rotations(scaling.beta_fast)), 0.0);
    high = std::min(std::ceil(pair_of_rotations(scaling.beta_slow)), dim - 1);
    if (low == high) high += 0.001;
  }
  for (int64_t j = 0; j < mla.qk_rope_head_dim / 2; ++j) {
    const double plain = std::pow(mla.rope_theta, -2.0 * static_cast<double>(j) / dim);
    if (!is_yarn(mla)) {
      result.push_back(plain);
      continue;
    }
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    result.push_back(plain * (1 - ramp) + plain / scaling.factor * ramp);
  }
  return result;
}

}  // namespace

RopeTables rope_tables(const spec::MlaSpec& mla, std::span<const int64_t> positions) {
  const spec::RopeScaling& scaling = mla.rope_scaling;
  double gain = 1.0;
  if (is_yarn(mla)) {
    gain = scaling.mscale != 0 && scaling.mscale_all_dim != 0
               ? yarn_gain(scaling.factor, scaling.mscale) /
                     yarn_gain(scaling.factor, scaling.mscale_all_dim)
               : yarn_gain(scaling.factor, 1.0);
  }
  RopeTables tables;
  const std::vector<double> frequency = frequencies(mla);
  for (const int64_t position : positions) {
    for (const double f : frequency) {
      const double angle = static_cast<double>(position) * f;
      tables.cos.push_back(static_cast<float>(std::cos(angle) * gain));
      tables.sin.push_back(static_cast<float>(std::sin(angle) * gain));
    }
  }
  return tables;
}

RopeTables rope_tables(const spec::MlaSpec& mla, int64_t sequence) {
  std::vector<int64_t> positions(static_cast<size_t>(sequence));
  std::iota(positions.begin(), positions.end(), 0);
  return rope_tables(mla, positions);
}

float softmax_scale(const spec::MlaSpec& mla) {
  double scale = 1.0 / std::sqrt(static_cast<double>(mla.qk_head_dim()));
  if (is_yarn(mla) && mla.rope_scaling.mscale_all_dim != 0) {
    const double gain = yarn_gain(mla.rope_scaling.factor, mla.rope_scaling.mscale_all_dim);
    scale *= gain * gain;
  }
  return static_cast<float>(scale);
}

}  // namespace dsv3::model
