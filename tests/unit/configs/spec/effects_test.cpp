// NO_EFFECT: said where a value was given, differs from the default and changes nothing; silent
// otherwise.
#include <gtest/gtest.h>

#include "configs/spec/render.h"
#include "configs/spec/validate.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

// Keys that NO_EFFECT is said of.
std::vector<std::string> idle_keys(const std::vector<std::string>& sets) {
  const Parsed p = parse_yaml(kSmallYaml, "f.yaml", sets);
  EXPECT_TRUE(p.ok()) << text_of(p.diagnostics);
  ValidateOptions options;
  options.origins = &p.origins;
  std::vector<std::string> keys;
  for (const Diagnostic& d : validate(p.job, options)) {
    if (d.code != "NO_EFFECT") continue;
    keys.push_back(d.key);
    EXPECT_EQ(d.severity, Severity::kWarning);
    EXPECT_FALSE(d.hint.empty());
    EXPECT_FALSE(d.where.empty());
  }
  return keys;
}

struct Idle {
  std::vector<std::string> sets;  // make it idle
  std::string key;
  std::vector<std::string> cure;  // added, they give it an effect
};

class Effects : public testing::TestWithParam<Idle> {};

TEST_P(Effects, AreMissingOnlyWithoutTheirCondition) {
  const Idle& idle = GetParam();
  EXPECT_EQ(idle_keys(idle.sets), std::vector<std::string>{idle.key});
  std::vector<std::string> cured = idle.sets;
  cured.insert(cured.end(), idle.cure.begin(), idle.cure.end());
  EXPECT_EQ(idle_keys(cured), std::vector<std::string>{}) << idle.key;
}

INSTANTIATE_TEST_SUITE_P(
    NoEffect, Effects,
    testing::Values(
        Idle{{"model.mla.rope_theta=5e5", "model.mla.qk_rope_head_dim=0"},
             "model.mla.rope_theta",
             {"model.mla.qk_rope_head_dim=8"}},
        Idle{{"model.mla.rope_scaling.mscale=0.7"},
             "model.mla.rope_scaling.mscale",
             {"model.mla.rope_scaling.type=yarn"}},
        Idle{{"model.mla.rope_scaling.beta_fast=16"},
             "model.mla.rope_scaling.beta_fast",
             {"model.mla.rope_scaling.type=yarn"}},
        Idle{{"model.mtp_loss_weight=0.7"}, "model.mtp_loss_weight", {"model.mtp_layers=1"}},
        Idle{{"model.moe.first_k_dense=0"},
             "model.dense_intermediate_size",
             {"model.moe.first_k_dense=1"}},
        Idle{{"model.moe.n_group=2", "model.moe.topk_group=2"},
             "model.moe.n_group",
             {"model.moe.topk_group=1"}},
        Idle{{"model.moe.allow_uneven_groups=true"},
             "model.moe.allow_uneven_groups",
             {"model.moe.n_group=4", "model.moe.topk_group=3"}},
        Idle{{"model.moe.bias_update_rate=0.01", "model.moe.use_aux_loss_free=false"},
             "model.moe.bias_update_rate",
             {"model.moe.use_aux_loss_free=true"}},
        Idle{{"model.moe.deep_ep_fp8=true"},
             "model.moe.deep_ep_fp8",
             {"model.moe.use_deep_ep=true"}},
        Idle{{"model.moe.use_deep_ep=true", "parallel.expert_parallel_size=1"},
             "model.moe.use_deep_ep",
             {"parallel.expert_parallel_size=2"}},
        Idle{{"parallel.zero_stage=2", "parallel.expert_parallel_size=1",
              "parallel.data_parallel_size=1"},
             "parallel.zero_stage",
             {"parallel.data_parallel_size=2"}},
        Idle{{"parallel.overlap_grad_reduce=false", "parallel.expert_parallel_size=1",
              "parallel.data_parallel_size=1"},
             "parallel.overlap_grad_reduce",
             {"parallel.data_parallel_size=-1"}},
        Idle{{"parallel.overlap_expert_exchange=false", "parallel.expert_parallel_size=1",
              "parallel.tensor_parallel_size=1"},
             "parallel.overlap_expert_exchange",
             {"parallel.expert_parallel_size=2"}},
        Idle{{"parallel.pipeline_schedule=interleaved", "parallel.pipeline_parallel_size=1"},
             "parallel.pipeline_schedule",
             {"parallel.pipeline_parallel_size=2"}},
        Idle{{"parallel.pipeline_layers=[4]", "parallel.pipeline_parallel_size=1"},
             "parallel.pipeline_layers",
             {"parallel.pipeline_layers=[1, 3]", "parallel.pipeline_parallel_size=2"}},
        Idle{{"parallel.expert_tensor_parallel_size=-1", "parallel.tensor_parallel_size=1"},
             "parallel.expert_tensor_parallel_size",
             {"parallel.tensor_parallel_size=2"}},
        Idle{{"parallel.offload_optimizer=true"},
             "parallel.offload_optimizer",
             {"cluster.devices=cuda"}},
        Idle{{"training.min_learning_rate=1e-5", "training.lr_schedule=constant"},
             "training.min_learning_rate",
             {"training.lr_schedule=linear"}},
        Idle{{"training.eval_interval_steps=5", "data.split=[1, 0]"},
             "training.eval_interval_steps",
             {"data.split=[0.9, 0.1]"}}));

