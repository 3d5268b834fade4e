// The smallest number of devices that something fits on; see search.h.
//
// Every cut (TP, CP, PP, EP and ETP) waits in a queue under the number of ranks below which its
// states alone are too large. The first of the queue that fits is the answer; one that doesn't fit
// goes back under the next number that may do, so little beyond the answer is ever looked at.
#include <algorithm>
#include <array>
#include <queue>
#include <vector>

#include "cluster/plan/search.h"

namespace dsv3::plan {
namespace {

constexpr int64_t kFarDataRanks = int64_t{1} << 20;  // as good as infinitely many

class WorldSearch {
 public:
  WorldSearch(const MemoryModel& memory, int64_t limit_bytes, bool fixed_sizes)
      : memory_(memory),
        // Each choice holds no more than those before it.
        state_(state_choices(memory.job, memory.device).back()),
        limit_(limit_bytes),
        fixed_(fixed_sizes),
        data_(fixed_sizes ? memory.job.parallel.data_parallel_size : -1) {}

  std::optional<int64_t> run() {
    for (const Layout& cut : cuts()) push(cut, 1, /*with_rest=*/false);
    while (!queue_.empty()) {
      const Waiting first = queue_.top();
      queue_.pop();
      if (fits(first.axes)) return first.axes.world_size();
      push(first.axes, first.axes.dp + 1, /*with_rest=*/true);
    }
    return std::nullopt;
  }

 private:
  struct Waiting {
    Layout axes;
    bool operator<(const Waiting& other) const {  // the queue's top is the largest
      return axes.world_size() > other.axes.world_size();
    }
  };

  SearchSpace space(int64_t world) const {
    return {.job = memory_.job,
            .device = memory_.device,
            .devices_per_node = memory_.devices_per_node,
            .world = world,
            .fixed_sizes = fixed_};
  }

  std::vector<int64_t> sizes(int64_t given, bool keep, int64_t most) const {
    if (keep && given >= 1) return {given};
    std::vector<int64_t> found;
    for (int64_t size = 1; size <= most; ++size) found.push_back(size);
    return found;
  }

  // With one data rank; those that a model can be cut by.
  std::vector<Layout> cuts() const {
    const spec::ParallelSpec& parallel = memory_.job.parallel;
    const spec::ModelSpec& model = memory_.job.model;
    spec::JobSpec job = memory_.job;  // whose batch is looked at with the data ranks
    job.training.global_batch_size = 0;
    const SearchSpace any = space(1);
    std::vector<Layout> found;
    const int64_t context = parallel.context_parallel_size;
    for (const int64_t cp : sizes(context, true, kFreeContextMax)) {
      for (const int64_t tp : sizes(parallel.tensor_parallel_size, fixed_,
                                    std::max<int64_t>(1, memory_.devices_per_node))) {
        for (const int64_t etp : expert_tensor_sizes(any, tp)) {
          for (const int64_t ep : sizes(parallel.expert_parallel_size, fixed_,
                                        std::max<int64_t>(1, model.moe.num_experts))) {
            if (model.moe.num_experts > 0 && model.moe.num_experts % ep != 0) continue;
            const Layout flat{.tp = tp, .cp = cp, .ep = ep, .etp = etp};
            if (!check_layout(job, flat, memory_.devices_per_node).empty()) continue;
            for (const int64_t pp :
                 sizes(parallel.pipeline_parallel_size, fixed_, model.num_layers)) {
              Layout cut = flat;
              cut.pp = pp;
              if (pp <= model.num_layers && cut.world_size() <= kWorldMax) found.push_back(cut);
            }
          }
        }
      }
    }
    return found;
  }

  // Puts `axes` into the queue with the fewest data ranks, at least `least`, with which it may fit.
  void push(Layout axes, int64_t least, bool with_rest) {
    axes.dp = 1;
    const int64_t most = kWorldMax / axes.world_size();
    if (data_ >= 1) {
      axes.dp = data_;
      if (data_ >= least && data_ <= most) queue_.push({axes});
      return;
    }
    Layout far = axes;
    far.dp = kFarDataRanks;
    int64_t fewest = most + 1;
    for (Layout& variant : variants_of(space(far.world_size()), far, state_, /*least=*/true)) {
      fewest = std::min(fewest, fewest_data_ranks(std::move(variant), least, fewest, with_rest));
    }
    axes.dp = fewest;
    if (fewest <= most) queue_.push({axes});
  }

  // From `least` on, below `below`: states shrink with the data ranks, and what is beside them is
  // no less than with ever so many and one micro-batch.
  int64_t fewest_data_ranks(Layout layout, int64_t least, int64_t below, bool with_rest) const {
    layout.grad_accumulation = 1;
    const std::array<int64_t, 3> stages{0, layout.pp / 2, layout.pp - 1};
    std::array<int64_t, 3> room{};
    for (size_t i = 0; i < stages.size(); ++i) {
      room[i] = limit_;
      if (!with_rest) continue;
      room[i] -= peak_bytes(memory_, layout, stages[i]) - static_bytes(memory_, layout, stages[i]) -
                 communication_bytes(memory_, layout);
    }
    const auto may_fit = [&](int64_t dp) {
      layout.dp = dp;
      for (size_t i = 0; i < stages.size(); ++i) {
        if (static_bytes(memory_, layout, stages[i]) > room[i]) return false;
      }
      return true;
    };
    if (least >= below || !may_fit(below - 1)) return below;
    int64_t low = least, high = below - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (may_fit(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  bool fits(const Layout& axes) const {
    for (const Layout& layout :
         variants_of(space(axes.world_size()), axes, state_, /*least=*/true)) {
      if (static_exceeds(memory_, layout, limit_)) continue;
      if (!check_layout(memory_.job, layout, memory_.devices_per_node).empty()) continue;
      bool all = true;
      for (int64_t stage = 0; all && stage < layout.pp; ++stage) {
        all = peak_bytes(memory_, layout, stage) <= limit_;
      }
      if (all) return true;
    }
    return false;
  }

  const MemoryModel& memory_;
  StateChoice state_;
  int64_t limit_;
  bool fixed_;
  int64_t data_;  // ranks that the job fixes; below 1: free
  std::priority_queue<Waiting> queue_;
};

}  // namespace

std::optional<int64_t> smallest_world(const MemoryModel& memory, int64_t rank_memory_bytes,
                                      bool free_otherwise) {
  const int64_t limit = fit_limit(rank_memory_bytes);
  std::optional<int64_t> found = WorldSearch(memory, limit, /*fixed_sizes=*/true).run();
  if (found || !free_otherwise) return found;
  return WorldSearch(memory, limit, /*fixed_sizes=*/false).run();
}

}  // namespace dsv3::plan
