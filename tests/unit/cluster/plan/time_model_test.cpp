// A step's time: by hand where one rank does it all, its parts and their sum, what the published
// runs bracket.
#include "cluster/plan/time_model.h"

#include <gtest/gtest.h>

#include <map>

#include "cluster/plan/layer_time.h"
#include "cluster/plan/shard_map.h"
#include "cluster/plan/step_ops.h"
#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

DeviceModel device(const char* name = "h100", const char* dtype = "bf16") {
  const std::optional<DeviceModel> model = gpu_device_model(name, dtype);
  EXPECT_TRUE(model.has_value());
  return *model;
}

std::map<std::string, double> lines_of(const StepTime& time) {
  std::map<std::string, double> lines;
  for (const TimeLine& line : time.lines) lines[line.name] = line.seconds;
  return lines;
}

std::vector<Layout> layouts() {
  return {
      {.ep = 8, .grad_accumulation = 4},
      {.tp = 2, .ep = 2, .dp = 2, .grad_accumulation = 4, .virtual_stages = 1},
      {.pp = 4, .ep = 2, .schedule = "1f1b", .grad_accumulation = 24},
      {.pp = 4, .dp = 2, .schedule = "zero_bubble", .grad_accumulation = 24},
      {.pp = 4, .dp = 2, .schedule = "interleaved", .grad_accumulation = 24, .virtual_stages = 2},
      {.pp = 4, .dp = 2, .schedule = "afab", .grad_accumulation = 24},
      {.dp = 8, .zero_stage = 3, .recompute = "full", .grad_accumulation = 4},
      {.dp = 8, .zero_stage = 2, .recompute = "selective", .grad_accumulation = 4},
      {.cp = 2, .dp = 4, .grad_accumulation = 4},
      {.tp = 4, .dp = 2, .etp = 4, .grad_accumulation = 4},
      {.tp = 8, .grad_accumulation = 4, .offload_optimizer = true}};
}

TEST(TimeModel, OneRankIsTheSumOfItsOps) {
  const spec::JobSpec job = table_job("1b");
  const DeviceModel cpu = generic_cpu_model(8);
  const Layout layout{.grad_accumulation = 3};
  double pass = 0;
  for (int64_t layer = 0; layer < job.model.num_layers; ++layer) {
    const LayerKind kind = layer < 1 ? LayerKind::kDense : LayerKind::kMoe;
    pass += seconds(cpu, layer_forward_ops(job, layout, kind)) +
            seconds(cpu, layer_backward_ops(job, layout, kind));
  }
  for (const bool backward : {false, true}) {
    pass += seconds(cpu, embedding_ops(job, layout, backward)) +
            seconds(cpu, head_ops(job, layout, backward));
  }
  const ShardedCounts counts(job.model);
  const double optimizer = seconds(cpu, optimizer_ops(job, layout, counts.stage(layout, 0)));
  const TimeModel model(job, cpu, 8);
  EXPECT_NEAR(model.step_seconds(layout), 3 * pass + optimizer, 1e-9 * pass);
}

// The CPU runtime reads the vocabulary's table once for every 64 rows of a large head.
TEST(TimeModel, AGpuTakesTheHeadAtOnce) {
  const spec::JobSpec job = table_job("671b");
  DeviceModel gpu = device();
  const ModelTimes times = model_times(job, Layout{}, gpu, 8);
  // Two heads, the model's and MTP's; the weight gradient is summed up in memory.
  const double flops = 2 * 2 * 4096 * 7168.0 * 129280;
  EXPECT_GT(times.head.backward.compute, 2 * flops / gpu.peak_flops_per_s);
  EXPECT_LT(times.head.backward.compute, 3 * flops / gpu.peak_flops_per_s);
}

TEST(TimeModel, LinesSumToTheStepAndBothAnswersAgree) {
  spec::JobSpec job = table_job("20b");
  const DeviceModel h100 = device();
  const TimeModel model(job, h100, 8);
  for (const Layout& layout : layouts()) {
    const StepTime time = model.predict(layout);
    EXPECT_EQ(time.step_s, model.step_seconds(layout));
    double sum = 0;
    for (const TimeLine& line : time.lines) {
      EXPECT_GT(line.seconds, 0) << line.name;
      sum += line.seconds;
    }
    EXPECT_NEAR(sum, time.step_s, 1e-9 * time.step_s) << to_string(layout);
    EXPECT_LE(model.lower_bound(layout), time.step_s * (1 + 1e-12)) << to_string(layout);
    EXPECT_GT(model.lower_bound(layout), 0.5 * time.step_s) << to_string(layout);
  }
}

TEST(TimeModel, AnswersDontDependOnWhatWasAskedBefore) {
  const spec::JobSpec job = table_job("20b");
  const DeviceModel h100 = device();
  const TimeModel old(job, h100, 8);
  for (const Layout& layout : layouts()) old.step_seconds(layout);
  for (const Layout& layout : layouts()) {
    EXPECT_EQ(old.step_seconds(layout), TimeModel(job, h100, 8).step_seconds(layout))
        << to_string(layout);
  }
}

