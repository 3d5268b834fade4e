// The formulas of schedule.h.
#include "runtime/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace dsv3::optim {

double learning_rate(const spec::TrainingSpec& training, int64_t step) {
  const int64_t warmup = training.lr_warmup_steps;
  const double peak = training.learning_rate, least = training.min_learning_rate;
  if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  if (training.lr_schedule == "constant") return peak;
  const int64_t length = std::max<int64_t>(training.max_steps - warmup, 1);
  const double p = std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(length));
  if (training.lr_schedule == "linear") return peak + (least - peak) * p;
  DSV3_CHECK(training.lr_schedule == "cosine", training.lr_schedule);
  return least + (peak - least) * 0.5 * (1.0 + std::cos(std::numbers::pi * p));
}

}  // namespace dsv3::optim
