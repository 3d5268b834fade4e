// What a rank sends, by hand: DeepSeek-V3's sizes for a layer, a model of four layers for a step.
#include "cluster/plan/comm_volume.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cluster/plan/shard_map.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

constexpr double kTokens = 4096;
constexpr double kHidden = kTokens * 7168 * 2;  // bytes, bf16

TEST(CommVolume, CollectivesSendWhatTheirTableSays) {
  EXPECT_DOUBLE_EQ(gather_sent_bytes(8, 4), 6);
  EXPECT_DOUBLE_EQ(gather_sent_bytes(8, 1), 0);
  // One round of each to each up to 32 KiB, then a reduce-scatter and an all-gather.
  EXPECT_DOUBLE_EQ(all_reduce_sent_bytes(16384, 4), 3 * 16384);
  EXPECT_DOUBLE_EQ(all_reduce_sent_bytes(32768, 4), 3 * 32768);
  EXPECT_DOUBLE_EQ(all_reduce_sent_bytes(65536, 4), 2 * 49152);
  EXPECT_DOUBLE_EQ(all_reduce_sent_bytes(65536, 1), 0);
}

TEST(CommVolume, GroupSizesAreTheGrids) {
  const Layout layout{.tp = 2, .cp = 3, .pp = 2, .ep = 5, .dp = 7};
  const RankGrid grid(layout);
  for (AxisSet axes = 0; axes < 1u << kNumAxes; ++axes) {
    EXPECT_EQ(group_size(layout, axes), static_cast<int64_t>(grid.group_of(0, axes).size()));
  }
}

TEST(CommVolume, AloneNothingIsSent) {
  spec::JobSpec job = table_job("671b");
  job.model.moe.router_aux_loss_weight = 1e-4;
  for (const LayerKind kind : {LayerKind::kDense, LayerKind::kMoe, LayerKind::kMtp}) {
    EXPECT_TRUE(layer_exchanges(job, {}, kind, false).empty());
    EXPECT_TRUE(layer_exchanges(job, {}, kind, true).empty());
  }
  EXPECT_EQ(step_volume(job, {}, {}, even_expert_rows(job, {})).total(), 0);
}

TEST(CommVolume, ATensorRankSendsItsPartOfEveryGather) {
  const spec::JobSpec job = table_job("671b");
  const Layout layout{.tp = 4};
  const auto sent = [&](LayerKind kind, bool backward) {
    return sent_bytes(layer_exchanges(job, layout, kind, backward), layout, kTpGroup);
  };
  const double away = 3.0 / 4;
  const double latents = kTokens * (1536 + 512 + 64) * 2;
  EXPECT_DOUBLE_EQ(sent(LayerKind::kDense, false), away * (latents + 3 * kHidden));
  EXPECT_DOUBLE_EQ(sent(LayerKind::kDense, true), away * (2 * latents + 4 * kHidden));
  // An MTP module: embedding out, both inputs in, a quarter of the product's columns each turned
  // into a quarter of its rows; then an MoE layer.
  EXPECT_DOUBLE_EQ(sent(LayerKind::kMtp, false) - sent(LayerKind::kMoe, false),
                   away * (3 + 0.25) * kHidden);
  EXPECT_DOUBLE_EQ(sent(LayerKind::kMtp, true) - sent(LayerKind::kMoe, true),
                   away * (5 + 0.25) * kHidden);
}

TEST(CommVolume, ContextRanksSendLatentsNotHeads) {
  const spec::JobSpec job = table_job("671b");
  const Layout layout{.cp = 4};
  const auto forward = layer_exchanges(job, layout, LayerKind::kDense, false);
  ASSERT_EQ(forward.size(), 1u);
  EXPECT_DOUBLE_EQ(sent_bytes(forward, layout, kCpGroup), 3.0 / 4 * kTokens * 576 * 2);
  // Heads' keys and values would be 128·(128 + 128) + 64 numbers.
  EXPECT_GT(kTokens * 128 * 256 * 2 * 3 / 4, 50 * sent_bytes(forward, layout, kCpGroup));
}

