// Corners of the mathematics that the usual small model leaves out, on every axis: sizes that no
// power of two divides, several sequences in a micro-batch, two MTP depths, no dense layer, no
// shared expert, the softmax router of DeepSeek-V2, tied embeddings; and bf16.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "tests/unit/runtime/pipeline/layout_run.h"

namespace dsv3::parallel {
namespace {

using namespace testing_support;  // NOLINT: a test's own helpers

constexpr auto kFull = model::Recompute::kFull;
constexpr auto kSelective = model::Recompute::kSelective;

struct Case {
  const char* name;
  plan::Layout layout;
  int64_t sequences = 6;
  int64_t micro_batch = 3;
  model::Recompute recompute = model::Recompute::kNone;
  bool capacity = false;  // experts take no more than the mean
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

// DeepSeek-V2-Lite's ways: softmax scores as they are, no bias, no query latent; and every layer
// has experts but no shared one, and the head is the embedding.
spec::JobSpec lite_job() {
  spec::JobSpec job = deep_job(4, 0, 0);
  job.model.mla.q_lora_rank.reset();
  job.model.tie_embeddings = true;
  spec::MoeSpec& moe = job.model.moe;
  moe.score_function = "softmax";
  moe.norm_topk_prob = false;
  moe.use_aux_loss_free = false;
  moe.num_shared_experts = 0;
  moe.n_group = moe.topk_group = 1;
  return job;
}

// Nothing here is a power of two, and much is a multiple of 3 only.
spec::JobSpec odd_job() {
  spec::JobSpec job = deep_job(4, 0, 2);
  spec::ModelSpec& model = job.model;
  model.vocab_size = 54;
  model.d_model = 30;
  model.num_heads = 6;
  model.dense_intermediate_size = 33;
  model.max_context_length = 36;
  model.tie_embeddings = true;
  model.mla = {.kv_lora_rank = 11,
               .q_lora_rank = 13,
               .qk_nope_head_dim = 5,
               .qk_rope_head_dim = 2,
               .v_head_dim = 7};
  spec::MoeSpec& moe = model.moe;
  moe.num_experts = 6;
  moe.num_experts_per_token = 3;
  moe.expert_intermediate_size = 9;
  moe.num_shared_experts = 2;
  moe.n_group = 3;
  moe.topk_group = 2;
  job.training.seq_length = 36;
  return job;
}

LayoutRun run_of(const Case& c, const spec::JobSpec& job) {
  return {.job = job,
          .layout = c.layout,
          .sequences = c.sequences,
          .micro_batch = c.micro_batch,
          .recompute = c.recompute};
}

void expect_one_mathematics(const LayoutRun& run) {
  LayoutRun whole = run;
  whole.recompute = model::Recompute::kNone;
  const Outcome alone = run_alone(whole), ranks = run_ranks_of(run);
  EXPECT_GT(alone.scalars[static_cast<size_t>(model::Scalar::kAuxLoss)], 0);
  for (size_t i = 0; i < alone.scalars.size(); ++i)
    EXPECT_NEAR(ranks.scalars[i], alone.scalars[i], 1e-5 * std::fabs(alone.scalars[i])) << i;
  EXPECT_EQ(ranks.counts, alone.counts);
  const Difference difference = largest_difference(run, ranks, alone);
  EXPECT_LT(difference.value, 1e-4) << difference.where;
}

const auto name_of = [](const auto& info) { return std::string(info.param.name); };

class LiteCorners : public ::testing::TestWithParam<Case> {};
TEST_P(LiteCorners, GiveTheNumbersOfOneProcess) {
  expect_one_mathematics(run_of(GetParam(), lite_job()));
}
INSTANTIATE_TEST_SUITE_P(
    Layouts, LiteCorners,
    ::testing::Values(
        Case{.name = "Tp2", .layout = {.tp = 2}}, Case{.name = "Cp2", .layout = {.cp = 2}},
        Case{.name = "Ep2", .layout = {.ep = 2}},
        Case{.name = "Pp2", .layout = {.pp = 2}, .micro_batch = 2},
        Case{.name = "Tp2Cp2Full", .layout = {.tp = 2, .cp = 2}, .recompute = kFull},
        Case{.name = "Tp2Pp2Etp2Zero1", .layout = {.tp = 2, .pp = 2, .etp = 2, .zero_stage = 1}},
        Case{.name = "Cp2Pp2ZeroBubbleSelective",
             .layout = {.cp = 2, .pp = 2, .zero_stage = 1, .schedule = "zero_bubble"},
             .micro_batch = 2,
             .recompute = kSelective},
        Case{
            .name = "Pp2Dp2Interleaved",
            .layout =
                {.pp = 2, .dp = 2, .zero_stage = 1, .schedule = "interleaved", .virtual_stages = 2},
            .sequences = 8,
            .micro_batch = 2},
        Case{.name = "Tp2Ep2Zero2", .layout = {.tp = 2, .ep = 2, .zero_stage = 2}}),
    name_of);

class OddCorners : public ::testing::TestWithParam<Case> {};
TEST_P(OddCorners, GiveTheNumbersOfOneProcess) {
  spec::JobSpec job = odd_job();
  if (GetParam().capacity) job.model.moe.capacity_factor = 1.0;
  expect_one_mathematics(run_of(GetParam(), job));
}
INSTANTIATE_TEST_SUITE_P(
    Layouts, OddCorners,
    ::testing::Values(
        Case{.name = "Tp3", .layout = {.tp = 3}}, Case{.name = "Cp3", .layout = {.cp = 3}},
        Case{.name = "Ep3", .layout = {.ep = 3}, .micro_batch = 2},
        Case{.name = "Ep3Dp2Zero2",
             .layout = {.ep = 3, .dp = 2, .zero_stage = 2},
             .sequences = 12,
             .micro_batch = 2},
        Case{.name = "Cp3Capacity", .layout = {.cp = 3}, .capacity = true},
        Case{.name = "Tp3Cp2Capacity", .layout = {.tp = 3, .cp = 2}, .capacity = true},
        Case{.name = "Tp2Cp3CapacityFull",
             .layout = {.tp = 2, .cp = 3},
             .recompute = kFull,
             .capacity = true},
        Case{.name = "Ep3Pp2Capacity",
             .layout = {.pp = 2, .ep = 3},
             .micro_batch = 2,
             .capacity = true},
        Case{.name = "Pp3", .layout = {.pp = 3}, .micro_batch = 1},
        Case{.name = "Tp3Etp3Selective", .layout = {.tp = 3, .etp = 3}, .recompute = kSelective},
        Case{.name = "Tp3Cp2", .layout = {.tp = 3, .cp = 2, .zero_stage = 1}},
        Case{.name = "Tp2Cp3Zero2",
             .layout = {.tp = 2, .cp = 3, .zero_stage = 2},
             .recompute = kFull},
        Case{.name = "Cp3Pp2Full",
             .layout = {.cp = 3, .pp = 2, .zero_stage = 1},
             .micro_batch = 2,
             .recompute = kFull},
        Case{.name = "Tp3Pp2ZeroBubble",
             .layout = {.tp = 3, .pp = 2, .schedule = "zero_bubble"},
             .micro_batch = 2},
        Case{.name = "Ep3Pp2Zero1",
             .layout = {.pp = 2, .ep = 3, .zero_stage = 1, .schedule = "afab"},
             .micro_batch = 1}),
    name_of);

// In bf16 what TP adds up is rounded once more than in one process: by 2^-9 of the residual stream,
// and what follows from it. Where a choice of experts would hang on that, every token goes to all.
class Bf16Layouts : public ::testing::TestWithParam<Case> {};
TEST_P(Bf16Layouts, GiveTheNumbersOfOneProcessToTheirPrecision) {
  LayoutRun run = run_of(GetParam(), deep_job(4, 1, 1));
  spec::MoeSpec& moe = run.job.model.moe;
  if (run.layout.tp > 1) moe.num_experts_per_token = moe.num_experts;
  if (run.layout.tp > 1) moe.topk_group = moe.n_group;
  run.compute = DType::kBf16;
  LayoutRun whole = run;
  whole.recompute = model::Recompute::kNone;
  const Outcome alone = run_alone(whole), ranks = run_ranks_of(run);
  for (size_t i = 0; i < alone.scalars.size(); ++i)
    EXPECT_NEAR(ranks.scalars[i], alone.scalars[i], 1e-3 * std::fabs(alone.scalars[i])) << i;
  EXPECT_EQ(ranks.counts, alone.counts);
  const Difference difference = largest_difference(run, ranks, alone);
  EXPECT_LT(difference.value, 3e-2) << difference.where;
}
INSTANTIATE_TEST_SUITE_P(
    Layouts, Bf16Layouts,
    ::testing::Values(
        Case{.name = "Tp2", .layout = {.tp = 2}}, Case{.name = "Cp2", .layout = {.cp = 2}},
        Case{.name = "Dp2", .layout = {.dp = 2}}, Case{.name = "Ep2", .layout = {.ep = 2}},
        Case{.name = "Pp2", .layout = {.pp = 2}, .micro_batch = 1},
        Case{.name = "Tp2Etp2Cp2", .layout = {.tp = 2, .cp = 2, .etp = 2}, .recompute = kSelective},
        Case{.name = "Tp2Ep2", .layout = {.tp = 2, .ep = 2}}),
    name_of);

}  // namespace
}  // namespace dsv3::parallel
