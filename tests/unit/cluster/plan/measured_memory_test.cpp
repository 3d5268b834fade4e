// The memory model of the CPU runtime against arenas that were measured.
//
// Oracle: `tests/bench/predict_memory.sh` with DSV3_BENCH_LINES=1 on an AMD EPYC with AVX512-BF16,
// one thread a rank, 2026-11-22 (experts in parts, the f32 master in pieces): megabytes of the
// worst rank, or of the one named. The runtime's own pushes decide these figures
// (runtime/model/*.cpp), so what changes them there must change the formulas here.
#include <gtest/gtest.h>

#include <string>

#include "cluster/plan/memory.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {
namespace {

// configs/demo.yaml's model.
spec::JobSpec demo() {
  spec::JobSpec job;
  spec::ModelSpec& model = job.model;
  model.name = "demo";
  model.vocab_size = 8192;
  model.num_layers = 8;
  model.d_model = 256;
  model.num_heads = 4;
  model.dense_intermediate_size = 768;
  model.max_context_length = 256;
  model.mla = {
      .kv_lora_rank = 64, .qk_nope_head_dim = 64, .qk_rope_head_dim = 32, .v_head_dim = 64};
  model.mla.q_lora_rank = 128;
  model.moe.num_experts = 8;
  model.moe.num_experts_per_token = 2;
  model.moe.expert_intermediate_size = 192;
  model.moe.num_shared_experts = 1;
  model.moe.first_k_dense = 1;
  job.training.seq_length = 256;
  job.training.micro_batch_size = 8;
  return job;
}

// configs/bench-cpu.yaml's.
spec::JobSpec bench() {
  spec::JobSpec job = demo();
  job.model.d_model = 512;
  job.model.num_heads = 8;
  job.model.dense_intermediate_size = 1536;
  job.model.mla.kv_lora_rank = 128;
  job.model.mla.q_lora_rank = 256;
  job.model.moe.expert_intermediate_size = 320;
  job.training.seq_length = 512;
  return job;
}

// configs/small.yaml's, with four layers.
spec::JobSpec small() {
  spec::JobSpec job = demo();
  job.model.vocab_size = 32768;
  job.model.num_layers = 4;
  job.model.d_model = 1024;
  job.model.num_heads = 16;
  job.model.dense_intermediate_size = 2560;
  job.model.mla.kv_lora_rank = 256;
  job.model.mla.q_lora_rank = 512;
  job.model.moe.num_experts = 16;
  job.model.moe.expert_intermediate_size = 512;
  job.training.seq_length = 512;
  job.training.micro_batch_size = 1;
  return job;
}

struct Measured {
  double activations = 0;  // MB
  double transient = 0;
  double workspace = 0;
  double arena = 0;
};

void expect_measured(const char* what, const spec::JobSpec& job, const Measured& measured) {
  const MemoryModel model(job, DeviceKind::kCpu);
  const Layout layout{.zero_stage = 0,
                      .micro_batch = job.training.micro_batch_size,
                      .moments_dtype = job.training.moments_dtype};
  double arena = 0;
  for (const LedgerLine& line : memory_ledger(model, layout, 0))
    arena += is_outside_arena(line.name) ? 0 : static_cast<double>(line.bytes) / 1e6;
  const auto megabytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  EXPECT_NEAR(arena, measured.arena, 0.003 * measured.arena) << what;
  EXPECT_NEAR(megabytes(activations_bytes(model, layout, 0)), measured.activations,
              0.002 * measured.activations)
      << what;
  EXPECT_NEAR(megabytes(transient_bytes(model, layout, 0)), measured.transient,
              0.01 * measured.transient)
      << what;
  // Where another kernel asks for more than attention does it is a little more.
  EXPECT_NEAR(megabytes(workspace_bytes(model, layout)), measured.workspace,
              0.3 * measured.workspace)
      << what;
}

TEST(MeasuredMemory, OfTheDemoAndItsVariants) {
  spec::JobSpec job = demo();
  expect_measured("demo", job, {164.83, 25.17, 0.67, 473.84});
  job.training.micro_batch_size = 4;
  expect_measured("4 sequences", job, {82.42, 25.17, 0.67, 391.43});
  job.training.micro_batch_size = 1;
  expect_measured("1 sequence", job, {20.61, 12.58, 0.67, 317.03});
  job.training.micro_batch_size = 32;
  job.training.moments_dtype = "bf16";
  expect_measured("32 sequences, bf16 moments", job, {659.33, 46.53, 0.67, 926.78});
  job = demo();
  job.training.dtype = "fp32";
  expect_measured("fp32", job, {323.43, 27.36, 1.33, 603.87});
  job = demo();
  job.training.seq_length = 2048;
  job.training.micro_batch_size = 2;
  expect_measured("2,048 tokens", job, {329.66, 25.17, 4.58, 642.82});
}

TEST(MeasuredMemory, OfExpertsMtpAndCheckpoints) {
  spec::JobSpec job = demo();
  job.model.mtp_layers = 1;
  expect_measured("MTP", job, {190.19, 26.21, 0.67, 530.24});
  job = demo();
  job.model.moe.num_experts = 32;
  job.model.moe.num_experts_per_token = 4;
  expect_measured("32 experts", job, {215.88, 25.17, 0.67, 971.48});
  job = demo();
  job.checkpoint.interval_steps = 2;
  expect_measured("background checkpoints", job, {164.83, 25.17, 0.67, 662.74});
  job.checkpoint.async = false;
  job.training.micro_batch_size = 2;
  expect_measured("checkpoints that are waited for", job, {41.21, 25.17, 0.67, 350.22});
}

TEST(MeasuredMemory, OfLargerModels) {
  spec::JobSpec job = bench();
  expect_measured("bench-cpu", job, {620.65, 42.14, 1.49, 1531.44});
  job.training.dtype = "fp32";
  job.training.micro_batch_size = 4;
  expect_measured("bench-cpu fp32", job, {609.95, 50.43, 2.09, 1433.37});
  job = bench();
  job.model.d_model = 1024;
  job.model.dense_intermediate_size = 4096;
  job.model.num_layers = 6;
  job.training.micro_batch_size = 4;
  expect_measured("bench-cpu, wider", job, {346.66, 33.11, 1.72, 1845.23});
  job = small();
  expect_measured("small", job, {75.01, 25.17, 2.01, 3125.49});
  job.training.dtype = "fp32";
  job.training.seq_length = 2048;
  job.model.mtp_layers = 1;
  expect_measured("small fp32 MTP", job, {762.74, 117.60, 10.10, 4090.73});
}

// Of one rank of a layout, the demo in bf16; MB.
void expect_of_rank(Layout layout, int64_t stage, double activations, double transient) {
  spec::JobSpec job = demo();
  job.training.micro_batch_size = layout.micro_batch;
  job.training.global_batch_size = 8;
  layout.grad_accumulation = 8 / (layout.micro_batch * layout.ep * layout.dp);
  const MemoryModel model(job, DeviceKind::kCpu);
  const auto megabytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  const std::string what = to_string(layout) + ", stage " + std::to_string(stage);
  EXPECT_NEAR(megabytes(activations_bytes(model, layout, stage)), activations, 0.005 * activations)
      << what;
  EXPECT_NEAR(megabytes(transient_bytes(model, layout, stage)), transient, 0.02 * transient)
      << what;
}

// Layouts whose arenas don't depend on where tokens are routed.
TEST(MeasuredMemory, OfLayouts) {
  expect_of_rank({.cp = 2, .micro_batch = 8}, 0, 74.03, 25.17);
  expect_of_rank({.tp = 2, .etp = 2, .micro_batch = 8}, 0, 90.17, 27.29);
  const Layout two{.pp = 2, .micro_batch = 2};
  expect_of_rank(two, 0, 40.70, 4.22);
  expect_of_rank(two, 1, 21.13, 26.74);
  const Layout afab{.pp = 2, .schedule = "afab", .micro_batch = 2};
  expect_of_rank(afab, 0, 80.87, 4.22);
  expect_of_rank(afab, 1, 82.93, 26.74);
  const Layout four{.pp = 4, .micro_batch = 1};
  expect_of_rank(four, 0, 20.37, 2.11);
  expect_of_rank(four, 2, 10.30, 2.11);
  expect_of_rank({.pp = 2, .schedule = "zero_bubble", .micro_batch = 1}, 1, 20.86, 20.81);
  expect_of_rank({.recompute = "full", .micro_batch = 8}, 0, 38.71, 4.55);
  expect_of_rank({.pp = 2, .recompute = "full", .micro_batch = 2}, 1, 6.86, 21.98);
}

// The f32 master of a rank's pieces and of what is read in f32, and the copy in bf16; MB.
TEST(MeasuredMemory, OfWeightsInPieces) {
  const spec::JobSpec job = demo();
  const MemoryModel model(job, DeviceKind::kCpu);
  const auto expect_weights = [&](const Layout& layout, double measured) {
    for (const LedgerLine& line : memory_ledger(model, layout, 0)) {
      if (line.name != "weights") continue;
      EXPECT_NEAR(static_cast<double>(line.bytes) / 1e6, measured, 0.0005 * measured)
          << to_string(layout);
    }
  };
  expect_weights({}, 94.355);
  expect_weights({.dp = 2}, 62.930);
  expect_weights({.dp = 4}, 47.218);
  expect_weights({.cp = 2}, 62.930);
  expect_weights({.tp = 2}, 47.677);
  expect_weights({.ep = 2}, 54.673);
}

}  // namespace
}  // namespace dsv3::plan
