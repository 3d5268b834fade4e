// Each rule: the smallest change that breaks it is reported by its code, and the unbroken model is
// not.
#include "configs/spec/validate.h"

#include <gtest/gtest.h>

#include "configs/spec/gpu_table.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

struct Rule {
  std::vector<std::string> sets;
  const char* code;
  Severity severity;
  std::vector<const char*> says;  // both values stand in the message
  int64_t gpus = 0;
  const char* gpu = "";
};

std::ostream& operator<<(std::ostream& out, const Rule& rule) {
  return out << rule.code;
}

std::vector<Diagnostic> found_with(const std::vector<std::string>& sets, int64_t gpus = 0,
                                   const char* gpu = "") {
  const Parsed p = parse_yaml(kSmallYaml, "f.yaml", sets);
  EXPECT_TRUE(p.ok()) << text_of(p.diagnostics);
  ValidateOptions options;
  options.gpus = gpus;
  options.gpu_name = gpu;
  options.origins = &p.origins;
  return validate(p.job, options);
}

class Rules : public testing::TestWithParam<Rule> {};

TEST_P(Rules, AreReportedByCodeWithBothValues) {
  const Rule& rule = GetParam();
  const std::vector<Diagnostic> all = found_with(rule.sets, rule.gpus, rule.gpu);
  const Diagnostic* d = find(all, rule.code);
  ASSERT_NE(d, nullptr) << text_of(all);
  EXPECT_EQ(d->severity, rule.severity);
  for (const char* word : rule.says)
    EXPECT_NE(d->message.find(word), std::string::npos) << word << " in: " << d->message;
  EXPECT_FALSE(d->hint.empty());
}