TEST(NoEffect, ADenseModelHasNoExpertsKeys) {
  const std::vector<std::string> keys =
      idle_keys({"model.moe.num_experts=0", "model.moe.router_z_loss_weight=1e-3"});
  EXPECT_EQ(keys, (std::vector<std::string>{
                      "model.moe.num_experts_per_token", "model.moe.expert_intermediate_size",
                      "model.moe.first_k_dense", "model.moe.router_z_loss_weight"}));
}

TEST(NoEffect, DefaultsAndWhatNobodyWroteAreSilent) {
  EXPECT_EQ(idle_keys({"model.mla.rope_scaling.mscale=1.0", "parallel.zero_stage=1",
                       "parallel.expert_parallel_size=1", "parallel.data_parallel_size=1"}),
            std::vector<std::string>{});
  JobSpec job = parse_yaml(kSmallYaml, "f.yaml").job;
  job.model.mtp_loss_weight = 0.9;  // code's doing, not a user's
  EXPECT_TRUE(validate(job).empty());
}

// A job's spec.yaml holds every key, wished or not; what is laid over it was wished.
TEST(NoEffect, AFileThatToYamlWroteIsSilent) {
  const Parsed by_hand =
      parse_yaml(kSmallYaml, "f.yaml",
                 {"model.mtp_loss_weight=0.7", "cluster.ranks_per_node=4",
                  "parallel.tensor_parallel_size=1", "parallel.pipeline_parallel_size=1",
                  "parallel.expert_parallel_size=1", "parallel.data_parallel_size=2"});
  const auto codes = [](const Parsed& p) {
    ValidateOptions options;
    options.origins = &p.origins;
    std::string found;
    for (const Diagnostic& d : validate(p.job, options)) found += d.code + " ";
    return found;
  };
  EXPECT_EQ(codes(by_hand), "RANKS_PER_NODE_IGNORED NO_EFFECT ");
  const std::string written = "# of a job\n" + to_yaml(by_hand.job);
  EXPECT_EQ(codes(parse_yaml(written, "spec.yaml")), "");
  EXPECT_EQ(codes(parse_yaml(written, "spec.yaml", {"model.mtp_loss_weight=0.8"})), "NO_EFFECT ");
  const std::string taken_over = written.substr(written.find("model:"));
  EXPECT_EQ(codes(parse_yaml(taken_over, "mine.yaml")), codes(by_hand));
  // The places of its keys are still told.
  EXPECT_EQ(parse_yaml(written, "spec.yaml").origins.at("model.name").substr(0, 10), "spec.yaml:");
}

}  // namespace
}  // namespace dsv3::spec
