// Best first by lower bounds; see search.h.
#include "cluster/plan/search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "cluster/plan/capability.h"
#include "cluster/plan/search_reasons.h"

namespace dsv3::plan {
namespace {

// Times this close are equal: what is left is rounding.
constexpr double kEqual = 1e-9;
// How far beyond the chosen layout runners-up are looked for.
constexpr size_t kRunnersUpMax = 12;
constexpr size_t kTooLargeMax = 12;
constexpr int64_t kVisitsMax = 600;

using Axes = std::array<int64_t, 4>;
Axes axes_key(const Layout& layout) {
  return {layout.tp, layout.cp, layout.pp, layout.ep};
}

Candidate measure(const MemoryModel& memory, const Layout& layout) {
  Candidate candidate{.layout = layout};
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    const int64_t bytes = peak_bytes(memory, layout, stage);
    if (stage > 0 && bytes <= candidate.peak_bytes) continue;
    candidate.peak_bytes = bytes;
    candidate.worst_stage = stage;
  }
  return candidate;
}

SearchSpace space_of(const MemoryModel& memory, const SearchRequest& request) {
  return {.job = memory.job,
          .device = memory.device,
          .devices_per_node = memory.devices_per_node,
          .world = request.world,
          .fixed_sizes = request.fixed_sizes,
          .as_given = request.as_given};
}

bool wanted(const MemoryModel& memory, const SearchRequest& request, const Layout& layout) {
  if (layout.offload_optimizer && request.host_memory_bytes > 0 &&
      host_bytes_of_node(memory, layout) > request.host_memory_bytes) {
    return false;
  }
  return !request.runnable_only || missing_capabilities(memory.job, layout, memory.device).empty();
}

struct Ranked {
  double bound_s = 0;  // of a sequence: without a global batch, layouts take different ones
  size_t at = 0;
};

// One search under fixed dtypes.
class Search {
 public:
  Search(const MemoryModel& memory, const TimeModel& time, const SearchRequest& request,
         const StateChoice& state)
      : memory_(memory),
        time_(time),
        request_(request),
        state_(state),
        limit_(fit_limit(request.rank_memory_bytes)) {}

  SearchResult run() {
    collect();
    std::stable_sort(ranked_.begin(), ranked_.end(),
                     [](const Ranked& a, const Ranked& b) { return a.bound_s < b.bound_s; });
    size_t at = 0;
    for (; at < ranked_.size() && !beyond_best(ranked_[at]); ++at) visit(layouts_[ranked_[at].at]);
    if (best_) look_for_runners_up(at);
    return result();
  }

 private:
  void collect() {
    const SearchSpace space = space_of(memory_, request_);
    std::set<std::string> faults;
    for (const Layout& axes : axes_of(space)) {
      // Static bytes vary with these alone.
      std::map<std::pair<int64_t, int64_t>, bool> exceeds;  // by ZeRO stage and virtual stages
      for (Layout& layout : variants_of(space, axes, state_)) {
        if (!wanted(memory_, request_, layout)) continue;
        std::string fault = check_layout(memory_.job, layout, memory_.devices_per_node);
        if (!fault.empty()) {
          if (faults.size() < kRejectedMax && faults.insert(fault).second) {
            illegal_.push_back({layout, std::move(fault), 0, std::nullopt});
          }
          continue;
        }
        ++legal_;
        const auto [known, is_new] =
            exceeds.try_emplace({layout.zero_stage, layout.virtual_stages}, false);
        if (is_new) known->second = static_exceeds(memory_, layout, limit_);
        if (known->second) continue;
        const double bound = time_.lower_bound(layout) * time_weight(memory_.job.model, layout);
        ranked_.push_back(
            {bound / static_cast<double>(sequences_per_step(layout)), layouts_.size()});
        layouts_.push_back(std::move(layout));
      }
    }
  }

  bool beyond_best(const Ranked& ranked) const {
    return best_ && ranked.bound_s > best_s_ * (1 + kEqual);
  }

