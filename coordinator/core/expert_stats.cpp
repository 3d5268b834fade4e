// See expert_stats.h, where the equations stand.
#include "coordinator/core/expert_stats.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace dsv3::core {
namespace {

constexpr double kDeadShareOfMean = 0.1;
constexpr double kExcellentCv = 0.01 * 8;
constexpr double kGoodEntropy = 0.962;  // 2.0 / ln 8 = 0.96180

std::string_view verdict(const ExpertStats& stats) {
  if (stats.total == 0) return "idle";
  if (!stats.dead.empty()) return "dead experts";
  if (stats.cv < kExcellentCv) return "excellent";
  return stats.entropy > kGoodEntropy ? "good" : "imbalanced";
}

}  // namespace

ExpertStats expert_stats(std::span<const uint64_t> tokens) {
  DSV3_CHECK(!tokens.empty());
  const double num_experts = static_cast<double>(tokens.size());
  ExpertStats stats;
  stats.usage_mean = 1.0 / num_experts;
  for (const uint64_t count : tokens) stats.total += count;
  if (stats.total > 0) {
    const double total = static_cast<double>(stats.total);
    double squares = 0;
    double entropy_nats = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const double usage = static_cast<double>(tokens[i]) / total;
      squares += (usage - stats.usage_mean) * (usage - stats.usage_mean);
      if (usage > 0) entropy_nats -= usage * std::log(usage);
      if (usage < kDeadShareOfMean * stats.usage_mean)
        stats.dead.push_back(static_cast<int32_t>(i));
    }
    const auto [min, max] = std::minmax_element(tokens.begin(), tokens.end());
    stats.usage_min = static_cast<double>(*min) / total;
    stats.usage_max = static_cast<double>(*max) / total;
    stats.usage_std = std::sqrt(squares / num_experts);
    stats.cv = stats.usage_std * num_experts;
    stats.entropy = tokens.size() == 1 ? 1.0 : entropy_nats / std::log(num_experts);
    stats.max_violation = stats.usage_max * num_experts - 1.0;
  }
  stats.verdict = verdict(stats);
  return stats;
}

double dropped_share(int64_t dropped, uint64_t choices) {
  return choices == 0 ? 0.0 : static_cast<double>(dropped) / static_cast<double>(choices);
}

}  // namespace dsv3::core
