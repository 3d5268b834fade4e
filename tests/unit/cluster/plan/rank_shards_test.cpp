// What each rank holds, against an enumeration of every rank and every element, with rules told
// from Hugging Face names alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cluster/plan/shard_map.h"
#include "tests/unit/cluster/plan/many_layouts.h"

namespace dsv3::plan {
namespace {

bool in(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}
bool is_expert(const std::string& name) {
  return in(name, ".mlp.experts.");
}
// What every TP rank holds whole.
bool is_replicated(const std::string& name) {
  return in(name, "norm") || in(name, "q_a_proj") || in(name, "kv_a_proj") ||
         in(name, ".mlp.gate.weight");
}
bool is_embedding(const std::string& name) {
  return in(name, "embed_tokens");
}

int64_t expected_holders(const std::string& name, const Layout& layout, bool copied) {
  if (is_expert(name)) return layout.cp * layout.dp;
  int64_t holders = layout.cp * layout.ep * layout.dp;
  if (is_replicated(name)) holders *= layout.tp;
  if (is_embedding(name) && copied) holders *= 2;
  return holders;
}

// The stage of every layer, dealt out chunk by chunk.
std::vector<int64_t> stage_of_layers(const Layout& layout, int64_t num_layers) {
  const int64_t chunks = layout.schedule == "interleaved" ? layout.virtual_stages : 1;
  const std::vector<int64_t> lengths = split_layers(num_layers, layout.pp * chunks);
  std::vector<int64_t> stages;
  for (size_t virtual_stage = 0; virtual_stage < lengths.size(); ++virtual_stage) {
    for (int64_t i = 0; i < lengths[virtual_stage]; ++i)
      stages.push_back(static_cast<int64_t>(virtual_stage) % layout.pp);
  }
  return stages;
}

class RankShards : public ::testing::TestWithParam<bool> {
 protected:
  const spec::ModelSpec model_ = enumerable_model(GetParam());
};

TEST_P(RankShards, HoldEveryElementAsOftenAsItsClassSays) {
  for (const Layout& layout : many_layouts(12)) {
    const RankGrid grid(layout);
    std::map<std::string, std::vector<int64_t>> holders;
    for (const spec::TensorInfo& tensor : spec::model_tensors(model_))
      holders[tensor.name].resize(static_cast<size_t>(tensor.num_elements()));
    for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
      for (const TensorShard& shard : rank_shards(model_, layout, grid.position(rank))) {
        std::vector<int64_t>& counts = holders.at(shard.tensor.name);
        const Box& box = shard.box;
        for (int64_t row = box.row; row < box.row + box.rows; ++row) {
          for (int64_t col = box.col; col < box.col + box.cols; ++col)
            ++counts.at(static_cast<size_t>(row * shard.tensor.shape.back() + col));
        }
      }
    }
    const bool copied = layout.pp > 1;  // MTP reads it
    for (const auto& [name, counts] : holders) {
      const int64_t want = expected_holders(name, layout, copied);
      EXPECT_EQ(std::count(counts.begin(), counts.end(), want), static_cast<int64_t>(counts.size()))
          << name << ", " << to_string(layout) << " etp " << layout.etp;
    }
  }
}

TEST_P(RankShards, LieOnTheStageOfTheirLayerAndSumUpToTheCounts) {
  const ShardedCounts counts(model_);
  for (const Layout& layout : many_layouts(12)) {
    const std::vector<int64_t> stages = stage_of_layers(layout, model_.num_layers);
    const RankGrid grid(layout);
    for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
      const RankPosition position = grid.position(rank);
      LocalParams held;
      for (const TensorShard& shard : rank_shards(model_, layout, position)) {
        const spec::TensorInfo& tensor = shard.tensor;
        (is_expert(tensor.name) ? held.experts : held.dense) += shard.box.num_elements();
        if (layout.tp > 1 && is_replicated(tensor.name))
          held.replicated += shard.box.num_elements();
        if (tensor.shape.size() == 1 || tensor.name.ends_with(".mlp.gate.weight"))
          held.in_f32 += shard.box.num_elements();
        const bool in_layer = tensor.layer >= 0 && tensor.layer < model_.num_layers;
        const int64_t stage = in_layer ? stages[static_cast<size_t>(tensor.layer)]
                              : is_embedding(tensor.name) && position.pp_stage == 0 ? 0
                                                                                    : layout.pp - 1;
        EXPECT_EQ(position.pp_stage, stage) << tensor.name << ", " << to_string(layout);
      }
      EXPECT_EQ(held, counts.stage(layout, position.pp_stage))
          << "rank " << rank << ", " << to_string(layout) << " etp " << layout.etp;
    }
  }
}

TEST_P(RankShards, AreSummedByTheRanksThatHoldThem) {
  for (const Layout& layout : many_layouts(8)) {
    for (const TensorShard& shard : rank_shards(model_, layout, {})) {
      const std::string& name = shard.tensor.name;
      const ParamClass want = is_expert(name)                        ? ParamClass::kExpert
                              : layout.tp > 1 && is_replicated(name) ? ParamClass::kReplicated
                                                                     : ParamClass::kDense;
      EXPECT_EQ(shard.cls, want) << name << ", " << to_string(layout);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Embeddings, RankShards, ::testing::Bool(), [](const auto& tied) {
  return std::string(tied.param ? "Tied" : "Apart");
});

// Experts lie in order over the group that exchanges their tokens.
TEST(RankShards, ExpertsFollowTheOrderOfTheirGroup) {
  const spec::ModelSpec model = enumerable_model();
  for (const Layout& layout : many_layouts(12)) {
    const RankGrid grid(layout);
    const AxisSet axes = layout.etp > 1 ? kEpGroup : kExpertShardGroup;
    for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
      const std::vector<int64_t> group = grid.group_of(rank, axes);
      const auto member = std::find(group.begin(), group.end(), rank) - group.begin();
      const int64_t each = model.moe.num_experts / static_cast<int64_t>(group.size());
      for (const TensorShard& shard : rank_shards(model, layout, grid.position(rank))) {
        if (shard.tensor.expert < 0) continue;
        EXPECT_EQ(shard.tensor.expert / each, member) << to_string(layout);
        // Gate and up are cut by rows, down by columns: along the width.
        const Box& box = shard.box;
        const int64_t width = in(shard.tensor.name, "down_proj") ? box.cols : box.rows;
        EXPECT_EQ(width, model.moe.expert_intermediate_size / layout.etp);
      }
    }
  }
}

// Without MTP and with a head of its own the embedding is held once.
TEST(RankShards, TheEmbeddingIsCopiedOnlyWhereItIsRead) {
  const Layout layout{.pp = 2};
  EXPECT_FALSE(copies_embedding(enumerable_model(false, 0), layout));
  EXPECT_TRUE(copies_embedding(enumerable_model(true, 0), layout));
  EXPECT_TRUE(copies_embedding(enumerable_model(false, 1), layout));
  EXPECT_FALSE(copies_embedding(enumerable_model(false, 1), Layout{.dp = 2}));
  for (const TensorShard& shard :
       rank_shards(enumerable_model(false, 0), layout, {.pp_stage = 1})) {
    EXPECT_FALSE(is_embedding(shard.tensor.name));
  }
}

}  // namespace
}  // namespace dsv3::plan
