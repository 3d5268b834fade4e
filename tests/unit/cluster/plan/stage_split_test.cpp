// Splits by cost against every split there is; and given splits through the planner.
#include "cluster/plan/stage_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "cluster/plan/compare.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/search_space.h"
#include "cluster/plan/shard_map.h"
#include "cluster/plan/time_model.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::free_job;
using testing::table_job;
using Split = std::vector<int64_t>;

struct Judged {
  double most = 0;     // of one stage
  double squares = 0;  // sum of the stages'
};
Judged judge(const LayerCosts& costs, const Split& split) {
  Judged judged;
  size_t layer = 0;
  for (size_t stage = 0; stage < split.size(); ++stage) {
    double sum = (stage == 0 ? costs.first : 0) + (stage + 1 == split.size() ? costs.last : 0);
    for (int64_t i = 0; i < split[stage]; ++i) sum += costs.layers[layer++];
    judged.most = std::max(judged.most, sum);
    judged.squares += sum * sum;
  }
  return judged;
}

// Calls `take` with every split of `layers` into `stages` of at least one.
template <typename Take>
void every_split(int64_t layers, int64_t stages, Split* split, const Take& take) {
  if (stages == 1) {
    split->push_back(layers);
    take(*split);
    split->pop_back();
    return;
  }
  for (int64_t here = 1; here <= layers - stages + 1; ++here) {
    split->push_back(here);
    every_split(layers - here, stages - 1, split, take);
    split->pop_back();
  }
}

TEST(StageSplit, IsTheBestOfEverySplit) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> draw(0.2, 3);
  for (int64_t layers = 1; layers <= 10; ++layers) {
    for (int64_t stages = 1; stages <= layers; ++stages) {
      LayerCosts costs{.layers = {}, .first = draw(random) / 4, .last = draw(random)};
      for (int64_t i = 0; i < layers; ++i) costs.layers.push_back(draw(random));
      Judged best{.most = 1e9, .squares = 1e9};
      Split made;
      every_split(layers, stages, &made, [&](const Split& split) {
        const Judged judged = judge(costs, split);
        const bool better = judged.most < best.most * (1 - 1e-9) ||
                            (judged.most < best.most * (1 + 1e-9) && judged.squares < best.squares);
        if (better) best = judged;
      });
      const Split split = split_by_cost(costs, stages);
      ASSERT_EQ(static_cast<int64_t>(split.size()), stages);
      ASSERT_EQ(std::accumulate(split.begin(), split.end(), int64_t{0}), layers);
      EXPECT_NEAR(judge(costs, split).most, best.most, 1e-9);
      EXPECT_NEAR(judge(costs, split).squares, best.squares, 1e-9);
    }
  }
}

TEST(StageSplit, TheWorkedExampleOfTheHeader) {
  const LayerCosts costs{.layers = std::vector<double>(8, 1.0), .first = 0, .last = 1.5};
  EXPECT_EQ(split_by_cost(costs, 4), (Split{2, 2, 3, 1}));
  EXPECT_DOUBLE_EQ(judge(costs, split_by_cost(costs, 4)).most, 3);
  EXPECT_DOUBLE_EQ(judge(costs, split_layers(8, 4)).most, 3.5);
}

TEST(StageSplit, NeverSlowerThanCountsOnTheModels) {
  const DeviceModel gpu = *gpu_device_model("h100", "bf16");
  for (const char* name : {"5b", "10b", "671b"}) {
    const spec::JobSpec job = free_job(name);
    const TimeModel time(job, gpu, 8);
    for (const int64_t pp : {2, 4, 8}) {
      Layout layout{.tp = 2, .pp = pp, .ep = 8, .grad_accumulation = 96};
      const double by_count = time.step_seconds(layout);
      layout.pipeline_layers =
          split_by_cost(layer_costs(job.model, model_times(job, layout, gpu, 8)), pp);
      ASSERT_EQ(check_layout(job, layout, 8), "");
      EXPECT_LE(time.step_seconds(layout), by_count * 1.001) << name << " " << to_string(layout);
    }
  }
}

TEST(StageSplit, GivenLayersAreThoseOfEveryStage) {
  const spec::JobSpec job = table_job("671b");
  Layout layout{.pp = 2, .schedule = "interleaved", .virtual_stages = 2};
  layout.pipeline_layers = {3, 20, 30, 8};
  const StageLayers chunk = chunk_layers(layout, 61, 0, 1);
  EXPECT_EQ(chunk.first, 23);
  EXPECT_EQ(chunk.end, 53);
  EXPECT_EQ(chunk_layers(layout, 61, 1, 1).end, 61);
  EXPECT_EQ(layer_mix(job.model, layout, 0).dense, 3);
  EXPECT_EQ(layer_mix(job.model, layout, 0).routed, 30);
  EXPECT_EQ(layer_mix(job.model, layout, 1).routed, 28 + 1);  // with MTP's
  // The stages' parameters are still the model's.
  const ShardedCounts counts(job.model);
  Layout even = layout;
  even.pipeline_layers.clear();
  even.virtual_stages = 1;
  even.schedule = "1f1b";
  EXPECT_EQ(counts.stage(layout, 0).total() + counts.stage(layout, 1).total(),
            counts.stage(even, 0).total() + counts.stage(even, 1).total());
  EXPECT_NE(counts.stage(layout, 0), counts.stage(even, 0));
}