constexpr Severity kE = Severity::kError, kW = Severity::kWarning;
INSTANTIATE_TEST_SUITE_P(
    Validate, Rules,
    testing::Values(
        Rule{{"model.mla.kv_lora_rank=null"}, "MLA_KV_RANK_REQUIRED", kE, {"kv_lora_rank"}},
        Rule{{"model.mla.kv_lora_rank=128"}, "MLA_KV_RANK_GE_FULL", kE, {"128"}},
        Rule{{"model.mla.qk_rope_head_dim=7"}, "MLA_ROPE_DIM_ODD", kE, {"7"}},
        Rule{{"model.num_key_value_heads=2"}, "MLA_KV_HEADS", kE, {"2", "4"}},
        Rule{{"model.mla.rope_scaling.type=yarn", "model.mla.rope_scaling.factor=4",
              "model.mla.rope_scaling.beta_fast=2", "model.mla.rope_scaling.beta_slow=3"},
             "YARN_BETAS",
             kE,
             {"2", "3"}},
        Rule{{"model.mla.rope_scaling.type=yarn", "model.mla.rope_scaling.factor=2",
              "model.mla.rope_scaling.original_max_position=16"},
             "CONTEXT_GT_YARN",
             kW,
             {"64", "2*16", "32"}},
        Rule{{"model.mla.rope_scaling.type=yarn", "model.mla.rope_scaling.factor=1.5",
              "model.mla.rope_scaling.original_max_position=16"},
             "SEQ_GT_MAX_CONTEXT",
             kE,
             {"32", "24"}},
        Rule{{"cluster.devices=cuda", "training.max_steps=10"}, "FEW_TOKENS", kW, {"10", "256"}},
        Rule{{"training.micro_batch_size=0"}, "OUT_OF_RANGE", kE, {"0"}},
        Rule{{"parallel.context_parallel_size=0"}, "OUT_OF_RANGE", kE, {"0"}},
        Rule{{"model.moe.n_group=2", "model.moe.topk_group=4"},
             "MOE_TOPK_GROUP_GT_N_GROUP",
             kE,
             {"4", "2"}},
        Rule{{"model.moe.n_group=3"}, "MOE_EXPERTS_NOT_DIVISIBLE_BY_GROUPS", kE, {"8", "3"}},
        Rule{{"model.moe.n_group=8"}, "MOE_GROUP_TOO_SMALL", kE, {"8", "1 expert"}},
        Rule{{"model.moe.n_group=8", "model.moe.topk_group=2", "model.moe.num_experts_per_token=4"},
             "MOE_TOPK_EXCEEDS_GROUP_CAPACITY",
             kE,
             {"4", "2"}},
        Rule{{"model.moe.num_experts_per_token=9"}, "MOE_TOPK_GT_EXPERTS", kE, {"9", "8"}},
        Rule{{"model.moe.num_experts_per_token=1"}, "MOE_TOP1_NORMALISED", kW, {"true", "1"}},
        Rule{{"model.moe.n_group=4", "model.moe.topk_group=4", "model.moe.num_experts_per_token=6"},
             "MOE_TOPK_NOT_DIVISIBLE_BY_TOPK_GROUP",
             kE,
             {"6", "4"}},
        Rule{{"model.moe.n_group=4", "model.moe.topk_group=4", "model.moe.num_experts_per_token=6",
              "model.moe.allow_uneven_groups=true"},
             "MOE_TOPK_NOT_DIVISIBLE_BY_TOPK_GROUP",
             kW,
             {"6", "4"}},
        Rule{{"model.moe.num_shared_experts=1"}, "MOE_SHARED_RATIO", kW, {"1/8"}},
        Rule{{"model.moe.router_aux_loss_weight=0.01"}, "AUX_LOSS_WITH_AUX_FREE", kW, {"0.01"}},
        Rule{{"model.moe.first_k_dense=5"}, "FIRST_K_DENSE_GT_LAYERS", kE, {"5", "4"}},
        Rule{{"model.moe.moe_layers=2"}, "MOE_LAYERS_MISMATCH", kE, {"2", "3"}},
        Rule{{"model.name=tiny-0.01m"}, "EXPERT_WIDTH_SUSPECT", kW, {"tiny-0.01m"}},
        Rule{{"parallel.expert_parallel_size=3"}, "EP_NOT_DIVIDING_EXPERTS", kE, {"8", "3"}},
        Rule{{"parallel.expert_parallel_size=8", "parallel.tensor_parallel_size=2"},
             "EP_TP_NOT_DIVIDING_EXPERTS",
             kE,
             {"8", "16"}},
        Rule{{"parallel.expert_parallel_size=8", "parallel.tensor_parallel_size=2"},
             "EP_CROSSES_NODE",
             kW,
             {"16", "8"}},
        Rule{{"parallel.tensor_parallel_size=3"}, "TP_NOT_DIVIDING_HEADS", kE, {"4", "3"}},
        Rule{{"parallel.tensor_parallel_size=3"}, "TP_NOT_DIVIDING_VOCAB", kE, {"128", "3"}},
        Rule{{"parallel.tensor_parallel_size=16"}, "TP_CROSSES_NODE", kE, {"16", "8"}},
        Rule{{"parallel.tensor_parallel_size=4", "parallel.expert_tensor_parallel_size=2"},
             "ETP_INVALID",
             kE,
             {"2", "4"}},
        Rule{{"parallel.pipeline_parallel_size=5"}, "PP_GT_LAYERS", kE, {"5", "4"}},
        Rule{{"parallel.pipeline_parallel_size=3"}, "PP_UNEVEN_STAGES", kW, {"4", "3"}},
        Rule{{"parallel.pipeline_parallel_size=2", "parallel.pipeline_layers=[1, 2]"},
             "PIPELINE_LAYERS_SUM",
             kE,
             {"3", "4"}},
        Rule{{"parallel.pipeline_layers=[4, 2]"}, "PIPELINE_LAYERS_SUM", kE, {"6", "4"}},
        Rule{{"parallel.pipeline_parallel_size=2", "parallel.pipeline_layers=[1, 2, 1]"},
             "PIPELINE_LAYERS_STAGES",
             kE,
             {"3 entries", "PP=2"}},
        Rule{{"parallel.pipeline_parallel_size=1", "parallel.pipeline_layers=[2, 2]"},
             "PIPELINE_LAYERS_STAGES",
             kE,
             {"2 entries", "PP=1"}},
        Rule{{"parallel.pipeline_parallel_size=2", "parallel.pipeline_layers=[3, 1]",
              "parallel.pipeline_schedule=interleaved"},
             "PIPELINE_LAYERS_STAGES",
             kE,
             {"2 entries", "interleave"}},
        Rule{{"parallel.pipeline_parallel_size=3", "parallel.pipeline_schedule=interleaved"},
             "INTERLEAVED_NOT_DIVISIBLE",
             kE,
             {"num_layers=4", "PP=3"}},
        Rule{{"parallel.pipeline_parallel_size=4", "parallel.pipeline_schedule=interleaved"},
             "INTERLEAVED_NOT_DIVISIBLE",
             kE,
             {"num_layers=4", "PP=4"}},
        Rule{{"parallel.pipeline_parallel_size=2", "parallel.pipeline_schedule=interleaved",
              "training.global_batch_size=3"},
             "INTERLEAVED_MICRO_BATCHES",
             kE,
             {"PP=2"}},
        Rule{{"parallel.pipeline_parallel_size=2", "parallel.zero_stage=2"},
             "ZERO23_WITH_PP",
             kW,
             {"2"}},
        Rule{{"parallel.pipeline_parallel_size=2", "parallel.pipeline_schedule=zero_bubble",
              "parallel.recompute=full"},
             "ZERO_BUBBLE_RECOMPUTE",
             kW,
             {"zero_bubble", "full"}},
        Rule{{"training.global_batch_size=9", "training.micro_batch_size=2"},
             "GBS_NOT_DIVISIBLE",
             kE,
             {"9", "2"}},
        Rule{{"parallel.pipeline_parallel_size=4", "training.global_batch_size=2"},
             "PIPELINE_UNDERFILLED",
             kW,
             {"2", "4"}},
        Rule{{"training.seq_length=65"}, "SEQ_GT_MAX_CONTEXT", kE, {"65", "64"}},
        Rule{{"parallel.context_parallel_size=3"}, "CP_NOT_DIVIDING_SEQ", kE, {"32", "6"}},
        Rule{{"parallel.tensor_parallel_size=2", "training.seq_length=31"},
             "TP_NOT_DIVIDING_SEQ",
             kE,
             {"31", "2"}},
        Rule{{"parallel.tensor_parallel_size=2", "model.dense_intermediate_size=65"},
             "TP_NOT_DIVIDING_WIDTH",
             kE,
             {"dense_intermediate_size=65", "2"}},
        Rule{{"parallel.tensor_parallel_size=0"}, "OUT_OF_RANGE", kE, {"0"}},
        Rule{{"data.split=[0.5, 0.2]"}, "BAD_SPLIT", kE, {"0.7"}},
        Rule{{"data.path=[0, a]"}, "BAD_BLEND", kE, {"0"}},
        Rule{{"training.min_learning_rate=1"}, "MIN_LR_GT_PEAK", kW, {"1"}},
        Rule{{"training.lr_warmup_steps=10"}, "WARMUP_GE_STEPS", kW, {"10"}},
        Rule{{"model.mla.use_fp8_kv=true"}, "FP8_KV_IGNORED_IN_TRAINING", kW, {}},
        Rule{{"training.dtype=fp8", "model.moe.expert_intermediate_size=100"},
             "FP8_BLOCK_ALIGN",
             kW,
             {"100", "128"}},
        Rule{{"training.dtype=fp8"}, "FP8_UNSUPPORTED_GPU", kE, {"sm_80", "sm_89"}, 0, "a100-80"},
        Rule{{"model.moe.use_deep_ep=true"}, "KERNEL_REQUIRES_SM90", kE, {"sm_89"}, 0, "RTX 4090"},
        Rule{{}, "GPU_UNKNOWN", kE, {"abacus"}, 0, "abacus"},
        Rule{{"parallel.tensor_parallel_size=4", "parallel.pipeline_parallel_size=2",
              "parallel.expert_parallel_size=1", "parallel.data_parallel_size=2"},
             "LAYOUT_PRODUCT_MISMATCH",
             kE,
             {"16", "24"},
             24},
        Rule{{"parallel.tensor_parallel_size=4", "parallel.pipeline_parallel_size=4"},
             "LAYOUT_PRODUCT_MISMATCH",
             kE,
             {"16", "24"},
             24},
        Rule{{"training.global_batch_size=9", "parallel.tensor_parallel_size=1",
              "parallel.pipeline_parallel_size=1"},
             "GBS_NOT_DIVISIBLE",
             kE,
             {"9", "8"},
             8}));