  // What layouts are compared by.
  double per_sequence(const Candidate& candidate) const {
    return candidate.step_s * time_weight(memory_.job.model, candidate.layout) /
           static_cast<double>(sequences_per_step(candidate.layout));
  }

  void visit(const Layout& layout) {
    Candidate candidate = measure(memory_, layout);
    if (candidate.peak_bytes > limit_) {
      note_too_large(std::move(candidate));
      return;
    }
    candidate.step_s = time_.step_seconds(layout);
    const double seconds = per_sequence(candidate);
    const bool equal = best_ && std::abs(seconds - best_s_) <= kEqual * best_s_;
    if (!best_ || (equal ? preferred(layout, best_->layout) : seconds < best_s_)) {
      best_s_ = best_ && equal ? std::min(best_s_, seconds) : seconds;
      if (best_) others_.push_back(std::move(*best_));
      best_ = std::move(candidate);
    } else {
      others_.push_back(std::move(candidate));
    }
  }

  // Of each size of axes the one that comes closest to fitting.
  void note_too_large(Candidate candidate) {
    const auto [at, is_new] = too_large_.try_emplace(axes_key(candidate.layout), candidate);
    if (!is_new && candidate.peak_bytes < at->second.peak_bytes) at->second = std::move(candidate);
  }

  // Those that would be faster if they fitted, the smallest first.
  std::vector<Candidate> faster_but_too_large() const {
    std::vector<Candidate> found;
    for (const auto& [axes, candidate] : too_large_) {
      found.push_back(candidate);
      found.back().step_s = time_.step_seconds(candidate.layout);
    }
    const auto seconds = [](const Candidate& c) {
      return c.step_s / static_cast<double>(sequences_per_step(c.layout));
    };
    std::erase_if(found, [&](const Candidate& c) {
      return per_sequence(c) >= best_s_ || seconds(c) >= seconds(*best_);
    });
    std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
      return a.peak_bytes < b.peak_bytes;
    });
    if (found.size() > kTooLargeMax) found.resize(kTooLargeMax);
    return found;
  }

  // Beyond the best: layouts with other axes, until there are enough.
  void look_for_runners_up(size_t at) {
    std::set<Axes> seen{axes_key(best_->layout)};
    for (const Candidate& other : others_) seen.insert(axes_key(other.layout));
    for (int64_t visits = 0; at < ranked_.size() && visits < kVisitsMax; ++at) {
      if (seen.size() > kRunnersUpMax) return;
      const Layout& layout = layouts_[ranked_[at].at];
      if (seen.count(axes_key(layout)) > 0) continue;
      ++visits;
      Candidate candidate = measure(memory_, layout);
      if (candidate.peak_bytes > limit_) continue;
      candidate.step_s = time_.step_seconds(layout);
      seen.insert(axes_key(layout));
      others_.push_back(std::move(candidate));
    }
  }

  SearchResult result() {
    SearchResult found{.chosen = best_,
                       .legal = legal_,
                       .runnable_only = request_.runnable_only,
                       .as_given = request_.as_given};
    if (best_) {
      std::stable_sort(others_.begin(), others_.end(),
                       [this](const Candidate& a, const Candidate& b) {
                         return per_sequence(a) < per_sequence(b);
                       });
      std::set<Axes> seen{axes_key(best_->layout)};
      std::erase_if(others_, [&seen](const Candidate& other) {
        return !seen.insert(axes_key(other.layout)).second;
      });
      if (others_.size() > kRunnersUpMax) others_.resize(kRunnersUpMax);
      if (!others_.empty()) found.next = others_.front();
      found.rejected =
          explain_losers(memory_, time_, *best_, others_, faster_but_too_large(), limit_);
    }
    for (Rejected& fault : illegal_) {
      if (found.rejected.size() < kRejectedMax) found.rejected.push_back(std::move(fault));
    }
    return found;
  }

  const MemoryModel& memory_;
  const TimeModel& time_;
  const SearchRequest& request_;
  const StateChoice& state_;
  int64_t limit_;
  int64_t legal_ = 0;
  std::vector<Layout> layouts_;
  std::vector<Ranked> ranked_;
  std::optional<Candidate> best_;
  double best_s_ = 0;
  std::vector<Candidate> others_;  // fit and are no faster
  std::map<Axes, Candidate> too_large_;
  std::vector<Rejected> illegal_;
};

}  // namespace

