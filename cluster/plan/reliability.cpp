// See reliability.h.
#include "cluster/plan/reliability.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace dsv3::plan {

double job_mtbf_s(const FailureModel& model, int64_t nodes) {
  DSV3_CHECK(nodes >= 1);
  return model.node_mtbf_s / static_cast<double>(nodes);
}

double young_interval_s(double checkpoint_s, double mtbf_s) {
  return std::sqrt(2 * checkpoint_s * mtbf_s);
}

double daly_interval_s(double checkpoint_s, double mtbf_s) {
  if (checkpoint_s >= 2 * mtbf_s) return mtbf_s;
  const double share = checkpoint_s / (2 * mtbf_s);
  return young_interval_s(checkpoint_s, mtbf_s) * (1 + std::sqrt(share) / 3 + share / 9) -
         checkpoint_s;
}

double effective_time_ratio(const FailureModel& model, int64_t nodes, double interval_s) {
  DSV3_CHECK(interval_s > 0);
  const double mtbf = job_mtbf_s(model, nodes);
  // Wall time of one interval with its checkpoint: it is repeated until it gets through.
  const double wall = mtbf * std::exp((model.restart_s + model.write_s) / mtbf) *
                      std::expm1((interval_s + model.checkpoint_s) / mtbf);
  return std::isfinite(wall) ? interval_s / wall : 0;
}

CheckpointChoice best_checkpoint_interval(const FailureModel& model, int64_t nodes, double step_s) {
  DSV3_CHECK(step_s > 0);
  const double wanted = daly_interval_s(model.checkpoint_s, job_mtbf_s(model, nodes));
  const double shortest = std::ceil(model.write_s / step_s);
  const auto steps =
      static_cast<int64_t>(std::clamp(std::max(std::floor(wanted / step_s), shortest), 1.0, 1e12));
  CheckpointChoice best;
  best.effective_time_ratio = -1;
  // Whole steps lie on both sides of Daly's interval.
  for (const int64_t n : {steps, steps + 1}) {
    const double interval = static_cast<double>(n) * step_s;
    const double ratio = effective_time_ratio(model, nodes, interval);
    if (ratio > best.effective_time_ratio) best = {n, interval, ratio};
  }
  return best;
}

int64_t checkpoint_file_bytes(int64_t parameters, bool bf16_moments) {
  return parameters * (4 + 2 * (bf16_moments ? 2 : 4));
}

}  // namespace dsv3::plan
