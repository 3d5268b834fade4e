// What our CPU runtime holds beyond one rank's share because it gathers, sends and sums.
#include <gtest/gtest.h>

#include <algorithm>

#include "cluster/plan/activations.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/rank_grid.h"
#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

// By hand, against what one rank alone has; fp32, without experts: a token has 4 bytes a column.
TEST(MemoryParallel, OurRuntimeHoldsWhatItGathers) {
  spec::JobSpec job = table_job("10b");
  job.training.dtype = "fp32";
  job.model.moe.num_experts = 0;
  job.model.mtp_layers = 0;
  job.model.dense_intermediate_size *= 2;  // more than attention's
  const spec::ModelSpec& m = job.model;
  const MemoryModel model(job, DeviceKind::kCpu);
  const auto bytes = [](int64_t tokens, int64_t columns) {
    return static_cast<double>(4 * tokens * columns);
  };
  const auto transient = [&](const Layout& layout) {
    return static_cast<double>(transient_layer_bytes(job, layout, false, model.activation));
  };
  // Two TP ranks have half of a feed-forward's gradients, a norm's of their own tokens, and the
  // gradients of the output and the input of all tokens.
  EXPECT_DOUBLE_EQ(transient({.tp = 2}), bytes(2048, m.d_model) +
                                             bytes(4096, 3 * m.dense_intermediate_size / 2) +
                                             bytes(4096, 2 * m.d_model));
  // Keys and values of a whole sequence on both CP ranks, which are made again.
  const auto saved = [&](const Layout& layout) {
    return saved_layer_bytes(job, layout, false, model.activation);
  };
  const int64_t kv = m.num_heads * (m.mla.qk_nope_head_dim + m.mla.v_head_dim);
  EXPECT_DOUBLE_EQ(saved({.cp = 2}), saved({}) / 2 - bytes(2048, kv));
  EXPECT_DOUBLE_EQ(saved({.cp = 2, .recompute = "selective"}),
                   saved({.recompute = "selective"}) / 2);
  // The tables of angles are of a CP rank's positions.
  EXPECT_EQ(runtime_bytes(model, {}) - runtime_bytes(model, {.cp = 2}),
            4 * 2048 * m.mla.qk_rope_head_dim);
}

TEST(MemoryParallel, ExpertsOfOurRuntimeTravelThroughTheArena) {
  spec::JobSpec job = table_job("10b");
  job.training.dtype = "fp32";
  const MemoryModel model(job, DeviceKind::kCpu);
  EXPECT_EQ(exchange_bytes(model, {.ep = 4}, 0), 0);
  EXPECT_GT(exchange_bytes(MemoryModel(job, DeviceKind::kCuda), {.ep = 4}, 0), 0);
  // What leaves and what arrives, a number with each row, while shares of the experts take turns:
  // of 8 experts on a rank two at a time.
  ActivationOptions even = model.activation;
  const auto transient = [&](const Layout& layout) {
    return transient_layer_bytes(job, layout, true, even);
  };
  const double rows = 4096 * static_cast<double>(job.model.moe.num_experts_per_token);
  const double width = static_cast<double>(job.model.moe.expert_intermediate_size);
  const double h = static_cast<double>(job.model.d_model);
  even.imbalance = 1;  // then the rows of the experts are as many with and without
  EXPECT_DOUBLE_EQ(transient({.ep = 4}) - transient({}),
                   rows * 4 * (2 * h + 2) - rows * 4 * (h + width + 1) * 3 / 4);
  // Experts of one rank are computed at once; so are all without overlap.
  ASSERT_EQ(job.model.moe.num_experts, 32);
  EXPECT_DOUBLE_EQ(transient({.ep = 16}), transient({.ep = 4}) + rows * 4 * (h + width + 1) / 4);
  EXPECT_DOUBLE_EQ(transient({.ep = 32}),
                   transient({.ep = 4}) + rows * 4 * (h + width + 1) * 3 / 4);
  job.parallel.overlap_expert_exchange = false;
  EXPECT_DOUBLE_EQ(transient({.ep = 4}) - transient({}), rows * 4 * (2 * h + 2));
}

TEST(MemoryParallel, ZeroTwoOfOurRuntimeKeepsPiecesAndTwoWindows) {
  spec::JobSpec job = table_job("5b");
  const MemoryModel model(job, DeviceKind::kCpu);
  const Layout one{.dp = 4, .zero_stage = 1}, two{.dp = 4, .zero_stage = 2};
  const int64_t whole = gradients_bytes(model, one, 0) / 4;  // f32
  int64_t layers = 0, largest = 0;
  for (int64_t layer = 0; layer <= job.model.num_layers; ++layer) {
    const int64_t n = model.counts.layer(one, layer).total();
    layers += n;
    largest = std::max(largest, n);
  }
  const int64_t want = 4 * (whole / 4 + (whole - layers) + 2 * largest);
  EXPECT_NEAR(static_cast<double>(gradients_bytes(model, two, 0)), static_cast<double>(want), 64);
}

