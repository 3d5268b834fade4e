// The selector's table, checked by the planner; see recommend.h.
#include "cluster/plan/recommend.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "base/text.h"
#include "configs/spec/gpu_table.h"

namespace dsv3::plan {
namespace {

struct Row {
  const char* config;
  int64_t gpus_min;
  double memory_gb_min;
  double usd_from;  // the table's estimate of a training's cost; where a range is given, its start
};

// Smallest first. Rows overlap at 8, 16, 24 and 32 GPUs: the larger preset wins there.
constexpr std::array<Row, 6> kTable = {{{"1b", 1, 24, 500},
                                        {"5b", 4, 40, 5e3},
                                        {"10b", 8, 80, 2e4},
                                        {"15b", 16, 80, 1e5},
                                        {"20b", 24, 80, 1e5},
                                        {"671b", 32, 80, 2e6}}};

// Rows from the first to the last name, both included.
struct Words {
  const char* word;
  const char* first;
  const char* last;
};
constexpr std::array<Words, 5> kUseCases = {{{"learning", "1b", "1b"},
                                             {"research", "5b", "10b"},
                                             {"production", "10b", "15b"},
                                             {"large-production", "20b", "671b"},
                                             {"frontier", "671b", "671b"}}};
constexpr std::array<Words, 5> kBudgets = {{{"low", "1b", "1b"},
                                            {"medium", "5b", "5b"},
                                            {"high", "10b", "10b"},
                                            {"very-high", "15b", "20b"},
                                            {"extreme", "671b", "671b"}}};

// Answers when not even 1b fits: the smallest preset, which the table leaves out.
constexpr const char* kSmallest = "small";
// What trains on CPUs; the other preset for them is a benchmark.
constexpr const char* kOnCpus = "demo";

bool satisfied(const Row& row, const Hardware& hardware) {
  return hardware.gpus >= row.gpus_min && hardware.gpu_memory_gb >= row.memory_gb_min;
}

size_t index_of(std::string_view config) {
  const auto at = std::find_if(kTable.begin(), kTable.end(),
                               [&](const Row& row) { return row.config == config; });
  return static_cast<size_t>(at - kTable.begin());
}

template <size_t N>
std::vector<std::string> rows_of(const std::array<Words, N>& words, std::string_view word) {
  std::vector<std::string> rows;
  for (const Words& entry : words) {
    if (entry.word != word) continue;
    for (size_t i = index_of(entry.first); i <= index_of(entry.last); ++i)
      rows.emplace_back(kTable[i].config);
  }
  return rows;
}

template <size_t N>
std::vector<std::string> words_of(const std::array<Words, N>& words) {
  std::vector<std::string> out;
  for (const Words& entry : words) out.emplace_back(entry.word);
  return out;
}

const NamedJob* find(const std::vector<NamedJob>& presets, const std::string& name) {
  const auto at = std::find_if(presets.begin(), presets.end(),
                               [&](const NamedJob& p) { return p.name == name; });
  return at == presets.end() ? nullptr : &*at;
}

std::string cards(const Hardware& hardware) {
  return fmt::format("{} x {:g} GB", hardware.gpus, hardware.gpu_memory_gb);
}

std::string dollars(double usd) {
  return "$" + with_commas(std::llround(usd));
}

PlanOptions options_of(const Wishes& wishes) {
  PlanOptions options;
  options.tokens = wishes.tokens;
  options.usd_per_gpu_hour = wishes.usd_per_gpu_hour;
  return options;
}

// A plan for as many of the GPUs as serve best, and whether it is for fewer because no cut over all
// of them fits.
struct Placed {
  Plan plan;
  bool all_fit = false;
};

bool has_only_factors(int64_t number, std::initializer_list<int64_t> factors) {
  for (const int64_t factor : factors)
    while (number % factor == 0) number /= factor;
  return number == 1;
}

// Numbers below `gpus` that are cut in many ways, largest first: a multiple of 8, a power of two or
// three times one, and the two nearest without a prime factor above 5. 11 → 10, 9, 8.
std::vector<int64_t> handy_numbers(int64_t gpus) {
  int64_t power = 1;
  while (2 * power <= gpus) power *= 2;
  std::vector<int64_t> out = {gpus / 8 * 8, power / 2 * 3 <= gpus ? power / 2 * 3 : power};
  for (int64_t n = gpus - 1, found = 0; n >= 1 && found < 2; --n) {
    if (!has_only_factors(n, {2, 3, 5})) continue;
    out.push_back(n);
    ++found;
  }
  std::sort(out.rbegin(), out.rend());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  std::erase_if(out, [&](int64_t n) { return n < 1 || n >= gpus; });
  return out;
}

Plan plan_on(const spec::JobSpec& job, const Hardware& hardware, int64_t gpus,
             const Wishes& wishes) {
  return plan::plan(
      job,
      cluster_of_gpus(gpus, hardware.gpu_memory_gb, hardware.gpu_name,
                      spec::gpu_sm_version(hardware.gpu_name), hardware.gpus_per_node),
      options_of(wishes));
}

// Few layouts cut a number with a large prime factor, and a slow one over all of 11 GPUs may be
// beaten on 8: then the faster. Not feasible on any: the plan for all.
Placed place(const spec::JobSpec& job, const Hardware& hardware, const Wishes& wishes) {
  Placed best{plan_on(job, hardware, hardware.gpus, wishes)};
  best.all_fit = best.plan.feasible;
  if (best.all_fit && has_only_factors(hardware.gpus, {2, 3})) return best;
  // What more GPUs are needed for fits on no fewer.
  const int64_t least = best.plan.gpus_needed.value_or(hardware.gpus);
  if (!best.all_fit && least > hardware.gpus) return best;
  const auto speed = [](const Plan& plan) { return plan.predicted.tokens_per_s.value_or(0); };
  std::vector<int64_t> numbers = handy_numbers(hardware.gpus);
  if (least < hardware.gpus) numbers.push_back(least);
  for (const int64_t gpus : numbers) {
    Plan fewer = plan_on(job, hardware, gpus, wishes);
    const bool better = !best.plan.feasible || speed(fewer) > speed(best.plan);
    if (fewer.feasible && better) best.plan = std::move(fewer);
  }
  return best;
}

// "124 x 80 GB", or that no number up to the largest that is looked at would do.
std::string needed_text(const Plan& plan, const Hardware& hardware) {
  return plan.gpus_needed ? fmt::format("{} x {:g} GB", *plan.gpus_needed, hardware.gpu_memory_gb)
                          : std::string("more than 4096 GPUs");
}

// What the memory model says of one preset, in a sentence.
std::string verdict(const std::string& name, const Placed& placed, const Hardware& hardware) {
  const Plan& plan = placed.plan;
  const std::string peak = human_bytes(plan.predicted.peak_memory_bytes);
  if (plan.feasible) {
    std::string said = fmt::format("{} fits: {} of {} on the fullest GPU with {}", name, peak,
                                   human_bytes(plan.memory_bytes), to_string(plan.layout));
    if (plan.gpus < hardware.gpus) {
      said += fmt::format(
          "; it uses {} of {}: {} {}", plan.gpus, hardware.gpus,
          placed.all_fit ? "faster than any cut over" : "nothing fits that cuts it over",
          hardware.gpus);
    }
    return said;
  }
  if (plan.layout.world_size() != hardware.gpus) {
    return fmt::format("{} can't be cut over {} GPUs: {}", name, hardware.gpus, plan.reason);
  }
  return fmt::format("{} does not fit: at best {} on each GPU of {} ({}); it needs {}", name, peak,
                     human_bytes(plan.memory_bytes), to_string(plan.layout),
                     needed_text(plan, hardware));
}

// One answer while it is being found.
class Selection {
 public:
  Selection(const Hardware& hardware, const std::vector<NamedJob>& presets, const Wishes& wishes)
      : hardware_(hardware), presets_(presets), wishes_(wishes) {}

