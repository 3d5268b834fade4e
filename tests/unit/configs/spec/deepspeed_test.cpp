// A DeepSpeed json over a configuration: what is taken over, what is said to have no effect, what
// is refused.
#include "configs/spec/deepspeed.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "configs/spec/validate.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

Parsed with(const std::string& json, std::vector<std::string> set = {}) {
  return parse(kSmallYaml, "f.yaml", Format::kYaml,
               {{{"--deepspeed", "ds.json", json, Format::kDeepSpeed}}, std::move(set)});
}

// A file as users have it, after DeepSpeed's tutorials.
const char* const kUsual = R"({
  "train_batch_size": 64,
  "train_micro_batch_size_per_gpu": 2,
  "gradient_accumulation_steps": "auto",
  "gradient_clipping": 0.5,
  "steps_per_print": 7,
  "wall_clock_breakdown": false,
  "bf16": {"enabled": true},
  "fp16": {"enabled": false, "loss_scale": 0, "loss_scale_window": 1000},
  "optimizer": {"type": "AdamW",
                "params": {"lr": 2e-4, "betas": [0.8, 0.99], "eps": 1e-7, "weight_decay": 0.05}},
  "scheduler": {"type": "WarmupDecayLR",
                "params": {"warmup_min_lr": 0, "warmup_max_lr": 2e-4, "warmup_num_steps": 3,
                           "total_num_steps": 50, "warmup_type": "linear"}},
  "zero_optimization": {"stage": 2, "overlap_comm": false,
                        "offload_optimizer": {"device": "cpu"}},
  "tensorboard": {"enabled": true}
})";

TEST(DeepSpeed, TheUsualFileIsTakenOver) {
  const Parsed p = with(kUsual);
  ASSERT_TRUE(p.diagnostics.empty()) << text_of(p.diagnostics);
  const TrainingSpec& t = p.job.training;
  EXPECT_EQ(t.global_batch_size, 64);
  EXPECT_EQ(t.micro_batch_size, 2);
  EXPECT_EQ(t.grad_clip, 0.5);
  EXPECT_EQ(t.dtype, "bf16");
  EXPECT_EQ(t.learning_rate, 2e-4);
  EXPECT_EQ(t.beta1, 0.8);
  EXPECT_EQ(t.beta2, 0.99);
  EXPECT_EQ(t.eps, 1e-7);
  EXPECT_EQ(t.weight_decay, 0.05);
  EXPECT_EQ(t.lr_schedule, "linear");
  EXPECT_EQ(t.lr_warmup_steps, 3);
  EXPECT_EQ(t.max_steps, 50);
  EXPECT_EQ(p.job.parallel.zero_stage, 2);
  EXPECT_FALSE(p.job.parallel.overlap_grad_reduce);
  EXPECT_TRUE(p.job.parallel.offload_optimizer);
  EXPECT_TRUE(p.job.logging.tensorboard);
  EXPECT_EQ(p.job.logging.interval_steps, 7);
  EXPECT_EQ(p.job.model.d_model, 64) << "the model is FILE's";
  EXPECT_EQ(p.origins.at("training.grad_clip"), "ds.json:5:3");
}

TEST(DeepSpeed, SchedulesAndPrecisionsAreTranslated) {
  const auto job = [](const std::string& json) {
    const Parsed p = with(json, {});
    EXPECT_TRUE(p.ok()) << json << text_of(p.diagnostics);
    return p.job;
  };
  EXPECT_EQ(job(R"({"scheduler": {"type": "WarmupLR"}})").training.lr_schedule, "constant");
  const TrainingSpec cosine = job(R"({"optimizer": {"params": {"lr": 1e-3}},
              "scheduler": {"type": "WarmupCosineLR", "params": {"cos_min_ratio": 0.1}}})")
                                  .training;
  EXPECT_EQ(cosine.lr_schedule, "cosine");
  EXPECT_EQ(cosine.min_learning_rate, 1e-4);
  EXPECT_EQ(job(R"({"bf16": {"enabled": false}})").training.dtype, "fp32");
  EXPECT_EQ(job(R"({"bf16": {"enabled": "auto"}})").training.dtype, "bf16");
  EXPECT_EQ(job(R"({"bf16": {"enabled": true}, "fp8": {"enabled": true}})").training.dtype, "fp8");
  EXPECT_EQ(job(R"({"data_types": {"grad_accum_dtype": "bf16"}})").training.grads_dtype, "bf16");
  EXPECT_EQ(job(R"({"activation_checkpointing": {}})").parallel.recompute, "full");
  EXPECT_FALSE(job(R"({"zero_optimization": {"offload_optimizer": {"device": "none"}}})")
                   .parallel.offload_optimizer);
}

