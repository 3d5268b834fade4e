// Who updates and represents what, enumerated over every rank and every element of many layouts.
#include "runtime/parallel/ownership.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "tests/unit/cluster/plan/many_layouts.h"

namespace dsv3::parallel {
namespace {

using Counts = std::map<std::string, std::vector<int64_t>>;

Counts zeros(const spec::ModelSpec& model) {
  Counts counts;
  for (const spec::TensorInfo& tensor : spec::model_tensors(model))
    counts[tensor.name].resize(static_cast<size_t>(tensor.num_elements()));
  return counts;
}

// Adds one for every element of the model that lies in `ranges`.
void count(const model::ParamLayout& params, const std::vector<Range>& ranges, Counts* counts) {
  std::vector<bool> inside(static_cast<size_t>(params.elements));
  for (const Range& range : ranges)
    std::fill(inside.begin() + range.begin, inside.begin() + range.end, true);
  for (const model::ParamSlice& slice : params.slices) {
    std::vector<int64_t>& of_tensor = counts->at(slice.info.name);
    const plan::Box& box = slice.box;
    for (int64_t i = 0; i < box.num_elements(); ++i) {
      const int64_t row = box.row + i / box.cols, col = box.col + i % box.cols;
      of_tensor[static_cast<size_t>(row * slice.info.shape.back() + col)] +=
          inside[static_cast<size_t>(slice.offset + i)];
    }
  }
}

struct Owned {
  model::ParamLayout params;
  Ownership ownership;
};

Owned owned(const spec::ModelSpec& model, const plan::Layout& cut,
            const plan::RankPosition& position, int64_t zero_stage, int64_t bytes_min) {
  Owned result{model::param_layout(model, cut, position), {}};
  const std::vector<Bucket> buckets =
      gradient_buckets(result.params, cut,
                       {.num_layers = model.num_layers + model.mtp_layers,
                        .bytes_min = bytes_min,
                        .copies = plan::copies_embedding(model, cut)});
  result.ownership = ownership(buckets, cut, position, zero_stage);
  return result;
}

bool all_are(const std::vector<int64_t>& counts, int64_t value) {
  return std::all_of(counts.begin(), counts.end(), [value](int64_t c) { return c == value; });
}

TEST(Ownership, RepresentsEveryElementOfTheModelOnce) {
  const spec::ModelSpec model = plan::enumerable_model();
  const std::vector<plan::Layout> layouts = plan::many_layouts(12);
  ASSERT_GE(layouts.size(), 30u);
  for (const plan::Layout& cut : layouts) {
    const plan::RankGrid grid(cut);
    for (const int64_t zero_stage : {0, 1}) {
      Counts represented = zeros(model), updated = zeros(model);
      for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
        const Owned o = owned(model, cut, grid.position(rank), zero_stage, 4096);
        count(o.params, o.ownership.represented, &represented);
        count(o.params, o.ownership.updated, &updated);
        if (zero_stage == 0) {
          EXPECT_EQ(o.ownership.updated, (std::vector<Range>{{0, o.params.elements}}));
        }
      }
      for (const auto& [name, counts] : represented)
        EXPECT_TRUE(all_are(counts, 1)) << name << ", " << plan::to_string(cut);
      if (zero_stage == 0) continue;
      const bool copied = cut.pp > 1;
      for (const auto& [name, counts] : updated) {
        const bool twice = copied && name.find("embed_tokens") != std::string::npos;
        EXPECT_TRUE(all_are(counts, twice ? 2 : 1)) << name << ", " << plan::to_string(cut);
      }
    }
  }
}

// In bf16 under ZeRO 1: what is updated and what is read in f32, nothing else; a class that one
// rank sums is updated, and so kept, whole. In f32 and under ZeRO 0: all.
TEST(Ownership, KeepsTheMasterOfWhatItUpdatesAndOfWhatIsReadInF32) {
  const spec::ModelSpec model = plan::enumerable_model();
  for (const plan::Layout& cut : plan::many_layouts(8)) {
    const plan::RankGrid grid(cut);
    for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
      const Owned o = owned(model, cut, grid.position(rank), 1, 4096);
      const std::vector<Range> all{{0, o.params.elements}};
      const std::vector<Range>& updated = o.ownership.updated;
      EXPECT_EQ(master_ranges(o.params, updated, DType::kF32), all);
      EXPECT_EQ(master_ranges(o.params, all, DType::kBf16), all);
      std::vector<bool> want(static_cast<size_t>(o.params.elements)), kept = want;
      for (const Range& range : updated)
        std::fill(want.begin() + range.begin, want.begin() + range.end, true);
      std::fill(want.begin() + o.params.compute_elements, want.end(), true);
      int64_t end = -1;
      for (const Range& range : master_ranges(o.params, updated, DType::kBf16)) {
        EXPECT_GT(range.begin, end);  // joined, so they don't touch
        std::fill(kept.begin() + range.begin, kept.begin() + range.end, true);
        end = range.end;
      }
      EXPECT_EQ(kept, want) << plan::to_string(cut);
    }
  }
}

TEST(Ownership, OfARankAloneIsOneRange) {
  const spec::ModelSpec model = plan::enumerable_model();
  for (const int64_t zero_stage : {0, 1}) {
    const Owned o = owned(model, {}, {}, zero_stage, 4096);
    const std::vector<Range> everything{{0, o.params.elements}};
    EXPECT_EQ(o.ownership.updated, everything);
    EXPECT_EQ(o.ownership.represented, everything);
    EXPECT_EQ(Ownership::whole(o.params).updated, everything);
    EXPECT_EQ(Ownership::whole(o.params).represented, everything);
  }
}

TEST(Ownership, RangesAscendInWholeLinesAndAreEvenOverTheRanks) {
  const spec::ModelSpec model = plan::enumerable_model();
  const plan::Layout cut{.cp = 2, .ep = 2, .dp = 2};
  const plan::RankGrid grid(cut);
  int64_t least = INT64_MAX, most = 0;
  for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
    const Owned o = owned(model, cut, grid.position(rank), 1, 4096);
    int64_t end = -1;
    for (const Range& range : o.ownership.updated) {
      EXPECT_GT(range.begin, end);  // joined, so they don't touch
      EXPECT_GT(range.size(), 0);
      EXPECT_EQ(range.begin % 16, 0);
      EXPECT_EQ(range.end % 16, 0);
      end = range.end;
    }
    EXPECT_EQ(o.ownership.represented, o.ownership.updated);
    least = std::min(least, num_elements(o.ownership.updated));
    most = std::max(most, num_elements(o.ownership.updated));
  }
  EXPECT_LT(most - least, 16 * 30);  // a line a bucket
}

}  // namespace
}  // namespace dsv3::parallel