  Recommendation run();

 private:
  // The row above which the use case and the budget's word want nothing, and which of them it is.
  size_t cap(std::string* by) const;
  // "" when the money suffices, else why not.
  std::string too_dear(const Row& row, const Plan& plan) const;
  void consider(const Row& row);
  void take(const Row& row, Plan plan, const std::string& said);
  void nothing_fits();
  void look_at_next_row();
  // Into larger, larger_reason and gpus_needed_for_larger: what the table and the memory ask for.
  void say_larger(const Row& row, const Plan& plan);
  std::string smallest_row_by_memory() const;
  std::string below_what_is_wanted() const;

  const Hardware& hardware_;
  const std::vector<NamedJob>& presets_;
  const Wishes& wishes_;
  Recommendation out_;
  bool money_stopped_ = false;  // something fits, and costs too much
};

size_t Selection::cap(std::string* by) const {
  size_t lowest = kTable.size() - 1;
  const auto lower = [&](const std::vector<std::string>& rows, const std::string& said) {
    if (rows.empty() || index_of(rows.back()) >= lowest) return;
    lowest = index_of(rows.back());
    *by = said;
  };
  lower(out_.table.by_use_case, fmt::format("the use case {}", wishes_.use_case));
  lower(out_.table.by_budget, fmt::format("a {} budget", wishes_.budget));
  return lowest;
}

std::string Selection::too_dear(const Row& row, const Plan& plan) const {
  if (wishes_.budget_usd <= 0) return {};
  const double limit = wishes_.budget_usd;
  if (plan.predicted.cost_usd) {
    if (*plan.predicted.cost_usd <= limit) return {};
    const NamedJob* preset = find(presets_, row.config);
    const int64_t tokens = wishes_.tokens > 0 ? wishes_.tokens : tokens_of(preset->job);
    return fmt::format("{} would cost {} for {} tokens, more than {}", row.config,
                       dollars(*plan.predicted.cost_usd), human_count(tokens), dollars(limit));
  }
  if (row.usd_from <= limit) return {};
  return fmt::format(
      "the table's estimate for {} starts at {}, more than {} (what it costs on this GPU is "
      "unknown)",
      row.config, dollars(row.usd_from), dollars(limit));
}

void Selection::take(const Row& row, Plan plan, const std::string& said) {
  out_.config = row.config;
  out_.plan = std::move(plan);
  const std::string where = cards(hardware_);
  if (row.config == out_.table_choice) {
    out_.reason = fmt::format("the table's choice for {}; {}", where, said);
  } else {
    out_.reason = fmt::format("the table says {} for {}, but {}; {}", out_.table_choice, where,
                              out_.rejected.front().reason, said);
  }
  out_.reason += below_what_is_wanted();
}

// The hardware may be too small for what is wanted: said, not hidden.
std::string Selection::below_what_is_wanted() const {
  const std::vector<std::string>& rows = out_.table.by_use_case;
  if (rows.empty() || index_of(out_.config) >= index_of(rows.front())) return {};
  return fmt::format("; for {} the table has {}, which is more than this", wishes_.use_case,
                     fmt::join(rows, " or "));
}

void Selection::consider(const Row& row) {
  const NamedJob* preset = find(presets_, row.config);
  if (preset == nullptr) return;
  Placed placed = place(preset->job, hardware_, wishes_);
  const std::string said = verdict(row.config, placed, hardware_);
  Plan& plan = placed.plan;
  if (!out_.config.empty()) {
    out_.alternatives.push_back({row.config, plan.feasible, said});
    return;
  }
  if (!plan.feasible) {
    out_.rejected.push_back({row.config, false, said});
    say_larger(row, plan);
    return;
  }
  if (std::string dear = too_dear(row, plan); !dear.empty()) {
    out_.rejected.push_back({row.config, true, std::move(dear)});
    money_stopped_ = true;
    return;
  }
  take(row, std::move(plan), said);
}

// The table's smallest row asks for more than there is: what its preset's memory would say, with
// shorter sequences where its own are too long.
std::string Selection::smallest_row_by_memory() const {
  const NamedJob* preset = find(presets_, kTable[0].config);
  if (preset == nullptr) return {};
  constexpr int64_t kShortest = 1024;
  const Plan own = plan_on(preset->job, hardware_, hardware_.gpus, wishes_);
  const int64_t length = preset->job.training.seq_length;
  const auto said = [](int64_t tokens, const Plan& plan) {
    return fmt::format("{} of {} at sequences of {}", human_bytes(plan.predicted.peak_memory_bytes),
                       human_bytes(plan.memory_bytes), tokens);
  };
  if (own.feasible) {
    return fmt::format("; by memory alone it fits: {} with {}", said(length, own),
                       to_string(own.layout));
  }
  spec::JobSpec job = preset->job;
  Plan tried;
  while (job.training.seq_length / 2 >= kShortest) {
    job.training.seq_length /= 2;
    tried = plan_on(job, hardware_, hardware_.gpus, wishes_);
    if (!tried.feasible) continue;
    return fmt::format(
        "; by memory it needs {}; with --set training.seq_length={} it fits: {} with {}",
        said(length, own), job.training.seq_length, said(job.training.seq_length, tried),
        to_string(tried.layout));
  }
  return fmt::format("; by memory it needs at best {}, and does not fit at {} either",
                     said(length, own), job.training.seq_length);
}

// Nothing of the table will do: name the smallest preset, and what it would take.
void Selection::nothing_fits() {
  if (money_stopped_) {
    out_.reason = fmt::format("nothing that fits {} is within the budget: {}", cards(hardware_),
                              out_.rejected.back().reason);
  } else if (out_.rejected.empty()) {
    out_.reason =
        fmt::format(
            "no preset of the table is for {}: its smallest row is {} from "
            "{} x {:g} GB",
            cards(hardware_), kTable[0].config, kTable[0].gpus_min, kTable[0].memory_gb_min) +
        smallest_row_by_memory();
  } else {
    out_.reason = fmt::format("no preset of the table fits {}: {}", cards(hardware_),
                              out_.rejected.back().reason);
  }
  const NamedJob* smallest = find(presets_, kSmallest);
  if (smallest == nullptr) return;
  const Placed placed = place(smallest->job, hardware_, wishes_);
  const std::string said = verdict(kSmallest, placed, hardware_);
  out_.reason += "; " + said;
  if (placed.plan.feasible) out_.alternatives.push_back({kSmallest, true, said});
}

void Selection::say_larger(const Row& row, const Plan& plan) {
  out_.larger = row.config;
  out_.gpus_needed_for_larger.reset();
  const bool same_card = hardware_.gpu_memory_gb >= row.memory_gb_min;
  const bool holds = plan.feasible || plan.gpus_needed.value_or(INT64_MAX) <= hardware_.gpus;
  const std::string memory =
      holds ? fmt::format("and by memory the {} here hold it", cards(hardware_))
            : "its memory for " + needed_text(plan, hardware_);
  out_.larger_reason = fmt::format("{}: the table asks for {} x {:g} GB, {}", row.config,
                                   row.gpus_min, row.memory_gb_min, memory);
  if (!plan.feasible && !plan.gpus_needed) return;
  const int64_t needed = std::max(row.gpus_min, plan.feasible ? plan.gpus : *plan.gpus_needed);
  if (needed > hardware_.gpus) {
    out_.gpus_needed_for_larger = needed;
  } else if (!same_card) {
    out_.larger_reason += fmt::format("; what lacks are cards of {:g} GB", row.memory_gb_min);
  }
}

// The row above the table's choice: what the table asks for it, and what the memory model says.
void Selection::look_at_next_row() {
  for (const Row& row : kTable) {
    if (satisfied(row, hardware_)) continue;
    std::string said = fmt::format("the table asks for at least {} x {:g} GB for {}", row.gpus_min,
                                   row.memory_gb_min, row.config);
    const NamedJob* preset = find(presets_, row.config);
    if (out_.larger.empty() && preset != nullptr) {
      say_larger(row, plan_on(preset->job, hardware_, hardware_.gpus, wishes_));
      said = out_.larger_reason;
    }
    out_.rejected.push_back({row.config, false, std::move(said)});
    return;
  }
}

Recommendation Selection::run() {
  out_.table_choice = out_.table.by_hardware = plan::table_choice(hardware_);
  out_.table.by_use_case = rows_of(kUseCases, wishes_.use_case);
  out_.table.by_budget = rows_of(kBudgets, wishes_.budget);
  std::string by;
  const size_t last = cap(&by);
  for (size_t i = kTable.size(); i-- > 0;) {
    if (!satisfied(kTable[i], hardware_)) continue;
    if (i > last) {
      out_.rejected.push_back(
          {kTable[i].config, false,
           fmt::format("{} asks for no more than {}", by, kTable[last].config)});
    } else {
      consider(kTable[i]);
    }
  }
  if (out_.config.empty()) nothing_fits();
  look_at_next_row();
  if (const NamedJob* preset = find(presets_, out_.config))
    out_.tokens = wishes_.tokens > 0 ? wishes_.tokens : tokens_of(preset->job);
  return std::move(out_);
}

}  // namespace

const std::vector<std::string>& use_cases() {
  static const std::vector<std::string> words = words_of(kUseCases);
  return words;
}

const std::vector<std::string>& budgets() {
  static const std::vector<std::string> words = words_of(kBudgets);
  return words;
}

int64_t tokens_of(const spec::JobSpec& job) {
  const spec::TrainingSpec& t = job.training;
  const double tokens = static_cast<double>(t.max_steps) *
                        static_cast<double>(t.global_batch_size) *
                        static_cast<double>(t.seq_length);
  constexpr auto kMost = std::numeric_limits<int64_t>::max();
  if (tokens >= static_cast<double>(kMost)) return kMost;
  return t.max_steps * t.global_batch_size * t.seq_length;
}

std::string table_choice(const Hardware& hardware) {
  for (auto row = kTable.rbegin(); row != kTable.rend(); ++row) {
    if (satisfied(*row, hardware)) return row->config;
  }
  return {};
}

Recommendation recommend(const Hardware& hardware, const std::vector<NamedJob>& presets,
                         const Wishes& wishes) {
  return Selection(hardware, presets, wishes).run();
}

Recommendation recommend_on_cpus(const ClusterSpec& cluster, const std::vector<NamedJob>& presets) {
  Recommendation out;
  const NamedJob* preset = find(presets, kOnCpus);
  const std::string memory = human_bytes(smallest_memory_bytes(cluster, DeviceKind::kCpu));
  out.reason = fmt::format("there are no GPUs here, and the table starts at 1 x 24 GB");
  if (preset == nullptr) return out;
  Plan plan = plan::plan(preset->job, cluster, {.must_run = true});
  if (!plan.feasible || !plan.runnable) {
    out.reason += fmt::format(
        "; {} does not run on the CPUs: {}", kOnCpus,
        plan.feasible ? fmt::format("{}", fmt::join(plan.not_runnable, "; ")) : plan.reason);
    return out;
  }
  out.reason += fmt::format("; {} runs on the CPUs: it needs {} of {}", kOnCpus,
                            human_bytes(plan.predicted.peak_memory_bytes), memory);
  out.config = kOnCpus;
  out.tokens = tokens_of(preset->job);
  out.plan = std::move(plan);
  return out;
}

Hardware hardware_of(const ClusterSpec& cluster) {
  Hardware hardware;
  hardware.gpus = count_devices(cluster, DeviceKind::kCuda);
  if (hardware.gpus == 0) return hardware;
  hardware.gpus_per_node = 0;
  for (const Node& node : cluster.nodes) {
    int64_t here = 0;
    for (const Device& device : node.devices) {
      if (device.kind != DeviceKind::kCuda) continue;
      ++here;
      if (hardware.gpu_name.empty()) hardware.gpu_name = device.name;
    }
    hardware.gpus_per_node = std::max(hardware.gpus_per_node, here);
  }
  // Drivers keep a little: 79.6 GiB of an 80 GB card. The label is what the table speaks of.
  const double held = gpu_label_gb(smallest_memory_bytes(cluster, DeviceKind::kCuda));
  const int label = spec::gpu_label_gb(hardware.gpu_name);
  const bool like_label = label > 0 && std::abs(held - label) < 0.1 * label;
  hardware.gpu_memory_gb = like_label ? label : std::round(10 * held) / 10;
  return hardware;
}

}  // namespace dsv3::plan