// Master and moments of an element on one of the ranks that sum it; of what is read in f32 the
// master on all, whose pieces every rank gathers.
TEST(MemoryParallel, ZeroOfOurRuntimeCutsWhatTpReplicatesAndTheMaster) {
  const spec::JobSpec job = table_job("5b");
  const MemoryModel model(job, DeviceKind::kCpu);
  const Layout layout{.tp = 2, .cp = 2, .ep = 2, .dp = 2, .zero_stage = 1};
  int64_t replicated = 0, dense = 0, experts = 0, in_f32 = 0;
  for (const TensorShard& shard : rank_shards(job.model, layout, {})) {
    const int64_t n = shard.box.num_elements();
    const bool router = shard.tensor.name.ends_with("mlp.gate.weight");
    if (router || shard.tensor.shape.size() == 1) in_f32 += n;
    if (shard.cls == ParamClass::kReplicated) replicated += n;
    if (shard.cls == ParamClass::kDense) dense += n;
    if (shard.cls == ParamClass::kExpert) experts += n;
  }
  const int64_t whole = replicated + dense + experts;
  const int64_t pieces = replicated / 16 + dense / 8 + experts / 4;
  const int64_t master = pieces + in_f32 - in_f32 / 16;
  EXPECT_EQ(optimizer_bytes(model, layout, 0), 4 * master + 8 * pieces);
  const auto line = [&](const MemoryModel& of, const char* name) {
    int64_t bytes = 0;
    for (const LedgerLine& entry : memory_ledger(of, layout, 0))
      bytes += entry.name == name ? entry.bytes : 0;
    return bytes;
  };
  EXPECT_EQ(line(model, "weights"), 2 * (whole - in_f32) + 4 * master) << "a copy in bf16";
  EXPECT_EQ(line(model, "optimizer"), 8 * pieces);
  // Nobody else sums: all of it.
  const MemoryModel alone(job, DeviceKind::kCpu);
  EXPECT_EQ(
      weights_bytes(alone, {.zero_stage = 1}, 0) + optimizer_bytes(alone, {.zero_stage = 1}, 0),
      14 * alone.counts.stage({}, 0).total() - 2 * alone.counts.stage({}, 0).in_f32);
  // On GPUs the published layouts': master by pieces, replicated tensors on every TP rank.
  const MemoryModel gpu(job, DeviceKind::kCuda);
  EXPECT_EQ(line(gpu, "weights"), 2 * whole);
  EXPECT_EQ(line(gpu, "optimizer"), 12 * ((replicated + dense) / 8 + experts / 4));
}

TEST(MemoryParallel, ACheckpointsCopyIsOfWhatTheRankSaves) {
  spec::JobSpec job = table_job("1b");
  job.checkpoint = {.interval_steps = 10, .async = true};
  job.model.mtp_layers = 1;
  const MemoryModel model(job, DeviceKind::kCpu);
  // Over all ranks every parameter once, whatever the ZeRO stage, though two stages hold the
  // embedding.
  const spec::ParamCounts counts = spec::count_params(job.model);
  const auto whole = 12.0 * static_cast<double>(counts.total + counts.mtp);
  for (const int64_t zero_stage : {0, 1}) {
    const Layout layout{.tp = 2, .pp = 2, .ep = 2, .dp = 2, .zero_stage = zero_stage};
    double sum = 0;
    for (int64_t stage = 0; stage < 2; ++stage)
      sum += 8.0 * static_cast<double>(checkpoint_bytes(model, layout, stage));
    EXPECT_NEAR(sum, whole, 1e-6 * whole) << "ZeRO " << zero_stage;
  }
  // One stage alone could have a copy, but the other's would be too large.
  const Layout uneven{.pp = 2, .dp = 2, .pipeline_layers = {1, job.model.num_layers - 1}};
  ASSERT_GT(6 * model.counts.stage(uneven, 1).total(), kCheckpointStagingBytesMax);
  ASSERT_LT(6 * model.counts.stage(uneven, 0).total(), kCheckpointStagingBytesMax);
  EXPECT_EQ(checkpoint_bytes(model, uneven, 0), 0);
}

TEST(MemoryParallel, AnOptimizerInHostMemoryHasItsNameOnCpus) {
  const spec::JobSpec job = table_job("5b");
  const MemoryModel model(job, DeviceKind::kCpu);
  const auto ledger = [&](bool offload) {
    return memory_ledger(model, {.dp = 2, .offload_optimizer = offload}, 0);
  };
  const std::vector<LedgerLine> here = ledger(false), host = ledger(true);
  ASSERT_EQ(here.size(), host.size());
  for (size_t i = 0; i < here.size(); ++i) {
    EXPECT_EQ(host[i].name, here[i].name == "optimizer" ? "host" : here[i].name);
    EXPECT_EQ(host[i].bytes, here[i].bytes) << host[i].name;
  }
}

TEST(MemoryParallel, AStageHasBuffersForItsNeighbours) {
  spec::JobSpec job = table_job("10b");
  job.training.dtype = "fp32";
  job.model.mtp_layers = 0;
  const MemoryModel model(job, DeviceKind::kCpu);
  const Layout alone{.grad_accumulation = 8};
  Layout piped = alone;
  piped.pp = 4;
  // A stage in the middle has MoE layers as the whole model has, and no logits; one gradient of the
  // residual stream alone, seven buffers between neighbours.
  const int64_t residual = 4 * 4096 * job.model.d_model;
  const int64_t layer =
      static_cast<int64_t>(transient_layer_bytes(job, piped, true, model.activation));
  EXPECT_EQ(transient_bytes(model, piped, 1), 7 * residual + layer);
}

}  // namespace
}  // namespace dsv3::plan