TEST(StageSplit, WhatIsGivenMustFitTheModelAndTheStages) {
  const spec::JobSpec job = table_job("671b");
  Layout layout{.pp = 2, .pipeline_layers = {30, 31}};
  EXPECT_EQ(check_layout(job, layout, 8), "");
  layout.pipeline_layers = {30, 30};
  EXPECT_EQ(check_layout(job, layout, 8), "pipeline_layers has 60 layers, num_layers is 61");
  layout.pipeline_layers = {30, 30, 1};
  EXPECT_EQ(check_layout(job, layout, 8), "pipeline_layers has 3 stages, PP·VPP is 2");
  layout.pipeline_layers = {61, 0};
  EXPECT_EQ(check_layout(job, layout, 8), "pipeline_layers gives a stage 0 of 61 layers");
  // 61 layers can't be cut evenly into four chunks, but as they are given.
  layout = {.pp = 2, .schedule = "interleaved", .grad_accumulation = 2, .virtual_stages = 2};
  EXPECT_NE(check_layout(job, layout, 8), "");
  layout.pipeline_layers = {15, 15, 16, 15};
  EXPECT_EQ(check_layout(job, layout, 8), "");
}

TEST(StageSplit, AJobsOwnSplitReachesThePlan) {
  spec::JobSpec job = free_job("5b");
  const int64_t layers = job.model.num_layers;
  job.parallel.pipeline_layers = {layers / 2 - 2, layers - layers / 2 + 2};
  const Plan made = plan(job, cluster_of_gpus(8, 80, "h100"));
  ASSERT_TRUE(made.feasible) << made.reason;
  EXPECT_EQ(made.layout.pp, 2);
  EXPECT_EQ(made.layout.pipeline_layers, job.parallel.pipeline_layers);
  EXPECT_EQ(settled(job, made).parallel.pipeline_layers, job.parallel.pipeline_layers);
  const auto read = parse_plan(plan_json(made));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->layout, made.layout);
  Plan broken = made;
  broken.layout.pipeline_layers.push_back(1);
  EXPECT_EQ(parse_plan(plan_json(broken)).status().code(), Code::kInvalid);
  broken.layout.pipeline_layers = {0, layers};
  EXPECT_EQ(parse_plan(plan_json(broken)).status().code(), Code::kInvalid);
  const auto said = parse_layout(to_string(made.layout), job, 8);
  ASSERT_TRUE(said.ok()) << said.status().to_string();
  EXPECT_EQ(said->pipeline_layers, made.layout.pipeline_layers);
  EXPECT_FALSE(parse_layout("PP2 stages 3/x", job, 8).ok());
}

TEST(StageSplit, AChosenPipelineIsBalancedAndAGivenOneStaysByCounts) {
  spec::JobSpec job = free_job("5b");
  const ClusterSpec gpus = cluster_of_gpus(16, 80, "h100");
  job.parallel.pipeline_parallel_size = 2;
  job.parallel.pipeline_schedule = "1f1b";
  const Plan chosen = plan(job, gpus);
  ASSERT_TRUE(chosen.feasible) << chosen.reason;
  // The last stage has the head and MTP's module beside its layers.
  ASSERT_EQ(chosen.layout.pipeline_layers.size(), 2u) << to_string(chosen.layout);
  EXPECT_GT(chosen.layout.pipeline_layers[0], chosen.layout.pipeline_layers[1]);
  Layout by_count = chosen.layout;
  by_count.pipeline_layers.clear();
  const DeviceModel gpu = *gpu_device_model("h100", "bf16");
  const TimeModel time(job, gpu, 8);
  EXPECT_DOUBLE_EQ(*chosen.predicted.step_s, time.step_seconds(chosen.layout));
  EXPECT_LE(time.step_seconds(chosen.layout), (1 - kBalanceGain) * time.step_seconds(by_count));
  job.parallel.tensor_parallel_size = chosen.layout.tp;
  job.parallel.expert_parallel_size = chosen.layout.ep;
  job.parallel.data_parallel_size = chosen.layout.dp;
  const Plan given = plan(job, gpus);
  ASSERT_TRUE(given.feasible) << given.reason;
  EXPECT_EQ(given.layout.pp, 2);
  EXPECT_TRUE(given.layout.pipeline_layers.empty());
}

TEST(StageSplit, GivenChunksMakeTheScheduleInterleaved) {
  spec::JobSpec job = free_job("5b");
  const int64_t layers = job.model.num_layers;
  job.parallel.pipeline_layers = {1, 1, 2, layers - 4};
  const SearchSpace space{.job = job, .world = 8};
  for (const Layout& layout : variants_of(space, {.pp = 2, .ep = 4}, {})) {
    EXPECT_EQ(layout.schedule, "interleaved");
    EXPECT_EQ(layout.virtual_stages, 2);
  }
  for (const Layout& layout : variants_of(space, {.pp = 4, .ep = 2}, {}))
    EXPECT_EQ(layout.virtual_stages, 1);
}

}  // namespace
}  // namespace dsv3::plan
