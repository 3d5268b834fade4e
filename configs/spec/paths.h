// Where the paths of a configuration lead once it leaves the folder in which it was given.
//
// Law: no file is looked at; the same words, folder and prefix give the same paths.
#pragma once

#include <string>

#include "configs/spec/job_spec.h"

namespace dsv3::spec {

// In data.path: the demo's text, wherever it is kept.
inline constexpr const char* kDemoData = "@demo";

// Relative paths of `job` (data, checkpoints) become absolute, from `working_dir`; empty ones stay
// empty, and kDemoData becomes `demo_prefix`. Idempotent.
void settle_paths(const std::string& working_dir, const std::string& demo_prefix, JobSpec* job);

}  // namespace dsv3::spec
