// The learning rate of a step: a pure function of the configuration and the step's number.
//
//   warm-up:   step ≤ W:        peak · step / W
//   after:     p = (step − W) / (max_steps − W), from 0 at W to 1 at the last step
//   cosine:    min + (peak − min) · (1 + cos(π p)) / 2
//   linear:    peak + (min − peak) · p
//   constant:  peak
// Worked example (peak 2e-3, min 2e-4, W 20, max 200, cosine): step 10 → 1e-3; step 20 → 2e-3;
// step 110 (p = 1/2) → 1.1e-3; step 200 → 2e-4.
#pragma once

#include <cstdint>

#include "configs/spec/job_spec.h"

namespace dsv3::optim {

// `step` is 1-based: the number that the step will have when it is done. Beyond max_steps the last
// value holds.
double learning_rate(const spec::TrainingSpec& training, int64_t step);

}  // namespace dsv3::optim
