// The selector's table, checked by the planner; see recommend.h.
#include "cluster/plan/recommend.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"

namespace dsv3::plan {
namespace {

struct Row {
  const char* config;
  int64_t gpus_min;
  double memory_gb_min;
};

// Smallest first. Rows overlap at 8, 16, 24 and 32 GPUs: the larger preset wins there.
constexpr std::array<Row, 6> kTable = {{{"1b", 1, 24},
                                        {"5b", 4, 40},
                                        {"10b", 8, 80},
                                        {"15b", 16, 80},
                                        {"20b", 24, 80},
                                        {"671b", 32, 80}}};

// Answers when not even 1b fits: the smallest preset, which the table leaves out.
constexpr const char* kSmallest = "small";

bool satisfied(const Row& row, const Hardware& hardware) {
  return hardware.gpus >= row.gpus_min && hardware.gpu_memory_gb >= row.memory_gb_min;
}

const NamedJob* find(const std::vector<NamedJob>& presets, const std::string& name) {
  const auto at = std::find_if(presets.begin(), presets.end(),
                               [&](const NamedJob& p) { return p.name == name; });
  return at == presets.end() ? nullptr : &*at;
}

std::string cards(const Hardware& hardware) {
  return fmt::format("{} x {:g} GB", hardware.gpus, hardware.gpu_memory_gb);
}

// Not every number of GPUs can be cut into a layout: then the plan for the largest handy number
// below it (a multiple of 8, a power of two or three times one). Not feasible on any: the first
// one's.
Plan plan_on_most(const spec::JobSpec& job, const Hardware& hardware) {
  const auto on = [&](int64_t gpus) {
    return plan::plan(job, cluster_of_gpus(gpus, hardware.gpu_memory_gb, hardware.gpu_name,
                                           /*sm_version=*/0, hardware.gpus_per_node));
  };
  Plan all = on(hardware.gpus);
  if (all.feasible) return all;
  int64_t power = 1;
  while (2 * power <= hardware.gpus) power *= 2;
  const int64_t of_eight = hardware.gpus / 8 * 8;
  const int64_t handy = power / 2 * 3 <= hardware.gpus ? power / 2 * 3 : power;
  for (const int64_t gpus : {of_eight, handy}) {
    if (gpus < 1 || gpus >= hardware.gpus) continue;
    Plan fewer = on(gpus);
    if (fewer.feasible) return fewer;
  }
  return all;
}

// What the memory model says of one preset, in a sentence.
std::string verdict(const std::string& name, const Plan& plan, const Hardware& hardware) {
  const std::string peak = human_bytes(plan.predicted.peak_memory_bytes);
  if (plan.feasible) {
    const bool fewer = plan.gpus < hardware.gpus;
    return fmt::format("{} fits{}: {} of {} on the fullest GPU with {}", name,
                       fewer ? fmt::format(" on {} of them", plan.gpus) : "", peak,
                       human_bytes(plan.memory_bytes), to_string(plan.layout));
  }
  if (plan.layout.world_size() != hardware.gpus) {
    return fmt::format("{} can't be cut over {} GPUs: {}", name, hardware.gpus, plan.reason);
  }
  return fmt::format("{} does not fit: at best {} on each GPU of {} ({}); it needs {}", name, peak,
                     human_bytes(plan.memory_bytes), to_string(plan.layout),
                     plan.gpus_needed
                         ? fmt::format("{} x {:g} GB", *plan.gpus_needed, plan.gpu_label_gb)
                         : std::string("more than 4096 GPUs"));
}

// Nothing of the table fits: name the smallest preset, and what it would take.
void nothing_fits(const Hardware& hardware, const std::vector<NamedJob>& presets,
                  Recommendation* out) {
  out->reason = fmt::format("no preset of the table fits {}: the smallest row is 1b from 1 x 24 GB",
                            cards(hardware));
  const NamedJob* smallest = find(presets, kSmallest);
  if (smallest == nullptr) return;
  const Plan plan = plan_on_most(smallest->job, hardware);
  const std::string said = verdict(kSmallest, plan, hardware);
  out->reason += "; " + said;
  if (plan.feasible) out->alternatives.push_back({kSmallest, true, said});
}

// Why not the row above the table's choice.
void reject_next_row(const Hardware& hardware, Recommendation* out) {
  for (const Row& row : kTable) {
    if (satisfied(row, hardware)) continue;
    out->rejected.push_back({row.config, false,
                             fmt::format("the table asks for at least {} x {:g} GB for {}",
                                         row.gpus_min, row.memory_gb_min, row.config)});
    return;
  }
}

}  // namespace

std::string table_choice(const Hardware& hardware) {
  for (auto row = kTable.rbegin(); row != kTable.rend(); ++row) {
    if (satisfied(*row, hardware)) return row->config;
  }
  return {};
}

Recommendation recommend(const Hardware& hardware, const std::vector<NamedJob>& presets) {
  Recommendation out;
  out.table_choice = table_choice(hardware);
  for (auto row = kTable.rbegin(); row != kTable.rend(); ++row) {
    const NamedJob* preset = find(presets, row->config);
    if (preset == nullptr || !satisfied(*row, hardware)) continue;
    Plan plan = plan_on_most(preset->job, hardware);
    const std::string said = verdict(row->config, plan, hardware);
    if (!out.config.empty()) {
      out.alternatives.push_back({row->config, plan.feasible, said});
    } else if (plan.feasible) {
      out.config = row->config;
      out.reason = row->config == out.table_choice
                       ? fmt::format("the table's choice for {}; {}", cards(hardware), said)
                       : fmt::format("the table says {} for {}, but {}; {}", out.table_choice,
                                     cards(hardware), out.rejected.front().reason, said);
      out.plan = std::move(plan);
    } else {
      out.rejected.push_back({row->config, false, said});
    }
  }
  if (out.config.empty()) nothing_fits(hardware, presets, &out);
  reject_next_row(hardware, &out);
  return out;
}

}  // namespace dsv3::plan
