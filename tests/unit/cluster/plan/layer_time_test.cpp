// One layer's exchanges by hand, in bytes: links of 1 byte/s without latency that hide nothing.
#include "cluster/plan/layer_time.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>

#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

constexpr double kTokens = 4096;

DeviceModel slow() {
  DeviceModel model = *gpu_device_model("h100", "bf16");
  model.links_share_cores = true;
  model.node_link = model.network_link = {1, 0};
  return model;
}

ModelTimes times_of(const spec::JobSpec& job, const Layout& layout) {
  return model_times(job, layout, slow(), 8);
}

// DeepSeek-V3, bf16, TP 2: a gather or scatter moves half of its bytes to the other rank.
constexpr double kHidden = kTokens * 7168 * 2 / 2;
constexpr double kLatents = kTokens * (1536 + 512 + 64) * 2 / 2;

TEST(LayerExchange, TensorRanksGatherLatentsAndKeepInputsCut) {
  const ModelTimes times = times_of(table_job("671b"), {.tp = 2});
  // Attention: latents in, the residual stream out. Feed-forward, shared expert: the stream, twice.
  EXPECT_DOUBLE_EQ(times.dense.forward.tp, kLatents + 3 * kHidden);
  EXPECT_DOUBLE_EQ(times.routed.forward.tp, kLatents + 3 * kHidden);
  // Their mirror image, and what the blocks read once more.
  EXPECT_DOUBLE_EQ(times.dense.backward.tp, 2 * kLatents + 4 * kHidden);
  EXPECT_DOUBLE_EQ(times.routed.backward.tp, 2 * kLatents + 4 * kHidden);
  // Two heads, of MTP and the model: the input, and three f32 of every row from both ranks; its
  // gradient. The table's output is scattered.
  EXPECT_DOUBLE_EQ(times.head.forward.tp, 2 * (kHidden + kTokens * 12));
  EXPECT_DOUBLE_EQ(times.head.backward.tp, 2 * kHidden);
  EXPECT_DOUBLE_EQ(times.embedding.forward.tp, kHidden);
  EXPECT_DOUBLE_EQ(times.embedding.backward.tp, kHidden);
}

TEST(LayerExchange, WithoutAQueryLatentTheStreamIsGatheredBesideTheLatent) {
  spec::JobSpec job = table_job("671b");
  job.model.mla.q_lora_rank.reset();
  const double into = kTokens * (7168 + 512 + 64) * 2 / 2;
  EXPECT_DOUBLE_EQ(times_of(job, {.tp = 2}).dense.forward.tp, into + 3 * kHidden);
}

TEST(LayerExchange, CutExpertsGatherTheirSlotsOverTensorRanks) {
  const ModelTimes times = times_of(table_job("671b"), {.tp = 2, .etp = 2});
  // Eight experts a token, there and back, a weight with each; their inputs are kept whole. Counts
  // of 256 experts before.
  const double rows = 16 * kHidden + kTokens * 8 * 4 / 2;
  EXPECT_DOUBLE_EQ(times.routed.forward.tp, kLatents + 3 * kHidden + rows + 256 * 4);
  EXPECT_DOUBLE_EQ(times.routed.backward.tp, 2 * kLatents + 4 * kHidden + rows);
  EXPECT_EQ(times.routed.forward.ep, 0);
  EXPECT_DOUBLE_EQ(times.dense.forward.tp, kLatents + 3 * kHidden);
}

TEST(LayerExchange, ExpertsSendEverySlotAndWaitForTheBusiest) {
  const spec::JobSpec job = table_job("671b");
  // Eight ranks of a node, eight experts a token: 7/8 leave, there and back.
  const double sent = 2 * kTokens * 7168 * 2 * 8 * 7 / 8;
  const ModelTimes times = times_of(job, {.ep = 8});
  EXPECT_DOUBLE_EQ(times.routed.forward.ep, kExpertImbalance * sent);
  EXPECT_DOUBLE_EQ(times.routed.backward.ep, kExpertImbalance * sent);
  // Over TP's ranks too, each with a share of the tokens.
  EXPECT_DOUBLE_EQ(times_of(job, {.tp = 2, .ep = 4}).routed.forward.ep,
                   kExpertImbalance * sent / 2);
  EXPECT_EQ(times_of(job, {.dp = 8}).routed.forward.ep, 0);
}

