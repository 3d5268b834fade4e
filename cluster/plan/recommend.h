// recommend(): which preset for N GPUs of M GB: what the selector's table says, then whether that
// fits, and what it takes.
//
// Laws: PURE. The table is the one users know (preset, GPUs, label GB; by use case; by budget; a
// boundary belongs to the larger preset, a gap to the largest row that is satisfied); the answer is
// the table's choice if the memory model fits it, else the next smaller preset that it fits. Memory
// decides, not the card's name; a use case or a budget only lowers the choice. Fewer GPUs than
// there are get used only where no cut over all of them is as fast, and that is said.
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

// What is asked beside the hardware. "" and 0: not asked.
struct Wishes {
  std::string use_case;   // of use_cases()
  std::string budget;     // of budgets()
  double budget_usd = 0;  // for the whole training, compared with its predicted cost
  int64_t tokens = 0;     // to train on; 0: each preset's own steps
  std::optional<double> usd_per_gpu_hour;  // absent: the usual price of that GPU
};

struct Choice {
  std::string config;
  bool fits = false;
  std::string reason;  // one sentence with figures
};

// The rows of the table that matched, as the table has them.
struct TableRows {
  std::string by_hardware;               // "" when no row is satisfied
  std::vector<std::string> by_use_case;  // smallest first; empty: not asked
  std::vector<std::string> by_budget;
};

struct Recommendation {
  std::string table_choice;  // by hardware; "" when no row is satisfied
  TableRows table;
  std::string config;  // "" when nothing fits: `reason` says the smallest that would and on what
  std::string reason;
  std::optional<Plan> plan;          // of config
  int64_t tokens = 0;                // that the plan's days and cost are of
  std::vector<Choice> alternatives;  // the table's smaller satisfied rows, largest first
  std::vector<Choice> rejected;      // larger than config, each with why not
  std::string larger;  // the next larger preset that was not taken for its size; "": there is none
  std::string larger_reason;  // one sentence: what the table asks for it, and what its memory does
  // Of the same card, what both ask for; more than there are. Absent: more than 4096, or not more
  // GPUs but larger cards are what the table asks for.
  std::optional<int64_t> gpus_needed_for_larger;
};

// The words that Wishes take, smallest first.
const std::vector<std::string>& use_cases();
const std::vector<std::string>& budgets();

// The largest row of the selector's table that the hardware satisfies; "" when none. 8 × 80 →
// "10b"; 3 × 40 → "1b".
std::string table_choice(const Hardware& hardware);

// `presets` holds at least the table's names. Example: 32 × 80 GB: the table says 671b, which needs
// more memory than there is; config is 20b and `rejected` carries 671b with the figures.
Recommendation recommend(const Hardware& hardware, const std::vector<NamedJob>& presets,
                         const Wishes& wishes = {});

// The same where there is no GPU: the preset for CPUs, if it runs on `cluster`. `reason` says that
// there is none.
Recommendation recommend_on_cpus(const ClusterSpec& cluster, const std::vector<NamedJob>& presets);

// The GPUs of a cluster as equal cards: the smallest memory, the first name. 0 GPUs when there are
// none.
Hardware hardware_of(const ClusterSpec& cluster);

// Tokens that max_steps of this job train on; at most what int64 holds.
int64_t tokens_of(const spec::JobSpec& job);

}  // namespace dsv3::plan