// The ends of a pipeline hold the tables and the middle most layers: one of these three usually
// holds most. Any of them is a lower bound.
bool static_exceeds(const MemoryModel& memory, const Layout& layout, int64_t limit_bytes) {
  for (const int64_t stage : {int64_t{0}, layout.pp / 2, layout.pp - 1}) {
    if (static_bytes(memory, layout, stage) > limit_bytes) return true;
  }
  return false;
}

int64_t host_bytes_of_node(const MemoryModel& memory, const Layout& layout) {
  Layout kept = layout;
  kept.offload_optimizer = false;
  int64_t most = 0;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    most = std::max(most, optimizer_bytes(memory, kept, stage));
  }
  return most * std::min(layout.world_size(), std::max<int64_t>(1, memory.devices_per_node));
}

int64_t fit_limit(int64_t rank_memory_bytes) {
  return static_cast<int64_t>(kFitShare * static_cast<double>(rank_memory_bytes));
}

std::optional<Candidate> smallest(const MemoryModel& memory, const SearchRequest& request,
                                  const StateChoice& state, int64_t enough_bytes) {
  const SearchSpace space = space_of(memory, request);
  std::optional<Candidate> least;
  for (const Layout& axes : axes_of(space)) {
    for (const Layout& layout : variants_of(space, axes, state, /*least=*/true)) {
      if (least && static_exceeds(memory, layout, least->peak_bytes)) continue;
      if (!wanted(memory, request, layout)) continue;
      if (!check_layout(memory.job, layout, memory.devices_per_node).empty()) continue;
      Candidate candidate = measure(memory, layout);
      const bool better =
          !least || candidate.peak_bytes < least->peak_bytes ||
          (candidate.peak_bytes == least->peak_bytes && preferred(layout, least->layout));
      if (better) least = std::move(candidate);
      if (least->peak_bytes <= enough_bytes) return least;
    }
  }
  return least;
}

SearchResult search(const MemoryModel& memory, const TimeModel& time,
                    const SearchRequest& request) {
  const int64_t limit = fit_limit(request.rank_memory_bytes);
  std::vector<Candidate> tried;  // the smallest under each choice of dtypes
  std::vector<StateChoice> states = state_choices(memory.job, memory.device);
  // On CPUs a plan is what is launched: precision is given up for a run, not for a plan alone.
  if (memory.device == DeviceKind::kCpu && !request.runnable_only) states.resize(1);
  SearchRequest given = request;
  given.as_given = true;
  const bool whole = is_given_whole(space_of(memory, request));
  for (const StateChoice& state : states) {
    if (whole) {
      SearchResult found = Search(memory, time, given, state).run();
      if (found.chosen) {
        if (!tried.empty()) found.unlowered = tried.front();
        return found;
      }
    }
    std::optional<Candidate> least = smallest(memory, request, state, limit);
    if (!least) continue;  // not legal, or the host has no room for it
    if (least->peak_bytes <= limit) {
      SearchResult found = Search(memory, time, request, state).run();
      if (!tried.empty()) found.unlowered = tried.front();
      return found;
    }
    tried.push_back(std::move(*least));
  }
  SearchResult none;
  // On CPUs the job's own dtypes come first: more memory is what would help.
  if (memory.device == DeviceKind::kCuda) {
    std::stable_sort(tried.begin(), tried.end(), [](const Candidate& a, const Candidate& b) {
      return a.peak_bytes < b.peak_bytes;
    });
  }
  if (!tried.empty()) none.closest = tried.front();
  none.rejected = explain_refused(memory, request, tried, limit);
  return none;
}

}  // namespace dsv3::plan
