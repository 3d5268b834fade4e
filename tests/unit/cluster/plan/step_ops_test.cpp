// A step's ops as arithmetic: FLOPs beside the count of parameters (the reference tables), and how
// layouts share them. That the shapes are the runtime's is
// tests/unit/runtime/train/step_ops_test.cpp's.
#include "cluster/plan/step_ops.h"

#include <gtest/gtest.h>

#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

Layout alone() {
  Layout layout;
  layout.zero_stage = 0;
  return layout;
}

double sum_flops(const std::vector<StepOp>& ops) {
  double sum = 0;
  for (const StepOp& op : ops) sum += op.calls * op.flops;
  return sum;
}
double step_flops(const spec::JobSpec& job, const Layout& layout) {
  return sum_flops(step_ops(job, layout));
}

// Backward attention computes the scores again: 5 products where the count of the reference tables
// has 4.
TEST(StepOps, FlopsAreTheModelsPlusTheScoresAgain) {
  for (const char* name : {"small", "5b", "10b", "671b"}) {
    const spec::JobSpec job = testing::table_job(name);
    const spec::FlopsPerToken counted = spec::flops_per_token(job.model, job.training.seq_length);
    const auto tokens = static_cast<double>(job.training.seq_length);
    const auto layers = static_cast<double>(job.model.num_layers + job.model.mtp_layers);
    const double qk = static_cast<double>(job.model.mla.qk_head_dim());
    const double pairs = tokens * (tokens + 1) / 2 * static_cast<double>(job.model.num_heads);
    const double expected = counted.total_with_mtp * tokens + layers * 2 * pairs * qk;
    EXPECT_NEAR(step_flops(job, alone()), expected, 1e-9 * expected) << name;
  }
}

TEST(StepOps, ThePartsOfATensorGroupSumToTheWhole) {
  const spec::JobSpec job = testing::table_job("5b");
  Layout cut = alone();
  cut.tp = 4;
  // Latent projections are whole on each rank, of its share of the tokens: nothing is done twice.
  EXPECT_NEAR(4 * step_flops(job, cut), step_flops(job, alone()), 1e-9 * step_flops(job, cut) * 4);
  cut.etp = 4;
  EXPECT_NEAR(4 * step_flops(job, cut), step_flops(job, alone()), 1e-9 * step_flops(job, cut) * 4);
}

TEST(StepOps, ContextRanksProjectWholeSequencesUpAndShareTheRest) {
  const spec::JobSpec job = testing::table_job("5b");
  const spec::MlaSpec& mla = job.model.mla;
  // Keys and values of 4096 tokens: forward, and two products backward; under CP once more there.
  const double up = 3 * 2 * 4096.0 * static_cast<double>(mla.kv_lora_rank) *
                    static_cast<double>(job.model.num_heads) *
                    static_cast<double>(mla.qk_nope_head_dim + mla.v_head_dim);
  const auto layers = static_cast<double>(job.model.num_layers + job.model.mtp_layers);
  for (const int64_t ranks : {2, 4}) {
    Layout context = alone();
    context.cp = ranks;
    const auto n = static_cast<double>(ranks);
    EXPECT_NEAR(n * step_flops(job, context),
                step_flops(job, alone()) + ((n - 1) + n / 3) * layers * up,
                1e-9 * step_flops(job, alone()));
  }
}

TEST(StepOps, ExpertRanksHaveAsManyRowsAndFewerExperts) {
  const spec::JobSpec job = testing::table_job("10b");
  Layout spread = alone();
  spread.ep = 8;
  const auto of = [&](const Layout& layout) {
    for (const StepOp& op : layer_forward_ops(job, layout, LayerKind::kMoe)) {
      if (op.cls == OpClass::kGroupedGemm) return op;
    }
    return StepOp{};
  };
  EXPECT_EQ(of(alone()).groups, 32);
  EXPECT_EQ(of(alone()).shape[0], 4096 * 4) << "tokens times choices";
  // Four experts a rank, one after the other while rows travel.
  EXPECT_EQ(of(spread).calls, 4);
  EXPECT_EQ(of(spread).groups, 1);
  EXPECT_EQ(of(spread).shape[0], 4096);
  EXPECT_EQ(of(spread).shape[1], of(alone()).shape[1]);
  EXPECT_DOUBLE_EQ(4 * of(spread).flops, of(alone()).flops);
  EXPECT_LT(4 * of(spread).bytes, of(alone()).bytes) << "fewer weights are read";
}