TEST(TimeModel, EachAxisHasItsLine) {
  const spec::JobSpec job = table_job("20b");
  const DeviceModel h100 = device();
  const TimeModel model(job, h100, 8);
  const auto has = [&](const Layout& layout, const char* line) {
    return lines_of(model.predict(layout)).count(line) > 0;
  };
  EXPECT_FALSE(has({.grad_accumulation = 4}, "tp"));
  EXPECT_TRUE(has({.tp = 2, .grad_accumulation = 4}, "tp"));
  EXPECT_TRUE(has({.ep = 2, .grad_accumulation = 4}, "ep"));
  EXPECT_TRUE(has({.tp = 2, .grad_accumulation = 4}, "ep"));  // experts over TP's ranks
  EXPECT_TRUE(has({.pp = 2, .grad_accumulation = 4}, "pipeline_bubble"));
  EXPECT_TRUE(has({.pp = 2, .grad_accumulation = 4}, "pp"));
  EXPECT_TRUE(has({.recompute = "full", .grad_accumulation = 4}, "recompute"));
  EXPECT_TRUE(has({.grad_accumulation = 4, .offload_optimizer = true}, "offload"));
  EXPECT_FALSE(has({.grad_accumulation = 4, .offload_optimizer = true}, "optimizer"));
}

TEST(TimeModel, FullRecomputationIsOneForwardPassMore) {
  const spec::JobSpec job = table_job("15b");
  const DeviceModel h100 = device();
  const TimeModel model(job, h100, 8);
  const auto none = lines_of(model.predict({.grad_accumulation = 2}));
  const auto full = lines_of(model.predict({.recompute = "full", .grad_accumulation = 2}));
  const auto some = lines_of(model.predict({.recompute = "selective", .grad_accumulation = 2}));
  // The head, a fifth of this model's forward pass, is not computed again.
  EXPECT_LT(full.at("recompute"), none.at("forward"));
  EXPECT_GT(full.at("recompute"), 0.75 * none.at("forward"));
  EXPECT_LT(some.at("recompute"), 0.5 * full.at("recompute"));
  EXPECT_GT(some.at("recompute"), 0);
}

TEST(TimeModel, GradientsHideBehindTheBackwardPassUnlessAskedNotTo) {
  spec::JobSpec job = table_job("5b");
  const DeviceModel h100 = device();
  const Layout layout{.dp = 16, .grad_accumulation = 2};
  const double hidden = TimeModel(job, h100, 8).step_seconds(layout);
  job.parallel.overlap_grad_reduce = false;
  const auto shown = lines_of(TimeModel(job, h100, 8).predict(layout));
  const double whole = TimeModel(job, h100, 8).step_seconds(layout);
  ASSERT_TRUE(shown.count("dp"));
  EXPECT_GT(whole, hidden);
  // 5 billion gradients of 4 bytes and weights of 2, over 8 ranks of two nodes: 7/8 inside, half of
  // an eighth between.
  const double n = static_cast<double>(spec::count_params(job.model).total);
  const double bytes = 6 * n;
  const double least =
      bytes * 7 / 8 / h100.node_link.bytes_per_s + bytes / 8 / 2 / h100.network_link.bytes_per_s;
  // And the latencies: gradients and weights of 24 layers' buckets.
  const double latency = 2 * 24 * (7 * h100.node_link.latency_s + h100.network_link.latency_s);
  EXPECT_NEAR(shown.at("dp"), least + latency, 1e-3 * least);
}

// 80 GB/s and 40 GB/s are easily told apart: experts' gradients only meet those of other nodes.
TEST(TimeModel, ExpertsGradientsMeetFewerRanks) {
  spec::JobSpec job = table_job("5b");
  job.parallel.overlap_grad_reduce = false;
  DeviceModel gpu = device();
  gpu.node_link = {80e9, 0};
  gpu.network_link = {40e9, 0};
  const auto lines = lines_of(TimeModel(job, gpu, 8).predict({.ep = 8, .dp = 2}));
  const LocalParams held = ShardedCounts(job.model).stage({.ep = 8, .dp = 2}, 0);
  const double dense = static_cast<double>(held.dense), experts = double(held.experts);
  // Dense over 8 ranks of 2 nodes, experts over 2 ranks of 2 nodes; 4 bytes there and 2 back.
  const double whole = 6 * dense * (7.0 / 8 / 80e9 + 1.0 / 8 / 2 / 40e9) + 6 * experts / 2 / 40e9;
  EXPECT_NEAR(lines.at("dp"), whole, 1e-9 * whole);
}

TEST(TimeModel, NothingHidesWhereLinksShareTheCores) {
  spec::JobSpec job = table_job("5b");
  DeviceModel slow = device();
  const Layout layout{.dp = 4, .grad_accumulation = 8};
  const auto hidden = lines_of(TimeModel(job, slow, 8).predict(layout));
  slow.links_share_cores = true;
  const auto shown = lines_of(TimeModel(job, slow, 8).predict(layout));
  EXPECT_LT(hidden.at("dp"), 0.2 * shown.at("dp"));
}