TEST(Validate, TheUnbrokenModelHasNothingToSay) {
  EXPECT_TRUE(found_with({}).empty()) << text_of(found_with({}));
  EXPECT_TRUE(found_with({}, 8, "h100").empty()) << text_of(found_with({}, 8, "h100"));
  // Bounds that are just kept.
  for (const std::vector<std::string>& sets : std::vector<std::vector<std::string>>{
           {"model.mla.kv_lora_rank=127"},
           {"model.mla.qk_rope_head_dim=0"},
           {"model.mla.qk_nope_head_dim=0"},
           {"model.num_key_value_heads=4"},
           {"model.moe.n_group=4", "model.moe.topk_group=1"},
           {"model.moe.moe_layers=3"},
           {"model.moe.router_aux_loss_weight=0.0009"},
           {"training.seq_length=64"},
           {"model.name=tiny-1b"},
           {"training.micro_batch_size=-1", "training.global_batch_size=9",
            "parallel.expert_parallel_size=1", "parallel.data_parallel_size=3"},
           {"parallel.context_parallel_size=-1", "parallel.expert_tensor_parallel_size=-1"},
           {"parallel.pipeline_schedule=auto", "parallel.pipeline_parallel_size=1"},
           {"parallel.pipeline_layers=[1, 3]", "parallel.pipeline_parallel_size=2"},
           {"parallel.pipeline_layers=[1, 1, 2]", "parallel.pipeline_parallel_size=3"},
           {"parallel.pipeline_layers=[1, 1, 1, 1]", "parallel.pipeline_parallel_size=2",
            "parallel.pipeline_schedule=interleaved"},
           // Kimi-K2's: one step from kept to stretched frequencies.
           {"model.mla.rope_scaling.type=yarn", "model.mla.rope_scaling.beta_fast=1",
            "model.mla.rope_scaling.beta_slow=1"},
           // 20 tokens for each of the model's active parameters.
           {"cluster.devices=cuda", "training.max_steps=1000000"},
           {"parallel.tensor_parallel_size=4", "parallel.expert_parallel_size=2"}}) {
    const std::vector<Diagnostic> all = found_with(sets);
    EXPECT_TRUE(all.empty()) << text_of(all);
  }
}