// Links that take no cores, so slow that they are never idle: both ways less all that is computed
// meanwhile, and so fast that nothing is seen.
TEST(LayerExchange, ExpertsAreComputedWhileRowsTravel) {
  spec::JobSpec job = table_job("671b");
  DeviceModel gpu = slow();
  gpu.links_share_cores = false;
  Layout layout{.ep = 8, .recompute = "none"};
  const auto times = [&] { return model_times(job, layout, gpu, 8).routed; };
  const auto beside = [&](bool backward, std::initializer_list<Beside> which) {
    double sum = 0;
    for (const StepOp& op : backward ? layer_backward_ops(job, layout, LayerKind::kMoe)
                                     : layer_forward_ops(job, layout, LayerKind::kMoe)) {
      const double busiest = op.cls == OpClass::kGroupedGemm ? kExpertImbalance : 1;
      if (std::find(which.begin(), which.end(), op.beside) != which.end())
        sum += op.calls * gpu.seconds(op) * busiest;
    }
    return sum;
  };
  gpu.node_link = gpu.network_link = {1e6, 0};
  const double sent = kExpertImbalance * 2 * kTokens * 7168 * 2 * 8 * 7 / 8 / 1e6;
  const auto all = {Beside::kBefore, Beside::kExperts, Beside::kAfter};
  const LayerTime slowly = times();
  EXPECT_NEAR(slowly.forward.ep, sent - beside(false, all), 1e-9 * sent);
  EXPECT_NEAR(slowly.forward.hidden, beside(false, all), 1e-9 * sent);
  EXPECT_NEAR(slowly.backward.ep, sent - beside(true, all), 1e-9 * sent);
  // Who drops SwiGLU's outputs has nothing to put behind but what the lists say.
  layout.recompute = "selective";
  const LayerTime selective = times();
  EXPECT_NEAR(selective.forward.ep, sent - beside(false, all), 1e-9 * sent);
  EXPECT_NEAR(selective.backward.ep, sent - beside(true, all), 1e-9 * sent);
  layout.recompute = "none";
  // Weight gradients that are put off hide nothing.
  layout.pp = 2;
  layout.schedule = "zero_bubble";
  const double without = beside(true, {Beside::kBefore, Beside::kExperts});
  EXPECT_NEAR(times().backward.ep, sent - without, 1e-9 * sent);
  layout = {.ep = 8};
  gpu.node_link = gpu.network_link = {1e15, 0};
  EXPECT_NEAR(times().forward.ep, 0, 1e-9);
  EXPECT_NEAR(times().backward.ep, 0, 1e-9);
  job.parallel.overlap_expert_exchange = false;
  gpu.node_link = gpu.network_link = {1e6, 0};
  EXPECT_NEAR(times().forward.ep, sent, 1e-9 * sent);
  EXPECT_EQ(times().forward.hidden, 0);
}

// The head's and MTP's weight gradients come with the pass (runtime/model/stage.cpp).
TEST(LayerExchange, OnlyTheLayersWeightGradientsCanWait) {
  const ModelTimes times = times_of(table_job("671b"), {});
  EXPECT_GT(times.dense.backward.weight, 0);
  EXPECT_GT(times.routed.backward.weight, 0);
  EXPECT_GT(times.mtp.backward.compute, times.routed.backward.compute);
  EXPECT_EQ(times.mtp.backward.weight, 0);
  EXPECT_EQ(times.head.backward.weight, 0);
}

TEST(LayerExchange, TheBusiestExpertsTakeLongerThanTheMean) {
  const spec::JobSpec job = table_job("671b");
  const DeviceModel gpu = slow();
  // One rank with all experts sees the mean; on two the busier one decides.
  const double alone = times_of(job, {}).routed.forward.compute;
  const auto list = layer_forward_ops(job, {.ep = 2}, LayerKind::kMoe);
  double grouped = 0;
  for (const StepOp& op : list) {
    if (op.cls == OpClass::kGroupedGemm) grouped += op.calls * gpu.seconds(op);
  }
  EXPECT_GT(grouped, 0);
  EXPECT_NEAR(times_of(job, {.ep = 2}).routed.forward.compute, seconds(gpu, list) + 0.1 * grouped,
              1e-9 * alone);
  EXPECT_NEAR(alone, seconds(gpu, layer_forward_ops(job, {}, LayerKind::kMoe)), 1e-12 * alone);
}

TEST(LayerExchange, ContextRanksGatherLatents) {
  // Of 4096 tokens the latent and the shared rotary key, 576 numbers: the other half comes in. On
  // the way back once more, and the gradients are scattered.
  const double latents = kTokens * (512 + 64) * 2 / 2;
  const ModelTimes times = times_of(table_job("671b"), {.cp = 2});
  EXPECT_DOUBLE_EQ(times.dense.forward.cp, latents);
  EXPECT_DOUBLE_EQ(times.dense.backward.cp, 2 * latents);
  // With TP a rank's own tokens first, then whole sequences over TP.
  const ModelTimes both = times_of(table_job("671b"), {.tp = 2, .cp = 2});
  EXPECT_DOUBLE_EQ(both.dense.forward.cp, latents / 2);
  const double query = kTokens * 1536 * 2 / 2;
  EXPECT_DOUBLE_EQ(both.dense.forward.tp, latents + (query + 3 * kHidden) / 2);
}

TEST(LayerExchange, TheRoutersStatisticsGoOverTensorAndContextRanks) {
  spec::JobSpec job = table_job("671b");
  job.model.moe.router_aux_loss_weight = 1e-4;
  // 256 counts of 4 bytes from the other rank.
  EXPECT_DOUBLE_EQ(times_of(job, {.tp = 2}).routed.forward.tp, kLatents + 3 * kHidden + 1024);
  EXPECT_DOUBLE_EQ(times_of(job, {.tp = 2}).routed.backward.tp, 2 * kLatents + 4 * kHidden);
  EXPECT_DOUBLE_EQ(times_of(job, {.tp = 2}).dense.forward.tp, kLatents + 3 * kHidden);
}

TEST(LayerExchange, FullRecomputationExchangesTheForwardPassAgain) {
  const spec::JobSpec job = table_job("671b");
  const Layout plain{.tp = 2, .cp = 2, .ep = 2};
  Layout full = plain;
  full.recompute = "full";
  const LayerTime once = times_of(job, plain).routed, again = times_of(job, full).routed;
  EXPECT_DOUBLE_EQ(again.backward.tp, once.backward.tp + once.forward.tp);
  EXPECT_DOUBLE_EQ(again.backward.ep, once.backward.ep + once.forward.ep);
  EXPECT_DOUBLE_EQ(again.backward.cp, once.backward.cp + once.forward.cp);
  EXPECT_DOUBLE_EQ(again.forward.tp, once.forward.tp);
}

}  // namespace
}  // namespace dsv3::plan
