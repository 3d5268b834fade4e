// What differs between two configurations, key by key, in the field table's order.
#pragma once

#include <string>
#include <vector>

#include "configs/spec/job_spec.h"

namespace dsv3::spec {

struct Difference {
  std::string key;   // canonical: "training.dtype"
  std::string from;  // as canonical YAML writes it, on one line
  std::string to;
  bool operator==(const Difference&) const = default;
};

// Keys whose values differ; of preset.* only what a run would notice (none).
std::vector<Difference> diff(const JobSpec& from, const JobSpec& to);

// One line a key: "training.dtype: bf16 -> fp8".
std::string diff_text(const std::vector<Difference>& differences);

}  // namespace dsv3::spec