TEST(CommVolume, ExpertsSendRowsWithTheirWeights) {
  const spec::JobSpec job = table_job("671b");
  const Layout layout{.tp = 2, .ep = 4};
  // 2048 tokens of eight choices; one of eight members is this rank.
  const ExpertRows even = even_expert_rows(job, layout);
  EXPECT_DOUBLE_EQ(even.leave, 2048 * 8 * 7 / 8.0);
  EXPECT_DOUBLE_EQ(even.arrive, even.leave);
  EXPECT_DOUBLE_EQ(even_expert_rows(job, {.tp = 2, .ep = 4, .etp = 2}).leave, 2048 * 8 * 3 / 4.0);
  EXPECT_DOUBLE_EQ(even_expert_rows(job, {.dp = 4}).leave, 0);
  const ExpertRows rows{.leave = 10, .arrive = 3};
  const double row = 7168 * 2;
  // 4 bytes for each of the 32 experts of seven others.
  EXPECT_DOUBLE_EQ(expert_sent_bytes(job, layout, rows, false),
                   10 * (row + 4) + 3 * row + 7 * 32 * 4);
  EXPECT_DOUBLE_EQ(expert_sent_bytes(job, layout, rows, true), 10 * row + 3 * (row + 4));
}

TEST(CommVolume, LatentsGoOverContextRanksFirst) {
  const spec::JobSpec job = table_job("671b");
  const Layout layout{.tp = 2, .cp = 4};
  const auto forward = layer_exchanges(job, layout, LayerKind::kDense, false);
  const double here = kTokens / 4;  // of a context rank
  // Half of its 1024 tokens over CP; then half of all 4096 over TP, beside the query's latents.
  EXPECT_DOUBLE_EQ(sent_bytes(forward, layout, kCpGroup), here / 2 * 3 * 576 * 2);
  EXPECT_DOUBLE_EQ(sent_bytes(forward, layout, kTpGroup),
                   (kTokens * 576 + here * 1536 + here * 3 * 7168) * 2 / 2);
}

TEST(CommVolume, CutExpertsGatherTheRowsOfTheirTensorGroup) {
  const spec::JobSpec job = table_job("671b");
  const Layout cut{.tp = 2, .ep = 2, .etp = 2};
  Layout whole = cut;
  whole.etp = 1;
  const auto sent = [&](const Layout& layout, bool backward) {
    return sent_bytes(layer_exchanges(job, layout, LayerKind::kMoe, backward), layout, kTpGroup);
  };
  // Rows with a weight one way, and without the other; 256 counts of 4 bytes to the other rank.
  const double rows = kTokens * 8, row = 7168 * 2;
  EXPECT_DOUBLE_EQ(sent(cut, false) - sent(whole, false), rows * (2 * row + 4) / 2 + 256 * 4);
  EXPECT_DOUBLE_EQ(sent(cut, true) - sent(whole, true), rows * (2 * row + 4) / 2);
}

TEST(CommVolume, FullRecomputationRepeatsTheForwardPass) {
  spec::JobSpec job = table_job("671b");
  job.model.moe.router_aux_loss_weight = 1e-4;
  const Layout plain{.tp = 2, .cp = 2, .ep = 2};
  Layout full = plain;
  full.recompute = "full";
  const auto sent = [&](const Layout& layout, bool backward, AxisSet axes) {
    return sent_bytes(layer_exchanges(job, layout, LayerKind::kMoe, backward), layout, axes);
  };
  for (const AxisSet axes : {kTpGroup, kCpGroup, kTpGroup | kCpGroup}) {
    EXPECT_DOUBLE_EQ(sent(full, true, axes), sent(plain, true, axes) + sent(plain, false, axes));
    EXPECT_GT(sent(plain, false, axes), 0);
  }
  // One run of a sequence on each rank; two, its parts, where TP cuts between them.
  EXPECT_DOUBLE_EQ(sent(full, false, kTpGroup | kCpGroup), 3 * 256 * 4);
  EXPECT_DOUBLE_EQ(sent({.cp = 2}, false, kTpGroup | kCpGroup), 2 * 256 * 4);
  // MTP's own projection is not made again.
  const auto mtp = [&](const Layout& layout) {
    return sent_bytes(layer_exchanges(job, layout, LayerKind::kMtp, true), layout, kTpGroup);
  };
  EXPECT_DOUBLE_EQ(mtp(full) - mtp(plain), sent(plain, false, kTpGroup));
}