TEST(DeepSpeed, AutoLeavesWhatTheConfigurationSays) {
  const Parsed p = with(R"({"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
      "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
      "zero_optimization": {"stage": "auto"}, "optimizer": {"type": "AdamW", "params": {"lr": "auto",
      "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
      "scheduler": {"type": "auto", "params": {"warmup_num_steps": "auto"}}})");
  ASSERT_TRUE(p.diagnostics.empty()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job, parse_yaml(kSmallYaml, "f.yaml").job);
  EXPECT_TRUE(p.applied.at(0).changes.empty());
}

struct Said {
  const char* json;
  const char* code;
  const char* says;
};

class DeepSpeedSays : public testing::TestWithParam<Said> {};

TEST_P(DeepSpeedSays, OneThingWithItsPlaceAndReason) {
  const Parsed p = with(GetParam().json);
  ASSERT_EQ(p.diagnostics.size(), 1u) << GetParam().json << "\n" << text_of(p.diagnostics);
  const Diagnostic& d = p.diagnostics[0];
  EXPECT_EQ(d.code, GetParam().code) << to_string(d);
  EXPECT_EQ(d.where.substr(0, 10), "ds.json:1:") << d.where;
  EXPECT_EQ(d.severity == Severity::kWarning, d.code == "NO_EFFECT");
  EXPECT_NE((d.message + " " + d.hint).find(GetParam().says), std::string::npos) << to_string(d);
}

INSTANTIATE_TEST_SUITE_P(
    DeepSpeed, DeepSpeedSays,
    testing::Values(
        Said{R"({"wall_clock_breakdown": true})", "NO_EFFECT", "dsv3ctl profile"},
        Said{R"({"zero_optimization": {"reduce_bucket_size": 5e8}})", "NO_EFFECT", "buckets"},
        Said{R"({"zero_optimization": {"offload_param": {"device": "cpu"}}})", "NO_EFFECT",
             "stage 3"},
        Said{R"({"activation_checkpointing": {"cpu_checkpointing": true}})", "NO_EFFECT", "device"},
        Said{R"({"scheduler": {"params": {"warmup_type": "log"}}})", "NO_EFFECT", "linear"},
        Said{R"({"flops_profiler": {"enabled": true, "profile_step": 3}})", "NO_EFFECT", "profile"},
        Said{R"({"fp16": {"enabled": true}})", "UNSUPPORTED_DEEPSPEED", "bf16"},
        Said{R"({"amp": {"enabled": true}})", "UNSUPPORTED_DEEPSPEED", "bf16"},
        Said{R"({"curriculum_learning": {"enabled": true}})", "UNSUPPORTED_DEEPSPEED", "leave it"},
        Said{R"({"optimizer": {"type": "Lamb"}})", "BAD_CHOICE", "AdamW"},
        Said{R"({"optimizer": {"params": {"adam_w_mode": false}}})", "UNSUPPORTED_DEEPSPEED",
             "decay"},
        Said{R"({"optimizer": {"params": {"betas": 0.9}}})", "WRONG_TYPE", "two numbers"},
        Said{R"({"scheduler": {"type": "OneCycle"}})", "BAD_CHOICE", "WarmupCosineLR"},
        Said{R"({"scheduler": {"params": {"cos_min_ratio": 0.1}}})", "MISSING_KEY",
             "optimizer.params.lr"},
        Said{R"({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}})", "BAD_CHOICE",
             "cpu"},
        Said{R"({"zero_optimization": {"stage": 4}})", "OUT_OF_RANGE", "0 … 3"},
        Said{R"({"zero_optimisation": {"stage": 1}})", "UNKNOWN_KEY", "zero_optimization"},
        Said{R"({"zero_optimization": {"overlap_com": true}})", "UNKNOWN_KEY", "overlap_comm"},
        Said{R"({"zz": 1})", "UNKNOWN_KEY", "leave it out"},
        Said{R"({"bf16": {"enabled": 1}})", "WRONG_TYPE", "true or false"},
        Said{R"({"bf16": true})", "WRONG_TYPE", "section"},
        Said{R"({"gradient_clipping": 1, "gradient_clipping": 2})", "DUPLICATE_KEY", "twice"},
        Said{R"([1])", "NOT_A_MAPPING", "mapping"}));

TEST(DeepSpeed, WhatIsSwitchedOffIsSilent) {
  const Parsed p =
      with(R"({"wall_clock_breakdown": false, "curriculum_learning": {"enabled": false},
      "amp": {"enabled": false}, "flops_profiler": {"enabled": false, "profile_step": 1},
      "prescale_gradients": false, "tensor_parallel": {"autotp_size": 0}, "wandb": {"enabled": false},
      "zero_optimization": {"offload_param": {"device": "none"}}})");
  EXPECT_TRUE(p.diagnostics.empty()) << text_of(p.diagnostics);
}

