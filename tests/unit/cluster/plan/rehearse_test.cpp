// Rehearsals of every preset on many numbers of GPUs: the small job is legal, small, and has in it
// what the large one's layout does.
#include "cluster/plan/rehearse.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cluster/plan/capability.h"
#include "cluster/plan/plan.h"
#include "configs/spec/counts.h"
#include "configs/spec/presets.h"
#include "configs/spec/validate.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

void expect_axes_kept(const Rehearsal& made, int64_t ranks_max) {
  const Layout& a = made.planned;
  const Layout& b = made.first;
  EXPECT_LE(b.world_size(), ranks_max);
  int64_t axes = 0;
  for (const int64_t size : {a.tp, a.cp, a.pp, a.ep}) axes += size > 1;
  if (ranks_max < int64_t{1} << axes) return;
  EXPECT_EQ(a.tp > 1, b.tp > 1);
  EXPECT_EQ(a.cp > 1, b.cp > 1);
  EXPECT_EQ(a.pp > 1, b.pp > 1);
  EXPECT_EQ(a.ep > 1, b.ep > 1);
  EXPECT_EQ(a.etp > 1, b.etp > 1);
  EXPECT_EQ(a.schedule, b.schedule);
  EXPECT_EQ(a.recompute, b.recompute);
  EXPECT_EQ(a.virtual_stages > 1, b.virtual_stages > 1);
  if (a.world_size() <= ranks_max) {
    EXPECT_EQ(a.dp, b.dp);
    EXPECT_EQ(a.ep, b.ep);
  }
}

void expect_model_kept(const spec::ModelSpec& large, const spec::ModelSpec& small) {
  EXPECT_EQ(small.moe.first_k_dense, large.moe.first_k_dense);
  EXPECT_EQ(small.mtp_layers, large.mtp_layers);
  EXPECT_EQ(small.moe.n_group, large.moe.n_group);
  EXPECT_EQ(small.moe.topk_group, large.moe.topk_group);
  EXPECT_EQ(small.moe.num_experts_per_token, large.moe.num_experts_per_token);
  EXPECT_EQ(small.moe.num_shared_experts, large.moe.num_shared_experts);
  EXPECT_EQ(small.moe.score_function, large.moe.score_function);
  EXPECT_EQ(small.mla.q_lora_rank.has_value(), large.mla.q_lora_rank.has_value());
  EXPECT_LE(small.num_layers, large.num_layers);
  EXPECT_GT(small.num_layers, small.moe.first_k_dense) << "a layer with experts";
  EXPECT_GT(small.moe.num_experts, small.moe.num_experts_per_token) << "there is a choice";
  EXPECT_LE(small.moe.num_experts, large.moe.num_experts);
  EXPECT_LT(spec::count_params(small).total, 2'000'000) << "trains in seconds";
}

void expect_legal(const spec::JobSpec& small, const Layout& layout) {
  EXPECT_EQ(check_layout(small, layout, 0), "") << to_string(layout);
  Plan plan;
  plan.layout = layout;
  const spec::JobSpec settled_job = settled(small, plan);
  for (const spec::Diagnostic& fault : spec::validate(settled_job, {}))
    EXPECT_NE(fault.severity, spec::Severity::kError) << spec::to_string(fault);
  for (const Capability& missing : missing_capabilities(settled_job, layout, DeviceKind::kCpu))
    ADD_FAILURE() << missing.reason;
  EXPECT_EQ(layout.micro_batch * layout.grad_accumulation * layout.dense_dp(),
            small.training.global_batch_size);
}

