// The sentences; see search_reasons.h.
#include "cluster/plan/search_reasons.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"

namespace dsv3::plan {
namespace {

std::string seconds_text(double seconds) {
  return seconds < 0.1 ? fmt::format("{:.1f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
}

std::string percent_text(double percent) {
  return percent < 10 ? fmt::format("{:.1f} %", percent) : fmt::format("{:.0f} %", percent);
}

// Below what a percent with one digit tells.
constexpr double kAsFast = 0.0005;

double share_of_chosen(const Layout& chosen, const Layout& other) {
  return static_cast<double>(sequences_per_step(chosen)) /
         static_cast<double>(sequences_per_step(other));
}

}  // namespace

std::string time_line_words(const std::string& name) {
  static const std::map<std::string, std::string> words = {
      {"forward", "the forward pass"},
      {"backward", "the backward pass"},
      {"recompute", "recomputation"},
      {"pipeline_bubble", "the pipeline's bubble"},
      {"tp", "the tensor-parallel exchange"},
      {"cp", "the context-parallel exchange"},
      {"ep", "the expert exchange"},
      {"pp", "sending between stages"},
      {"dp", "the gradient exchange"},
      {"optimizer", "the optimizer"},
      {"offload", "moving the optimizer's state"}};
  const auto found = words.find(name);
  return found == words.end() ? name : found->second;
}

std::string slower_reason(const TimeModel& time, const Candidate& chosen, const Candidate& other) {
  const double scale = share_of_chosen(chosen.layout, other.layout);
  const double ratio = other.step_s * scale / chosen.step_s;
  if (ratio < 1 - kAsFast) {  // only what time_weight() holds back
    return fmt::format("{} faster, but chunks of one layer are taken for {:.0f} % only",
                       percent_text(100 * (1 - ratio)), 100 * kSingleLayerChunksGain);
  }
  if (ratio < 1 + kAsFast) return "as fast; fewer ranks to a group are preferred";
  std::map<std::string, double> more;
  for (const TimeLine& line : time.predict(other.layout).lines) {
    more[line.name] += line.seconds * scale;
  }
  for (const TimeLine& line : time.predict(chosen.layout).lines) more[line.name] -= line.seconds;
  const auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto worst = std::max_element(more.begin(), more.end(), less);
  const auto best = std::min_element(more.begin(), more.end(), less);
  const std::string slower = percent_text(100 * (ratio - 1)) + " slower: ";
  const double net = other.step_s * scale - chosen.step_s;
  // One term that explains most of it, or the two that nearly cancel.
  if (worst->second < 2 * net || -best->second < 0.25 * worst->second) {
    return fmt::format("{}{} takes {} more", slower, time_line_words(worst->first),
                       seconds_text(worst->second));
  }
  return fmt::format("{}{} +{}, {} −{}", slower, time_line_words(worst->first),
                     seconds_text(worst->second), time_line_words(best->first),
                     seconds_text(-best->second));
}

std::string too_large_reason(const MemoryModel& memory, const Candidate& candidate,
                             int64_t limit_bytes) {
  const std::vector<LedgerLine> ledger =
      memory_ledger(memory, candidate.layout, candidate.worst_stage);
  const auto largest =
      std::max_element(ledger.begin(), ledger.end(),
                       [](const LedgerLine& a, const LedgerLine& b) { return a.bytes < b.bytes; });
  return fmt::format("needs {} a rank, {} can be used ({} {} is the largest part)",
                     human_bytes(candidate.peak_bytes), human_bytes(limit_bytes), largest->name,
                     human_bytes(largest->bytes));
}

std::vector<Rejected> explain_losers(const MemoryModel& memory, const TimeModel& time,
                                     const Candidate& chosen, const std::vector<Candidate>& slower,
                                     const std::vector<Candidate>& too_large, int64_t limit_bytes) {
  std::vector<Rejected> all;
  for (size_t i = 0; i < std::max(slower.size(), too_large.size()); ++i) {
    if (i < slower.size()) {
      all.push_back({slower[i].layout, slower_reason(time, chosen, slower[i]), slower[i].peak_bytes,
                     slower[i].step_s});
    }
    if (i < too_large.size()) {
      const double gain = 1 - too_large[i].step_s *
                                  share_of_chosen(chosen.layout, too_large[i].layout) /
                                  chosen.step_s;
      all.push_back({too_large[i].layout,
                     fmt::format("would be {} faster, but {}", percent_text(100 * gain),
                                 too_large_reason(memory, too_large[i], limit_bytes)),
                     too_large[i].peak_bytes, too_large[i].step_s});
    }
  }
  return all;
}

std::vector<Rejected> explain_refused(const MemoryModel& memory, const SearchRequest& request,
                                      const std::vector<Candidate>& smallest, int64_t limit_bytes) {
  std::vector<Rejected> all;
  for (const Candidate& candidate : smallest) {
    all.push_back({candidate.layout, too_large_reason(memory, candidate, limit_bytes),
                   candidate.peak_bytes, std::nullopt});
  }
  const SearchSpace space{.job = memory.job,
                          .device = memory.device,
                          .devices_per_node = memory.devices_per_node,
                          .world = request.world,
                          .fixed_sizes = request.fixed_sizes};
  const StateChoice state = state_choices(memory.job, memory.device).front();
  std::set<std::string> faults;
  for (const Layout& axes : axes_of(space)) {
    for (const Layout& layout : variants_of(space, axes, state, /*least=*/true)) {
      if (all.size() >= kRejectedMax) return all;
      std::string fault = check_layout(memory.job, layout, memory.devices_per_node);
      if (!fault.empty() && faults.insert(fault).second) {
        all.push_back({layout, std::move(fault), 0, std::nullopt});
      }
    }
  }
  return all;
}

}  // namespace dsv3::plan