// global batch = micro-batch · accumulation · EP·DP.
TEST(DeepSpeed, AccumulationMustAgreeWithTheBatch) {
  const std::string batch = R"({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 2,
                                "gradient_accumulation_steps": )";
  const std::vector<std::string> widths = {"parallel.expert_parallel_size=2",
                                           "parallel.data_parallel_size=4"};
  EXPECT_TRUE(with(batch + "4}", widths).diagnostics.empty());  // 2·4·8 = 64
  const Parsed p = with(batch + "3}", widths);
  const Diagnostic* d = find(p.diagnostics, "GRAD_ACCUMULATION_MISMATCH");
  ASSERT_NE(d, nullptr) << text_of(p.diagnostics);
  EXPECT_EQ(d->severity, Severity::kError);
  for (const char* value : {"=3", "=2", "=8", "48", "=64"})
    EXPECT_NE(d->message.find(value), std::string::npos) << value << " in " << d->message;
  EXPECT_NE(d->hint.find("(4)"), std::string::npos) << d->hint;
  const Parsed free = with(batch + "3}");
  ASSERT_EQ(free.diagnostics.size(), 1u);
  EXPECT_EQ(free.diagnostics[0].code, "NO_EFFECT");
  EXPECT_NE(find(with(R"({"gradient_accumulation_steps": 0})").diagnostics, "WRONG_TYPE"), nullptr);
}

// No product of what a user wrote may wrap around.
TEST(DeepSpeed, AnAbsurdAccumulationIsRefused) {
  for (const char* steps : {"16777217", "1000000000000", "9000000000000000000"}) {
    const Parsed p = with(std::string(R"({"gradient_accumulation_steps": )") + steps + "}",
                          {"parallel.expert_parallel_size=2", "parallel.data_parallel_size=4"});
    ASSERT_EQ(p.diagnostics.size(), 1u) << steps << "\n" << text_of(p.diagnostics);
    EXPECT_EQ(p.diagnostics[0].code, "OUT_OF_RANGE") << steps;
    EXPECT_NE(p.diagnostics[0].message.find(steps), std::string::npos);
  }
  // Each factor is in its range, the batch isn't: 2^24 · 2 · 8.
  const std::vector<std::string> widths = {"parallel.expert_parallel_size=2",
                                           "parallel.data_parallel_size=4"};
  const std::string most =
      R"({"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 16777216})";
  const Parsed given = with(most, widths);
  EXPECT_NE(find(given.diagnostics, "GRAD_ACCUMULATION_MISMATCH"), nullptr)
      << text_of(given.diagnostics);
  std::string yaml = kSmallYaml;
  yaml.erase(yaml.find("  global_batch_size: 8\n"), 23);
  const Parsed computed = parse(yaml, "f.yaml", Format::kYaml,
                                {{{"--deepspeed", "ds.json", most, Format::kDeepSpeed}}, widths});
  const Diagnostic* d = find(computed.diagnostics, "OUT_OF_RANGE");
  ASSERT_NE(d, nullptr) << text_of(computed.diagnostics);
  EXPECT_EQ(d->where.substr(0, 8), "ds.json:");
  EXPECT_LE(computed.job.training.global_batch_size, 16777216);
}