// Rows are put in order where they leave, where they arrive, and before they go home.
TEST(StepOps, RowsThatTravelAreMovedThreeTimes) {
  spec::JobSpec job = testing::table_job("10b");
  const auto moved = [&](const Layout& layout, bool backward) {
    double rows = 0;
    for (const StepOp& op : backward ? layer_backward_ops(job, layout, LayerKind::kMoe)
                                     : layer_forward_ops(job, layout, LayerKind::kMoe))
      rows += op.op == "permute_rows" ? op.calls * static_cast<double>(op.shape[0]) : 0;
    return rows;
  };
  Layout spread = alone();
  spread.ep = 8;
  for (const bool backward : {false, true}) {
    EXPECT_EQ(moved(alone(), backward), 4096 * 4);
    EXPECT_EQ(moved(spread, backward), 3 * 4096 * 4);
  }
  // Strips: a TP rank sends the rows of its own tokens and has everybody's.
  Layout strips = alone();
  strips.tp = strips.etp = 2;
  EXPECT_EQ(moved(strips, false), 4096 * 4 / 2 + 2 * 4096 * 4);
}

TEST(StepOps, WhatStandsBesideTheExchange) {
  const spec::JobSpec job = testing::table_job("10b");
  ASSERT_GT(job.model.moe.num_shared_experts, 0);
  Layout layout = alone();
  layout.ep = 8;
  const auto flops = [&](const Layout& of, bool backward, Beside beside) {
    double sum = 0;
    for (const StepOp& op : backward ? layer_backward_ops(job, of, LayerKind::kMoe)
                                     : layer_forward_ops(job, of, LayerKind::kMoe))
      sum += op.beside == beside ? op.calls * op.flops : 0;
    return sum;
  };
  const double d = static_cast<double>(job.model.d_model);
  const double width = static_cast<double>(job.model.moe.expert_intermediate_size);
  const double shared = static_cast<double>(job.model.moe.num_shared_experts) * width;
  const double one = 2 * 4096 * d;  // of a column
  EXPECT_DOUBLE_EQ(flops(layout, false, Beside::kBefore), 2 * shared * one);
  EXPECT_DOUBLE_EQ(flops(layout, false, Beside::kExperts), 3 * 4 * width * one);
  EXPECT_DOUBLE_EQ(flops(layout, false, Beside::kAfter), shared * one);
  EXPECT_DOUBLE_EQ(flops(layout, true, Beside::kBefore), 3 * shared * one);
  EXPECT_DOUBLE_EQ(flops(layout, true, Beside::kExperts), 3 * 4 * width * one);
  EXPECT_DOUBLE_EQ(flops(layout, true, Beside::kAfter), 3 * (4 * width + shared) * one);
  // Who drops SwiGLU's outputs, and who sums over TP, has less to put behind.
  Layout selective = layout;
  selective.recompute = "selective";
  EXPECT_EQ(flops(selective, false, Beside::kAfter), 0);
  layout.tp = 2;
  EXPECT_DOUBLE_EQ(flops(layout, false, Beside::kBefore), 3 * shared * one / 2);
  EXPECT_DOUBLE_EQ(flops(layout, true, Beside::kAfter), 3 * 4 * width * one / 2);
}

TEST(StepOps, FullRecomputationIsAnotherForwardPass) {
  const spec::JobSpec job = testing::table_job("10b");
  Layout full = alone(), selective = alone();
  full.recompute = "full";
  selective.recompute = "selective";
  for (const LayerKind kind : {LayerKind::kDense, LayerKind::kMoe, LayerKind::kMtp}) {
    const double forward = sum_flops(layer_forward_ops(job, alone(), kind));
    const double backward = sum_flops(layer_backward_ops(job, alone(), kind));
    EXPECT_DOUBLE_EQ(sum_flops(layer_backward_ops(job, full, kind)), backward + forward);
    const double some = sum_flops(layer_backward_ops(job, selective, kind));
    EXPECT_GT(some, backward);
    EXPECT_LT(some, backward + 0.5 * forward) << "up-projections alone";
  }
}