TEST(Rehearse, EveryPresetOnEveryNumberOfGpus) {
  const auto presets = spec::list_presets();
  ASSERT_TRUE(presets.ok()) << presets.status().to_string();
  int rehearsed = 0;
  for (const spec::Preset& preset : *presets) {
    for (const int64_t gpus : {1, 2, 4, 6, 8, 16, 24, 32, 64, 96, 128, 256, 512, 1024, 2048}) {
      const Plan planned = plan(preset.job, cluster_of_gpus(gpus, 80, "h100"));
      if (!planned.feasible) continue;
      for (const int64_t ranks_max : {2, 4, 8, 16}) {
        SCOPED_TRACE(fmt::format("{} on {} GPUs as {}, at most {} ranks", preset.name, gpus,
                                 to_string(planned.layout), ranks_max));
        const auto made =
            make_rehearsal(preset.job, planned.layout, {.ranks_max = ranks_max, .steps = 3});
        ASSERT_TRUE(made.ok()) << made.status().to_string();
        ++rehearsed;
        expect_axes_kept(*made, ranks_max);
        expect_model_kept(preset.job.model, made->job.model);
        for (const Layout& layout : {made->first, made->second, made->alone})
          expect_legal(made->job, layout);
        EXPECT_LE(made->second.world_size(), std::max<int64_t>(2, made->first.world_size()));
        EXPECT_NE(made->second, made->first);
        EXPECT_EQ(made->alone.world_size(), 1);
        EXPECT_EQ(made->folded.empty(),
                  made->first.world_size() == planned.layout.world_size() &&
                      made->first.zero_stage == planned.layout.zero_stage &&
                      made->first.virtual_stages == planned.layout.virtual_stages);
      }
    }
  }
  EXPECT_GT(rehearsed, 300);
}

TEST(Rehearse, FoldsDataRanksFirstAndTheLargestAxisThen) {
  const auto folded = [](Layout planned, int64_t ranks_max) {
    const Layout made = fold_layout(planned, ranks_max);
    return fmt::format("TP{} CP{} PP{} EP{} DP{} M{}", made.tp, made.cp, made.pp, made.ep, made.dp,
                       made.grad_accumulation);
  };
  EXPECT_EQ(folded({.dp = 16}, 16), "TP1 CP1 PP1 EP1 DP16 M1");
  EXPECT_EQ(folded({.dp = 64}, 16), "TP1 CP1 PP1 EP1 DP16 M2");
  EXPECT_EQ(folded({.tp = 2, .pp = 4, .dp = 8}, 16), "TP2 CP1 PP4 EP1 DP2 M4");
  EXPECT_EQ(folded({.pp = 16, .ep = 64, .dp = 2, .grad_accumulation = 120}, 16),
            "TP1 CP1 PP4 EP4 DP1 M8");
  EXPECT_EQ(folded({.tp = 8, .cp = 2, .pp = 4, .ep = 2}, 16), "TP2 CP2 PP2 EP2 DP1 M1");
  EXPECT_EQ(folded({.tp = 2, .cp = 2, .pp = 2, .ep = 2}, 4), "TP1 CP1 PP2 EP2 DP1 M1");
  EXPECT_EQ(folded({.pp = 6, .dp = 5}, 16), "TP1 CP1 PP6 EP1 DP2 M2");
  EXPECT_EQ(folded({.pp = 6, .dp = 5}, 6), "TP1 CP1 PP6 EP1 DP1 M5");
}

TEST(Rehearse, TheSecondLayoutIsAnotherCutOfTheSameJob) {
  const Layout planned{.tp = 2, .pp = 2, .ep = 2, .grad_accumulation = 8};
  const auto made = make_rehearsal(testing::table_job("10b"), planned);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  EXPECT_EQ(made->second.world_size(), 8);
  int same = made->second.tp == 2;
  same += made->second.pp == 2;
  same += made->second.ep == 2;
  EXPECT_EQ(same, 0) << to_string(made->second);
  EXPECT_NE(made->second.zero_stage, made->first.zero_stage);
}

TEST(Rehearse, SaysWhatIsNotAsPlanned) {
  const auto presets = spec::list_presets();
  ASSERT_TRUE(presets.ok());
  for (const spec::Preset& preset : *presets) {
    if (preset.name != "v3") continue;
    const Layout planned{.pp = 16,
                         .ep = 64,
                         .dp = 2,
                         .zero_stage = 1,
                         .recompute = "full",
                         .grad_accumulation = 120,
                         .moments_dtype = "bf16"};
    const auto made = make_rehearsal(preset.job, planned);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    EXPECT_EQ(made->folded, (std::vector<std::string>{
                                "DP 2 is rehearsed as 1: micro-batches stand for the data ranks",
                                "EP 64 is rehearsed as 4", "PP 16 is rehearsed as 4"}));
    ASSERT_EQ(made->changed.size(), 3u);
    EXPECT_EQ(made->changed[0], "training.dtype fp8 as fp32, so that losses can be compared");
    EXPECT_EQ(made->job.model.num_layers % 4, 1) << "61 layers don't divide by 16 either";
  }
}

}  // namespace
}  // namespace dsv3::plan