TEST(CommVolume, GradientsByZeroStage) {
  const GradientRun big{.elements = 1 << 20};
  const double bytes = 4 << 20;
  const auto sent = [](const GradientRun& run, int64_t zero_stage, double weight_bytes) {
    return gradient_sent_bytes(
        run, 4, {.zero_stage = zero_stage, .micro_batches = 8, .weight_bytes = weight_bytes});
  };
  EXPECT_DOUBLE_EQ(sent(big, 0, 4), 1.5 * bytes);
  EXPECT_DOUBLE_EQ(sent(big, 1, 4), 1.5 * bytes);
  EXPECT_DOUBLE_EQ(sent(big, 2, 4), 6.75 * bytes);
  EXPECT_EQ(gradient_sent_bytes(big, 1, {.zero_stage = 2}), 0);
  // Gathered in bf16, but for a quarter that is read in f32.
  EXPECT_DOUBLE_EQ(sent(big, 1, 2), 0.75 * bytes * (1 + 0.5));
  const GradientRun some{.elements = 1 << 20, .in_f32 = 1 << 18};
  EXPECT_DOUBLE_EQ(sent(some, 1, 2), 0.75 * bytes * (1 + 0.75 / 2 + 0.25));
  // What is in no layer is summed once.
  const GradientRun ends{.elements = 1 << 20, .outside = 1 << 19};
  EXPECT_DOUBLE_EQ(sent(ends, 2, 4), 0.75 * bytes * (4 + 0.5 + 1));
  EXPECT_DOUBLE_EQ(sent(ends, 1, 4), 1.5 * bytes);
  // One round of each to each.
  EXPECT_DOUBLE_EQ(sent({.elements = 4096}, 0, 4), 3 * 16384);
  EXPECT_DOUBLE_EQ(sent({.elements = 1 << 17, .gains = 4096}, 0, 4), 1.5 * (1 << 19));
  EXPECT_DOUBLE_EQ(sent({.elements = 1 << 20, .gains = 4096}, 0, 4), 1.5 * bytes + 1.5 * 16384);
  EXPECT_DOUBLE_EQ(sent({.elements = 4096}, 1, 4), 1.5 * 16384);
}

TEST(CommVolume, GradientsLieInRunsOfTheRanksThatSumThem) {
  spec::JobSpec job = table_job("1b");
  job.model.mtp_layers = 1;
  using C = ParamClass;
  const auto classes = [&](const Layout& layout, const RankPosition& position) {
    std::vector<C> all;
    for (const GradientRun& run : gradient_runs(job.model, layout, position))
      all.push_back(run.cls);
    return all;
  };
  EXPECT_EQ(classes({.dp = 4}, {}), (std::vector{C::kDense}));
  EXPECT_EQ(classes({.ep = 2, .dp = 2}, {}), (std::vector{C::kDense, C::kExpert, C::kDense}));
  EXPECT_EQ(classes({.tp = 2, .dp = 2}, {}),
            (std::vector{C::kReplicated, C::kDense, C::kReplicated}));
  EXPECT_EQ(classes({.tp = 2, .ep = 2}, {}),
            (std::vector{C::kReplicated, C::kDense, C::kExpert, C::kReplicated}));
  // The last stage's copy of the embedding is apart.
  EXPECT_EQ(classes({.pp = 2, .dp = 2}, {.pp_stage = 1}), (std::vector{C::kDense, C::kDense}));
  // All of them, once; the router and the norms at the end.
  const Layout layout{.tp = 2, .ep = 2};
  double sum = 0, in_f32 = 0;
  for (const GradientRun& run : gradient_runs(job.model, layout, {})) {
    sum += run.elements;
    in_f32 += run.in_f32;
    EXPECT_EQ(run.in_f32, in_f32 == 0 ? 0 : run.elements);
  }
  const LocalParams local = ShardedCounts(job.model).stage(layout, 0);
  EXPECT_EQ(sum, static_cast<double>(local.total()));
  EXPECT_EQ(in_f32, static_cast<double>(local.in_f32));
}

// Two dense and two MoE layers, one MTP module.
spec::JobSpec small_job() {
  spec::JobSpec job = table_job("671b");
  spec::ModelSpec& model = job.model;
  model.num_layers = 4;
  model.moe.first_k_dense = 2;
  model.mtp_layers = 1;
  job.training.dtype = "fp32";
  job.training.seq_length = 64;
  return job;
}