// A fault that follows from another is not told of.
TEST(Validate, OneFaultIsReportedOnce) {
  // 8 fixed ranks of TP·PP leave 3 of 24 GPUs, which EP 2 doesn't divide: the batch is not at
  // fault.
  const std::vector<Diagnostic> layout =
      found_with({"parallel.tensor_parallel_size=4", "parallel.pipeline_parallel_size=2",
                  "parallel.expert_parallel_size=2", "training.global_batch_size=1000"},
                 24);
  EXPECT_NE(find(layout, "LAYOUT_PRODUCT_MISMATCH"), nullptr) << text_of(layout);
  EXPECT_EQ(find(layout, "GBS_NOT_DIVISIBLE"), nullptr) << text_of(layout);
  EXPECT_EQ(find(layout, "PIPELINE_UNDERFILLED"), nullptr) << text_of(layout);
  // One expert makes no eight groups, so they have no capacity either.
  const std::vector<Diagnostic> groups =
      found_with({"model.moe.num_experts=1", "model.moe.num_experts_per_token=1",
                  "model.moe.n_group=8", "model.moe.topk_group=1"});
  EXPECT_NE(find(groups, "MOE_EXPERTS_NOT_DIVISIBLE_BY_GROUPS"), nullptr) << text_of(groups);
  EXPECT_EQ(find(groups, "MOE_TOPK_EXCEEDS_GROUP_CAPACITY"), nullptr) << text_of(groups);
}

TEST(Validate, DiagnosticsStandWhereTheKeyWasGiven) {
  const std::vector<Diagnostic> all = found_with({"parallel.pipeline_parallel_size=9"});
  EXPECT_EQ(find(all, "PP_GT_LAYERS")->where, "--set parallel.pipeline_parallel_size=9");
  const Parsed p = parse_yaml(kSmallYaml, "f.yaml", {"model.moe.num_experts=1"});
  ValidateOptions options;
  options.origins = &p.origins;
  EXPECT_EQ(find(validate(p.job, options), "MOE_TOPK_GT_EXPERTS")->where, "f.yaml:17:28");
}

TEST(Validate, ALayoutHintUsesTheGpusThereAre) {
  const Diagnostic* d = nullptr;
  const std::vector<Diagnostic> all =
      found_with({"parallel.tensor_parallel_size=4", "parallel.pipeline_parallel_size=2",
                  "parallel.expert_parallel_size=2", "parallel.data_parallel_size=1"},
                 24);
  d = find(all, "LAYOUT_PRODUCT_MISMATCH");
  ASSERT_NE(d, nullptr);
  int tp = 0, pp = 0, ep = 0, dp = 0;
  ASSERT_EQ(std::sscanf(d->hint.c_str(), "TP=%d PP=%d EP=%d DP=%d", &tp, &pp, &ep, &dp), 4)
      << d->hint;
  EXPECT_EQ(tp * pp * ep * dp, 24);
  EXPECT_EQ(8 % (tp * ep), 0);
}