// 7B and more of state on one rank, an eighth of it on each of eight: AdamW moves 4 + 4 + 4 bytes
// of master, 4 of gradient, 8 + 8 of moments and 2 of weights for a parameter.
TEST(StepOps, ZeroSharesTheUpdate) {
  const spec::JobSpec job = testing::table_job("5b");
  Layout whole = alone(), shared = alone();
  whole.dp = shared.dp = 8;
  shared.zero_stage = 1;
  const LocalParams local = ShardedCounts(job.model).stage(whole, 0);
  const auto adamw_bytes = [&](const Layout& layout) {
    double bytes = 0;
    for (const StepOp& op : optimizer_ops(job, layout, local))
      bytes += op.op == "adamw" ? op.calls * op.bytes : 0;
    return bytes;
  };
  EXPECT_NEAR(adamw_bytes(whole), 30.0 * static_cast<double>(local.total()),
              1e-3 * adamw_bytes(whole));
  EXPECT_NEAR(adamw_bytes(shared), adamw_bytes(whole) / 8, 1e-3 * adamw_bytes(shared));
  Layout small = whole;
  small.moments_dtype = "bf16";
  EXPECT_NEAR(adamw_bytes(small), 22.0 * static_cast<double>(local.total()),
              1e-3 * adamw_bytes(small))
      << "22 bytes, as published for AdamW with bf16 moments";
}

TEST(StepOps, CountsOfTheUpdateAreTheModelsNorms) {
  const spec::JobSpec job = testing::table_job("5b");
  const spec::ModelSpec& model = job.model;
  const spec::MlaSpec& mla = model.mla;
  // Two norms a layer and those of the latents; the last norm; MTP's three more.
  const int64_t layers = model.num_layers + model.mtp_layers;
  const int64_t latents = mla.kv_lora_rank + mla.q_lora_rank.value_or(0);
  const UpdateCounts counts = update_counts(model);
  EXPECT_EQ(counts.gains, layers * (2 * model.d_model + latents) + model.d_model +
                              3 * model.mtp_layers * model.d_model);
  EXPECT_EQ(counts.moe_layers, layers - model.moe.first_k_dense);
  EXPECT_EQ(counts.router, counts.moe_layers * model.moe.num_experts * model.d_model);
}

TEST(StepOps, CountsMadeOnceGiveTheSameUpdate) {
  const spec::JobSpec job = testing::table_job("10b");
  const LocalParams local = ShardedCounts(job.model).stage(alone(), 0);
  const UpdateCounts counts = update_counts(job.model);
  const auto again = optimizer_ops(job, alone(), local),
             kept = optimizer_ops(job, alone(), local, counts);
  ASSERT_EQ(kept.size(), again.size());
  for (size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(kept[i].op, again[i].op);
    EXPECT_EQ(kept[i].shape, again[i].shape);
    EXPECT_EQ(kept[i].calls, again[i].calls);
    EXPECT_EQ(kept[i].bytes, again[i].bytes);
  }
}

// arXiv 2412.19437, 3.3.1: "embedding module, the output head, MoE gating modules, normalization
// operators, and attention operators" keep their precision.
TEST(StepOps, OnlyTheLayersProductsAreInEightBits) {
  spec::JobSpec job = testing::table_job("671b");
  job.training.dtype = "fp8";
  for (const LayerKind kind : {LayerKind::kDense, LayerKind::kMoe, LayerKind::kMtp}) {
    for (const auto& ops :
         {layer_forward_ops(job, alone(), kind), layer_backward_ops(job, alone(), kind)}) {
      for (const StepOp& op : ops) {
        const bool product = op.cls == OpClass::kGemm || op.cls == OpClass::kGroupedGemm;
        EXPECT_EQ(op.fp8, product && op.dtype != DType::kF32) << op.op << " " << op.role;
      }
    }
  }
  for (const bool backward : {false, true}) {
    for (const StepOp& op : head_ops(job, alone(), backward)) EXPECT_FALSE(op.fp8) << op.role;
  }
  job.training.dtype = "bf16";
  for (const StepOp& op : layer_forward_ops(job, alone(), LayerKind::kMoe)) EXPECT_FALSE(op.fp8);
}

TEST(StepOps, MicroBatchesRepeatAllButTheUpdate) {
  const spec::JobSpec job = testing::table_job("small");
  Layout twice = alone();
  twice.grad_accumulation = 2;
  EXPECT_DOUBLE_EQ(step_flops(job, twice), 2 * step_flops(job, alone()));
  const auto calls = [&](const Layout& layout, std::string_view name) {
    double sum = 0;
    for (const StepOp& op : step_ops(job, layout)) sum += op.op == name ? op.calls : 0;
    return sum;
  };
  EXPECT_EQ(calls(twice, "adamw"), calls(alone(), "adamw"));
  EXPECT_EQ(calls(twice, "swiglu_forward"), 2 * calls(alone(), "swiglu_forward"));
}

}  // namespace
}  // namespace dsv3::plan