TEST(CommVolume, AStepOfAPipelineIsTheSumOfItsParts) {
  const spec::JobSpec job = small_job();
  const Layout layout{.tp = 2, .pp = 2, .ep = 2, .dp = 2, .zero_stage = 1, .grad_accumulation = 3};
  const ExpertRows rows{.leave = 100, .arrive = 50};
  const StepVolume first = step_volume(job, layout, {.pp_stage = 0}, rows);
  const StepVolume last = step_volume(job, layout, {.pp_stage = 1}, rows);
  // t 64, h 7168, 4 bytes; half goes out. First: two dense layers and the embedding.
  const double hidden = 64 * 7168 * 4 / 2.0, latents = 64 * 2112 * 4 / 2.0;
  EXPECT_DOUBLE_EQ(first.tensor, 3 * (2 * (3 * latents + 7 * hidden) + 2 * hidden));
  EXPECT_EQ(first.experts, 0);
  // Last: two MoE layers and MTP's; its embedding, two inputs and their product; two heads.
  const double mtp = 2 * hidden + 6 * hidden + 2 * hidden / 2;
  const double heads = 2 * (2 * hidden + 64 * 12);
  EXPECT_DOUBLE_EQ(last.tensor, 3 * (3 * (3 * latents + 7 * hidden) + mtp + heads));
  EXPECT_DOUBLE_EQ(last.experts, 3 * 3 *
                                     (expert_sent_bytes(job, layout, rows, false) +
                                      expert_sent_bytes(job, layout, rows, true)));
  // 32 of the 64 tokens are on a TP rank.
  const double boundary = 32 * 7168 * 4;
  EXPECT_DOUBLE_EQ(first.forward, 3 * boundary);
  EXPECT_DOUBLE_EQ(last.backward, 3 * boundary);
  EXPECT_EQ(first.backward + last.forward, 0);
  EXPECT_EQ(first.context + first.sequence, 0);
  // Half of the table, f32, in pieces of EP·DP = 4.
  EXPECT_DOUBLE_EQ(first.embedding, 4.0 * 129280 / 2 * 7168 / 4);
  EXPECT_DOUBLE_EQ(last.embedding, first.embedding);
  // 64 bytes of scalars and 3 · 256 counts, in one round over 16 ranks.
  EXPECT_DOUBLE_EQ(first.world, 15 * 64 + 15 * 3 * 256 * 8);
}

TEST(CommVolume, GradientsOfEveryClassGoOverTheirOwnRanks) {
  const spec::JobSpec job = small_job();
  const Layout layout{.tp = 2, .cp = 2, .ep = 4, .dp = 2, .zero_stage = 0};
  const LocalParams local = ShardedCounts(job.model).stage(layout, 0);
  const auto replicated = static_cast<double>(local.replicated);
  const auto dense = static_cast<double>(local.dense - local.replicated);
  const StepVolume volume = step_volume(job, layout, {}, {});
  EXPECT_DOUBLE_EQ(volume.replicated, 4 * replicated * 2 * 31 / 32);
  EXPECT_DOUBLE_EQ(volume.dense, 4 * dense * 2 * 15 / 16);
  EXPECT_DOUBLE_EQ(volume.expert, 4 * static_cast<double>(local.experts) * 2 * 3 / 4);
  EXPECT_EQ(volume.embedding, 0);
}

// Norms and the router of a narrow model are few: what is read in f32 goes in one round.
TEST(CommVolume, FewGradientsGoInOneRound) {
  spec::JobSpec job = small_job();
  job.model.d_model = 64;
  job.model.mla.q_lora_rank = 64;
  job.model.moe.num_experts = 8;
  const Layout layout{.ep = 4, .zero_stage = 0};
  const LocalParams local = ShardedCounts(job.model).stage(layout, 0);
  const auto few = static_cast<double>(local.in_f32);
  const auto dense = static_cast<double>(local.dense) - few;
  ASSERT_LE(4 * few, kOneRoundBytesMax);
  EXPECT_DOUBLE_EQ(step_volume(job, layout, {}, {}).dense, 4 * (dense * 2 * 3 / 4 + few * 3));
}

TEST(CommVolume, InterleavedStagesSendAfterEveryChunk) {
  const spec::JobSpec job = small_job();
  const Layout layout{
      .pp = 2, .schedule = "interleaved", .grad_accumulation = 2, .virtual_stages = 2};
  const double boundary = 64 * 7168 * 4;
  const StepVolume first = step_volume(job, layout, {.pp_stage = 0}, {});
  const StepVolume last = step_volume(job, layout, {.pp_stage = 1}, {});
  EXPECT_DOUBLE_EQ(first.forward, 2 * 2 * boundary);
  EXPECT_DOUBLE_EQ(first.backward, 2 * boundary);
  EXPECT_DOUBLE_EQ(last.forward, 2 * boundary);
  EXPECT_DOUBLE_EQ(last.backward, 2 * 2 * boundary);
}

}  // namespace
}  // namespace dsv3::plan