TEST(Validate, RanksPerNodeThatNothingUsesIsSaid) {
  const auto codes = [](const std::vector<std::string>& sets) {
    Parsed p = parse_yaml(kSmallYaml, "f.yaml", sets);
    ValidateOptions options;
    options.origins = &p.origins;
    std::string found;
    for (const Diagnostic& d : validate(p.job, options)) found += d.code + " ";
    return found;
  };
  const std::vector<std::string> fixed = {
      "parallel.tensor_parallel_size=1", "parallel.pipeline_parallel_size=1",
      "parallel.expert_parallel_size=1", "parallel.data_parallel_size=2", "cluster.devices=cpu"};
  auto with = [&](const char* more) {
    std::vector<std::string> sets = fixed;
    sets.emplace_back(more);
    return codes(sets);
  };
  EXPECT_EQ(with("cluster.ranks_per_node=4"), "RANKS_PER_NODE_IGNORED ");
  EXPECT_EQ(with("cluster.ranks_per_node=2"), "");
  EXPECT_EQ(codes(fixed), "") << "left out it is no one's wish";
  EXPECT_EQ(codes({"cluster.ranks_per_node=4", "cluster.devices=cpu"}), "") << "a size is free";
}

TEST(Validate, AnAcceptedWarningIsNotShownAndAnErrorAlwaysIs) {
  const auto found = [](const std::vector<std::string>& sets) {
    return validate(parse_yaml(kSmallYaml, "f.yaml", sets).job);
  };
  const std::string accept = "preset.accepts=MOE_SHARED_RATIO MOE_TOPK_GT_EXPERTS";
  EXPECT_EQ(found({"model.moe.num_shared_experts=1"}).size(), 1u);
  EXPECT_EQ(found({"model.moe.num_shared_experts=1", accept}).size(), 0u);
  EXPECT_TRUE(has_errors(found({"model.moe.num_experts_per_token=9", accept})));
}

TEST(Validate, ARunNeedsMoreThanAPlan) {
  Parsed p = parse_yaml(kSmallYaml, "f.yaml", {"training.max_steps=0", "data.path="});
  ValidateOptions options;
  options.origins = &p.origins;
  EXPECT_TRUE(validate(p.job, options).empty());
  options.for_submit = true;
  EXPECT_EQ(validate(p.job, options).size(), 2u) << text_of(validate(p.job, options));
}

TEST(Validate, AnEmptySpecIsRefusedWithoutHarm) {
  EXPECT_TRUE(has_errors(validate(JobSpec{})));
}

TEST(GpuTable, KnowsCardsByTheirSeveralNames) {
  EXPECT_EQ(gpu_sm_version("NVIDIA H100 80GB HBM3"), 90);
  EXPECT_EQ(gpu_sm_version("h200"), 90);
  EXPECT_EQ(gpu_sm_version("h1000"), 0) << "not an h100";
  EXPECT_EQ(gpu_sm_version("H100PCIe"), 90);
  EXPECT_EQ(gpu_label_gb("RTX 4090"), 24);
  EXPECT_EQ(gpu_label_gb("a100"), 0) << "40 or 80";
  EXPECT_EQ(gpu_sm_version("NVIDIA GH200 480GB"), 90);
  EXPECT_EQ(gpu_sm_version("a100-80"), 80);
  EXPECT_EQ(gpu_sm_version("NVIDIA A100-SXM4-40GB"), 80);
  EXPECT_EQ(gpu_sm_version("rtx4090"), 89);
  EXPECT_EQ(gpu_sm_version("NVIDIA GeForce RTX 4090"), 89);
  EXPECT_EQ(gpu_sm_version("NVIDIA L40S"), 89);
  EXPECT_EQ(gpu_sm_version("NVIDIA RTX 6000 Ada Generation"), 89);
  EXPECT_EQ(gpu_sm_version("NVIDIA RTX A6000"), 86);
  EXPECT_EQ(gpu_sm_version("B200"), 100);
  EXPECT_EQ(gpu_sm_version("abacus"), 0);
}

TEST(ResolvedDataParallelSize, IsWhatTheOthersLeave) {
  ParallelSpec p;
  p.tensor_parallel_size = 2;
  p.expert_parallel_size = 3;
  EXPECT_EQ(resolved_data_parallel_size(p, 24), 4);
  EXPECT_EQ(resolved_data_parallel_size(p, 25), 0);
  p.data_parallel_size = 7;
  EXPECT_EQ(resolved_data_parallel_size(p, 24), 7);
}

}  // namespace
}  // namespace dsv3::spec
