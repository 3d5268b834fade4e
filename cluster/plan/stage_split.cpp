// Two passes of dynamic programming; see stage_split.h.
#include "cluster/plan/stage_split.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace dsv3::plan {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

class Split {
 public:
  Split(const LayerCosts& costs, int64_t stages)
      : layers_(static_cast<int64_t>(costs.layers.size())),
        stages_(stages),
        costs_(costs),
        before_(costs.layers.size() + 1) {
    for (size_t i = 0; i < costs.layers.size(); ++i) before_[i + 1] = before_[i] + costs.layers[i];
  }

  std::vector<int64_t> run() {
    const auto most = [](double rest, double stage) { return std::max(rest, stage); };
    const double bound = best(most, kNever) * (1 + 1e-12);
    best([](double rest, double stage) { return rest + stage * stage; }, bound);
    std::vector<int64_t> split;
    for (int64_t stage = 0, first = 0; stage < stages_; ++stage) {
      const int64_t end = ends_[at(stage, first)];
      split.push_back(end - first);
      first = end;
    }
    return split;
  }

 private:
  size_t at(int64_t stage, int64_t first) const {
    return static_cast<size_t>(stage * (layers_ + 1) + first);
  }
  double cost(int64_t stage, int64_t first, int64_t end) const {
    return before_[static_cast<size_t>(end)] - before_[static_cast<size_t>(first)] +
           (stage == 0 ? costs_.first : 0) + (stage == stages_ - 1 ? costs_.last : 0);
  }

  // The least of `join` over the stages from each on, where no stage costs more than `bound`; fills
  // ends_.
  template <typename Join>
  double best(const Join& join, double bound) {
    // By stage and its first layer: of that stage and those behind it.
    std::vector<double> least(static_cast<size_t>((stages_ + 1) * (layers_ + 1)), kNever);
    ends_.assign(least.size(), 0);
    least[at(stages_, layers_)] = 0;
    for (int64_t stage = stages_ - 1; stage >= 0; --stage) {
      for (int64_t first = stage; first <= layers_ - (stages_ - stage); ++first) {
        for (int64_t end = first + 1; end <= layers_ - (stages_ - stage - 1); ++end) {
          const double here = cost(stage, first, end);
          if (here > bound) break;
          const double all = join(least[at(stage + 1, end)], here);
          if (all >= least[at(stage, first)] * (1 - 1e-12) || all == kNever) continue;
          least[at(stage, first)] = all;
          ends_[at(stage, first)] = end;
        }
      }
    }
    return least[at(0, 0)];
  }

  int64_t layers_;
  int64_t stages_;
  const LayerCosts& costs_;
  std::vector<double> before_;  // the sum of the layers before each
  std::vector<int64_t> ends_;
};

}  // namespace

std::vector<int64_t> split_by_cost(const LayerCosts& costs, int64_t stages) {
  DSV3_CHECK(stages >= 1 && stages <= static_cast<int64_t>(costs.layers.size()));
  return Split(costs, stages).run();
}

LayerCosts layer_costs(const spec::ModelSpec& model, const ModelTimes& times) {
  const auto seconds = [](const LayerTime& time) {
    return time.forward.total() + time.backward.total();
  };
  LayerCosts costs;
  for (int64_t layer = 0; layer < model.num_layers; ++layer) {
    costs.layers.push_back(seconds(model.is_moe_layer(layer) ? times.routed : times.dense));
  }
  costs.first = seconds(times.embedding);
  costs.last = seconds(times.head) + static_cast<double>(model.mtp_layers) * seconds(times.mtp);
  return costs;
}

}  // namespace dsv3::plan
