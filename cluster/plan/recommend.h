// recommend(): which preset for N GPUs of M GB: what the selector's table says, then whether that
// fits.
//
// Laws: PURE. The table is the one users know (preset, GPUs, label GB; a boundary belongs to the
// larger preset, a gap to the largest row that is satisfied); the answer is the table's choice if
// the memory model fits it, else the next smaller preset that it fits. Memory decides, not the
// card's name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/plan/plan.h"

namespace dsv3::plan {

struct Hardware {
  int64_t gpus = 0;
  double gpu_memory_gb = 0;  // as on the label
  std::string gpu_name;      // "" when unknown
  int64_t gpus_per_node = 8;
};

struct Choice {
  std::string config;
  bool fits = false;
  std::string reason;  // one sentence with figures
};

struct Recommendation {
  std::string table_choice;  // "" when no row is satisfied
  std::string config;  // "" when nothing fits: `reason` says the smallest that would and on what
  std::string reason;
  std::optional<Plan> plan;          // of config
  std::vector<Choice> alternatives;  // the table's other satisfied rows, largest first
  std::vector<Choice> rejected;      // larger than config, each with why not
};

// The largest row of the selector's table that the hardware satisfies; "" when none. 8 × 80 →
// "10b"; 3 × 40 → "1b".
std::string table_choice(const Hardware& hardware);

// `presets` holds at least the table's names. Example: 32 × 80 GB: the table says 671b, which needs
// more memory than there is; config is 20b and `rejected` carries 671b with the figures.
Recommendation recommend(const Hardware& hardware, const std::vector<NamedJob>& presets);

}  // namespace dsv3::plan
