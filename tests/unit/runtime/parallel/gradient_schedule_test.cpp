// Which gradients are sent when: every element once, nothing before it is complete.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "runtime/parallel/buckets.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::parallel {
namespace {

constexpr int64_t kLayers = 4;  // 3 and an MTP module

model::ParamLayout tiny_layout() {
  return model::param_layout(testing_support::tiny_job().model);
}

std::vector<Bucket> tiny_buckets(const model::ParamLayout& layout, int64_t bytes_min) {
  return gradient_buckets(layout, layout.cut, {.num_layers = kLayers, .bytes_min = bytes_min});
}

// The event from which on a tensor's gradient is complete, told from its Hugging Face name alone.
int64_t complete_after(const std::string& name) {
  if (name == "lm_head.weight") return 0;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    if (name.starts_with("model.layers." + std::to_string(layer) + ".")) return kLayers - layer;
  }
  return kLayers + 1;
}

TEST(GradientBuckets, SendEveryElementOnce) {
  const model::ParamLayout layout = tiny_layout();
  for (const int64_t bytes_min : {int64_t{1}, int64_t{4096}, int64_t{1} << 30}) {
    std::vector<int> sent(static_cast<size_t>(layout.elements));
    for (const Bucket& bucket : tiny_buckets(layout, bytes_min)) {
      ASSERT_LT(bucket.range.begin, bucket.range.end);
      for (int64_t i = bucket.range.begin; i < bucket.range.end; ++i)
        ++sent[static_cast<size_t>(i)];
    }
    EXPECT_EQ(std::count(sent.begin(), sent.end(), 1), layout.elements) << bytes_min;
  }
}

// A bucket waits for the event of every tensor in it (norms may wait for the end), so the order of
// the events does not matter.
TEST(GradientBuckets, SendNothingThatMayStillGrow) {
  const model::ParamLayout layout = tiny_layout();
  for (const int64_t bytes_min : {int64_t{1}, int64_t{16} << 10, int64_t{1} << 30}) {
    const std::vector<Bucket> buckets = tiny_buckets(layout, bytes_min);
    for (const model::ParamSlice& slice : layout.slices) {
      const auto bucket = std::find_if(buckets.begin(), buckets.end(), [&](const Bucket& b) {
        return b.range.begin <= slice.offset && slice.offset < b.range.end;
      });
      ASSERT_NE(bucket, buckets.end());
      const auto waits_for = [&](int64_t event) {
        return std::count(bucket->events.begin(), bucket->events.end(), event) == 1;
      };
      EXPECT_TRUE(waits_for(complete_after(slice.info.name)) || waits_for(kLayers + 1))
          << slice.info.name;
      EXPECT_TRUE(std::is_sorted(bucket->events.begin(), bucket->events.end()));
    }
  }
}

TEST(GradientBuckets, SendALargeLayerWhenItIsDone) {
  const std::vector<Bucket> buckets = tiny_buckets(tiny_layout(), 1);
  for (int64_t event = 0; event <= kLayers + 1; ++event) {
    EXPECT_TRUE(std::any_of(buckets.begin(), buckets.end(), [&](const Bucket& bucket) {
      return bucket.events == std::vector<int64_t>{event};
    })) << event;
  }
}

TEST(GradientBuckets, JoinSmallNeighboursUntilTheyAreWorthSending) {
  const model::ParamLayout layout = tiny_layout();
  EXPECT_LT(tiny_buckets(layout, 16 << 10).size(), tiny_buckets(layout, 1).size());
  // All that waits is joined with the end into one.
  EXPECT_EQ(tiny_buckets(layout, int64_t{1} << 30).size(), 1u);
}

TEST(GradientBuckets, TiedEmbeddingsGoWithTheEnd) {
  spec::JobSpec job = testing_support::tiny_job();
  job.model.tie_embeddings = true;
  for (const Bucket& bucket : tiny_buckets(model::param_layout(job.model), 1)) {
    EXPECT_NE(bucket.events, std::vector<int64_t>{0});
  }
}

TEST(GradientBuckets, ClassesSummedByOtherRanksAreNotJoined) {
  const spec::ModelSpec model = testing_support::tiny_job().model;
  plan::Layout cut{.tp = 2, .ep = 2};
  const model::ParamLayout layout = model::param_layout(model, cut, {});
  const std::vector<Bucket> buckets = tiny_buckets(layout, int64_t{1} << 30);
  // Replicated, dense, experts, and the norms behind them, which are replicated.
  ASSERT_EQ(buckets.size(), 4u);
  for (const model::ParamBlock& block : layout.blocks) {
    for (const Bucket& bucket : buckets) {
      if (bucket.range.begin <= block.offset && block.offset < bucket.range.end) {
        EXPECT_EQ(bucket.cls, block.cls) << block.name;
      }
    }
  }
  // Without TP and EP all are summed by the same ranks.
  cut = {.cp = 2, .dp = 2};
  const model::ParamLayout same = model::param_layout(model, cut, {});
  EXPECT_EQ(tiny_buckets(same, int64_t{1} << 30).size(), 1u);
}

TEST(GradientBuckets, ACopiedEmbeddingIsABucketOfItsOwn) {
  const spec::ModelSpec model = testing_support::tiny_job().model;
  const plan::Layout cut{.pp = 2, .dp = 2};
  std::vector<int64_t> sizes;
  for (const int64_t stage : {0, 1}) {
    const model::ParamLayout layout = model::param_layout(model, cut, {.pp_stage = stage});
    const std::vector<Bucket> buckets = gradient_buckets(
        layout, cut, {.num_layers = kLayers, .bytes_min = int64_t{1} << 30, .copies = true});
    for (const Bucket& bucket : buckets) {
      if (bucket.copied) sizes.push_back(bucket.range.size());
    }
    EXPECT_GT(buckets.size(), 1u);
  }
  EXPECT_EQ(sizes, std::vector<int64_t>(2, 50 * 32));
}

TEST(Pieces, TileTheirRangeInWholeLines) {
  for (const int64_t lines : {0, 1, 5, 16, 97}) {
    for (const int64_t ranks : {1, 2, 3, 8}) {
      const Range range{32, 32 + 16 * lines};
      int64_t at = range.begin;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const Range piece = piece_of(range, rank, ranks);
        EXPECT_EQ(piece.begin, at);
        EXPECT_EQ(piece.size() % 16, 0);
        EXPECT_LE(piece.size(), 16 * (lines / ranks + 1));
        at = piece.end;
      }
      EXPECT_EQ(at, range.end);
    }
  }
}

}  // namespace
}  // namespace dsv3::parallel
