// Which gradients are sent when: every element once, nothing before it is complete.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "runtime/parallel/gradient_sync.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::parallel {
namespace {

constexpr int64_t kLayers = 4;  // 3 and an MTP module

model::ParamLayout tiny_layout() {
  return model::param_layout(testing_support::tiny_job().model);
}

// The event from which on a tensor's gradient is complete, told from its Hugging Face name alone.
size_t complete_after(const std::string& name) {
  if (name == "lm_head.weight") return 0;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    if (name.starts_with("model.layers." + std::to_string(layer) + ".")) {
      return static_cast<size_t>(kLayers - layer);
    }
  }
  return kLayers + 1;
}

TEST(GradientSchedule, SendsEveryElementOnce) {
  const model::ParamLayout layout = tiny_layout();
  for (const int64_t bytes_min : {int64_t{1}, int64_t{4096}, int64_t{1} << 30}) {
    std::vector<int> sent(static_cast<size_t>(layout.elements));
    for (const auto& event : gradient_schedule(layout, kLayers, bytes_min)) {
      for (const Range& range : event) {
        ASSERT_LT(range.begin, range.end);
        for (int64_t i = range.begin; i < range.end; ++i) ++sent[static_cast<size_t>(i)];
      }
    }
    EXPECT_EQ(std::count(sent.begin(), sent.end(), 1), layout.elements) << bytes_min;
  }
}

TEST(GradientSchedule, SendsNothingThatMayStillGrow) {
  const model::ParamLayout layout = tiny_layout();
  const auto schedule = gradient_schedule(layout, kLayers, 1);
  for (const model::ParamSlice& slice : layout.slices) {
    size_t event = 0;
    while (std::none_of(schedule[event].begin(), schedule[event].end(), [&](const Range& range) {
      return range.begin <= slice.offset && slice.offset < range.end;
    })) {
      ++event;
    }
    EXPECT_GE(event, complete_after(slice.info.name)) << slice.info.name;
  }
}

TEST(GradientSchedule, SendsALargeLayerWhenItIsDone) {
  const auto schedule = gradient_schedule(tiny_layout(), kLayers, 1);
  ASSERT_EQ(schedule.size(), kLayers + 2u);
  for (size_t event = 0; event <= kLayers; ++event) {
    EXPECT_FALSE(schedule[event].empty()) << event;
  }
}

TEST(GradientSchedule, JoinsSmallNeighboursUntilTheyAreWorthSending) {
  const model::ParamLayout layout = tiny_layout();
  const auto count = [&layout](int64_t bytes_min) {
    size_t ranges = 0;
    for (const auto& event : gradient_schedule(layout, kLayers, bytes_min)) ranges += event.size();
    return ranges;
  };
  EXPECT_LT(count(16 << 10), count(1));
  // All that waits is joined with the end into one.
  EXPECT_EQ(count(int64_t{1} << 30), 1u);
}

TEST(GradientSchedule, TiedEmbeddingsGoWithTheEnd) {
  spec::JobSpec job = testing_support::tiny_job();
  job.model.tie_embeddings = true;
  const model::ParamLayout layout = model::param_layout(job.model);
  const auto schedule = gradient_schedule(layout, kLayers, 1);
  EXPECT_TRUE(schedule[0].empty());
}

}  // namespace
}  // namespace dsv3::parallel