TEST(TimeModel, ExpertsAcrossNodesCostMoreThanInside) {
  const spec::JobSpec job = table_job("10b");
  const DeviceModel h100 = device();
  const Layout layout{.ep = 16, .grad_accumulation = 8};
  const auto across = lines_of(TimeModel(job, h100, 8).predict(layout));
  const auto inside = lines_of(TimeModel(job, h100, 16).predict(layout));
  EXPECT_GT(across.at("ep"), 2 * inside.at("ep"));
}

TEST(TimeModel, MoreMicroBatchesDiluteTheBubble) {
  const spec::JobSpec job = table_job("20b");
  const DeviceModel h100 = device();
  const TimeModel model(job, h100, 8);
  const auto share = [&](int64_t batches, const char* schedule, int64_t chunks) {
    const StepTime time = model.predict(
        {.pp = 4, .schedule = schedule, .grad_accumulation = batches, .virtual_stages = chunks});
    return lines_of(time).at("pipeline_bubble") / time.step_s;
  };
  EXPECT_LT(share(32, "1f1b", 1), share(8, "1f1b", 1));
  EXPECT_LT(share(8, "interleaved", 2), share(8, "1f1b", 1));
  EXPECT_LT(share(8, "zero_bubble", 1), share(8, "1f1b", 1));
}

spec::JobSpec moonlight() {
  spec::JobSpec job = table_job("5b");
  spec::ModelSpec& model = job.model;
  model.name = "moonlight";
  model.vocab_size = 163840;
  model.num_layers = 27;
  model.num_heads = 16;
  model.mla.q_lora_rank.reset();
  model.dense_intermediate_size = 11264;
  model.moe.num_experts = 64;
  model.moe.num_experts_per_token = 6;
  model.moe.expert_intermediate_size = 1408;
  model.moe.num_shared_experts = 2;
  model.moe.first_k_dense = 1;
  return job;
}

// Of the bf16 peak; `hidden_s` of the step's time are left out.
double mfu(const spec::JobSpec& job, const char* gpu, const Layout& layout, double hidden_s = 0) {
  const DeviceModel model = device(gpu, job.training.dtype.c_str());
  const double tokens = static_cast<double>(sequences_per_step(layout) * job.training.seq_length);
  const double rate = tokens / (TimeModel(job, model, 8).step_seconds(layout) - hidden_s);
  return rate * spec::flops_per_token(job.model, job.training.seq_length).total_with_mtp /
         (static_cast<double>(layout.world_size()) * model.peak_flops_per_s);
}

// Published by Megatron-Bridge: Moonlight on 8 H100 39.1 %, DeepSeek-V3 on 1,024 H100 276 TFLOP/s
// in BF16 and 368 in FP8 (its layout taken to be BF16's). Its EP32 beside TP2 is our EP16
// (layout.h).
TEST(TimeModel, RunsThatMegatronPublishedAreMetWithinAFifth) {
  EXPECT_NEAR(mfu(moonlight(), "h100", {.ep = 8, .grad_accumulation = 32}), 0.391, 0.2 * 0.391);
  spec::JobSpec v3 = table_job("671b");
  const Layout layout{
      .tp = 2, .pp = 8, .ep = 16, .dp = 4, .recompute = "selective", .grad_accumulation = 128};
  ASSERT_EQ(layout.world_size(), 1024);
  const double bf16 = 276.0 / 989, fp8 = 368.0 / 989;
  EXPECT_NEAR(mfu(v3, "h100", layout), bf16, 0.2 * bf16);
  v3.training.dtype = "fp8";
  EXPECT_NEAR(mfu(v3, "h100", layout), fp8, 0.2 * fp8);
}

// 38.9 % on 2,048 H800 (arXiv 2505.09343; layout of 2412.19437, 3.2). DeepSeek hides the experts'
// exchange whole (DualPipe), where we show half of it: a gap that is known and stays. Without that
// line the prediction is near.
TEST(TimeModel, DeepSeeksRunIsMetButForTheExchangeThatItHides) {
  spec::JobSpec v3 = table_job("671b");
  v3.training.dtype = "fp8";
  const Layout layout{.pp = 16,
                      .ep = 64,
                      .dp = 2,
                      .schedule = "zero_bubble",
                      .recompute = "selective",
                      .grad_accumulation = 120};
  ASSERT_EQ(layout.world_size(), 2048);
  const DeviceModel h800 = device("h800", "fp8");
  const double shown_s = lines_of(TimeModel(v3, h800, 8).predict(layout)).at("ep");
  EXPECT_LT(mfu(v3, "h800", layout), 0.389);
  EXPECT_GT(mfu(v3, "h800", layout), 0.7 * 0.389);
  EXPECT_NEAR(mfu(v3, "h800", layout, shown_s), 0.389, 0.15 * 0.389);
}

}  // namespace
}  // namespace dsv3::plan
