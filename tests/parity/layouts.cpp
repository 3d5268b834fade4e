// Choosing layouts; see layouts.h.
#include "tests/parity/layouts.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <utility>

namespace dsv3::parity {
namespace {

// A feature's number and its value's.
using Value = std::pair<int, int>;

constexpr int kAxes = 5;              // features 0 … 4
constexpr int kCut = -1;              // an axis above 1
constexpr int64_t kZeroStageMax = 2;  // 2 only without a pipeline (runtime/train/session.cpp)

std::vector<Value> values_of(const Case& c) {
  const plan::Layout& l = c.layout;
  const auto index = [](const std::string& word, std::initializer_list<const char*> words) {
    return static_cast<int>(std::find(words.begin(), words.end(), word) - words.begin());
  };
  std::vector<Value> values;
  for (const int64_t axis : {l.tp, l.cp, l.pp, l.ep, l.dp}) {
    values.emplace_back(static_cast<int>(values.size()), static_cast<int>(axis));
  }
  // A feature without meaning here has no value: it would look covered where it isn't.
  if (l.tp > 1) values.emplace_back(5, l.etp > 1);
  if (l.dense_zero_group() > 1) values.emplace_back(6, static_cast<int>(l.zero_stage));
  if (l.pp > 1) values.emplace_back(7, index(l.schedule, {"afab", "1f1b", "interleaved"}));
  values.emplace_back(8, plan::recompute_level(l.recompute));
  values.emplace_back(9, static_cast<int>(l.micro_batch));
  if (l.dense_zero_group() > 1 || l.tp > 1) values.emplace_back(10, c.overlap);
  values.emplace_back(11, c.variant.direct_query);
  const auto cut = std::count_if(values.begin(), values.begin() + kAxes,
                                 [](const Value& value) { return value.second > 1; });
  values.emplace_back(12, cut == 1);  // an axis alone: where a fault is found first
  return values;
}

// What the case covers: sets of values that it has together.
std::set<std::vector<Value>> covered_by(const Case& c) {
  std::set<std::vector<Value>> sets;
  std::vector<Value> values;
  for (const Value& value : values_of(c)) {
    if (value.first >= kAxes) {
      values.push_back(value);
    } else if (value.second > 1) {
      sets.insert({value});                    // every size of every axis
      values.emplace_back(value.first, kCut);  // beside others: that it is cut at all
    }
  }
  for (size_t a = 0; a < values.size(); ++a) {
    for (size_t b = a + 1; b < values.size(); ++b) {
      sets.insert({values[a], values[b]});
      for (size_t e = b + 1; e < values.size() && values[e].first < kAxes; ++e) {
        sets.insert({values[a], values[b], values[e]});  // three axes
      }
    }
  }
  return sets;
}

bool is_allowed(const Case& c) {
  const plan::Layout& l = c.layout;
  const int64_t share = kSequences / l.dense_dp();
  if (share == 0 || share % l.micro_batch != 0) return false;
  return plan::check_layout(parity_job(c, ""), l, 0).empty();
}

// Every choice beside the axes, where it means something.
void add_options(Case c, std::vector<Case>* cases) {
  plan::Layout& l = c.layout;
  const bool pipeline = l.pp > 1, sums = l.dense_zero_group() > 1;
  for (const int64_t etp : {int64_t{1}, l.tp}) {
    l.etp = etp;
    const int64_t zero_max = !sums ? 0 : pipeline ? 1 : kZeroStageMax;
    for (int64_t zero = 0; zero <= zero_max; ++zero) {
      l.zero_stage = zero;
      for (const char* schedule : {"1f1b", "afab", "interleaved", "zero_bubble"}) {
        l.schedule = schedule;
        l.virtual_stages = l.schedule == "interleaved" ? 2 : 1;
        for (const char* recompute : {"none", "selective", "full"}) {
          l.recompute = recompute;
          for (const int64_t micro_batch : {1, 2}) {
            l.micro_batch = micro_batch;
            l = completed(l);
            for (const bool direct : {false, true}) {
              c.variant.direct_query = direct;
              for (const bool overlap : {true, false}) {
                c.overlap = overlap;
                if (is_allowed(c)) cases->push_back(c);
              }
            }
          }
        }
        if (!pipeline) break;
      }
    }
    if (l.tp == 1) break;
  }
}

int64_t cost(const Case& c) {
  return c.layout.world_size() + 2;  // of running it, about
}

Case special(plan::Layout layout, Variant variant) {
  return {.variant = variant, .layout = completed(layout)};
}

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  constexpr std::array<int64_t, 4> kSizes = {1, 2, 4, 8};
  for (const int64_t world : {2, 4, 8})
    for (const int64_t tp : kSizes)
      for (const int64_t cp : kSizes)
        for (const int64_t pp : kSizes)
          for (const int64_t ep : kSizes)
            for (const int64_t dp : kSizes) {
              Case c;
              c.layout.tp = tp;
              c.layout.cp = cp;
              c.layout.pp = pp;
              c.layout.ep = ep;
              c.layout.dp = dp;
              if (c.layout.world_size() == world) add_options(c, &cases);
            }
  return cases;
}

std::vector<Case> chosen_cases() {
  const std::vector<Case> all = all_cases();
  std::vector<std::set<std::vector<Value>>> covered;
  std::set<std::vector<Value>> open;
  for (const Case& c : all) {
    covered.push_back(covered_by(c));
    open.insert(covered.back().begin(), covered.back().end());
  }
  std::vector<Case> chosen;
  while (!open.empty()) {
    std::vector<size_t> best;  // equally good ones: taken in turn, so that the rest varies too
    double most = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const auto fresh = std::count_if(covered[i].begin(), covered[i].end(),
                                       [&](const auto& set) { return open.contains(set); });
      const double worth = static_cast<double>(fresh) / static_cast<double>(cost(all[i]));
      if (worth > most) best.clear();
      if (worth >= most) best.push_back(i);
      most = std::max(most, worth);
    }
    const size_t taken = best[chosen.size() * 7919 % best.size()];
    for (const auto& set : covered[taken]) open.erase(set);
    chosen.push_back(all[taken]);
  }
  const Variant capacity{.capacity_factor = 1.0};
  chosen.push_back(special({.tp = 2, .cp = 2, .zero_stage = 1}, capacity));
  chosen.push_back(special({.cp = 2, .pp = 2, .ep = 2, .zero_stage = 1}, capacity));
  chosen.push_back(special({.tp = 2, .pp = 2, .dp = 2, .zero_stage = 1}, {.tied = true}));
  // Stages as given: one of them without experts; chunks of unequal size.
  chosen.push_back(
      special({.pp = 4, .ep = 2, .zero_stage = 1, .pipeline_layers = {1, 3, 3, 1}}, {}));
  chosen.push_back(special({.tp = 2,
                            .pp = 2,
                            .zero_stage = 0,
                            .schedule = "interleaved",
                            .virtual_stages = 2,
                            .pipeline_layers = {3, 1, 2, 2}},
                           {}));
  return chosen;
}

}  // namespace dsv3::parity