TEST(DeepSpeed, TheMissingGlobalBatchIsComputed) {
  std::string yaml = kSmallYaml;
  yaml.erase(yaml.find("  global_batch_size: 8\n"), 23);
  const Parsed p =
      parse(yaml, "f.yaml", Format::kYaml,
            {{{"--deepspeed", "ds.json",
               R"({"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3})",
               Format::kDeepSpeed}},
             {"parallel.expert_parallel_size=2", "parallel.data_parallel_size=4"}});
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.training.global_batch_size, 48);
  EXPECT_EQ(p.origins.count("training.global_batch_size"), 1u);
}

TEST(DeepSpeed, TheFileThatShipsIsForTheFullModel) {
  const Result<Parsed> p = load(LoadRequest{"671b", {}, "deepspeed_config.json", {}});
  ASSERT_TRUE(p.ok()) << p.status().to_string();
  ASSERT_TRUE(p->diagnostics.empty()) << text_of(p->diagnostics);
  EXPECT_EQ(diff_text(p->applied.at(0).changes), "parallel.recompute: none -> full\n");
  EXPECT_EQ(p->job.parallel.zero_stage, 1);
  EXPECT_EQ(p->job.training.dtype, "bf16");
  EXPECT_TRUE(validate(p->job).empty()) << text_of(validate(p->job));
  EXPECT_EQ(load(LoadRequest{"671b", {}, "no-such.json", {}}).status().code(), Code::kNotFound);
}

TEST(DeepSpeed, IsNoConfigurationByItself) {
  const Parsed p = parse_json(kUsual, "ds.json");
  ASSERT_EQ(p.diagnostics.size(), 1u) << text_of(p.diagnostics);
  EXPECT_EQ(p.diagnostics[0].code, "NO_MODEL");
  EXPECT_NE(p.diagnostics[0].hint.find("--deepspeed ds.json"), std::string::npos);
}

// An overlay and --set win over it.
TEST(DeepSpeed, LiesBelowTheOverlays) {
  const Result<Parsed> p = load(
      LoadRequest{"671b", {"max-quality"}, "deepspeed_config.json", {"training.weight_decay=0.2"}});
  ASSERT_TRUE(p.ok() && p->ok());
  EXPECT_EQ(p->job.training.grad_clip, 0.5);
  EXPECT_EQ(p->job.training.weight_decay, 0.2);
}

TEST(DeepSpeed, DamagedFilesAreRefusedWithoutHarm) {
  const std::string text = kUsual;
  for (size_t n = 0; n + 1 < text.size(); n += 7) EXPECT_FALSE(with(text.substr(0, n)).ok()) << n;
  EXPECT_FALSE(with(std::string(100000, '[')).ok());
  const std::string bytes("\0\t\n\"'#{}[]:,-\xff\xc3", 15);
  uint32_t random = 3;
  for (int i = 0; i < 800; ++i) {
    random = random * 1664525u + 1013904223u;
    std::string damaged = text;
    damaged[(random >> 8) % damaged.size()] = bytes[(random >> 3) % bytes.size()];
    for (const Diagnostic& d : with(damaged).diagnostics)
      EXPECT_FALSE(d.code.empty() || d.message.empty());
  }
}

}  // namespace
}  // namespace dsv3::spec
