// The presets: valid without a warning that isn't explained, found by name, and honest in their
// comments.
#include "configs/spec/presets.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/validate.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

std::vector<Preset> presets() {
  Result<std::vector<Preset>> all = list_presets();
  EXPECT_TRUE(all.ok()) << all.status().to_string();
  return all.ok() ? std::move(all).value() : std::vector<Preset>{};
}

TEST(Presets, AreTheTwelveSmallestFirst) {
  std::vector<std::string> names;
  for (const Preset& p : presets()) names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{"demo", "bench-cpu", "small", "1b", "5b", "10b", "15b",
                                             "v2-lite", "moonlight-16b", "20b", "671b", "v3"}));
}

TEST(Presets, AreValidWithoutAWarning) {
  for (const Preset& p : presets()) {
    const Result<Parsed> parsed = load(p.name);
    ASSERT_TRUE(parsed.ok() && parsed->diagnostics.empty())
        << p.name << text_of(parsed->diagnostics);
    ValidateOptions options;
    options.origins = &parsed->origins;
    options.for_submit = true;
    std::vector<std::string> codes;
    for (const Diagnostic& d : validate(parsed->job, options)) codes.push_back(d.code);
    EXPECT_EQ(codes, std::vector<std::string>{}) << p.name;
    EXPECT_FALSE(p.use_case.empty());
    EXPECT_EQ(p.job.model.name, p.name);
    EXPECT_EQ(p.gpus_min > 0, p.job.cluster.devices == "cuda") << p.name;
  }
}

TEST(Presets, TheCountsInTheirCommentsAreTheComputedOnes) {
  for (const Preset& p : presets()) {
    const std::string text = read_file(p.file).value();
    const ParamCounts c = count_params(p.job.model);
    EXPECT_NE(text.find("Computed: " + with_commas(c.total) + " parameters, " +
                        with_commas(c.active) + " active"),
              std::string::npos)
        << p.name << ": " << with_commas(c.total) << ", " << with_commas(c.active);
    if (c.mtp > 0) {
      EXPECT_NE(text.find(with_commas(c.mtp)), std::string::npos)
          << p.name << " MTP " << with_commas(c.mtp);
    }
  }
}

// "15.7B", "407.5M", "983.0K": as the comments write counts of tokens.
std::string count_text(double n) {
  const std::pair<double, char> units[] = {{1e12, 'T'}, {1e9, 'B'}, {1e6, 'M'}, {1e3, 'K'}};
  for (const auto& [unit, letter] : units) {
    if (n >= unit) return fmt::format("{:.1f}{}", n / unit, letter);
  }
  return fmt::format("{:.1f}", n);
}

TEST(Presets, TheFlopsInTheirCommentsAreTheComputedOnes) {
  for (const Preset& p : presets()) {
    const std::string text = read_file(p.file).value();
    const auto gf = [&](int64_t sequence) {
      return fmt::format("{:.2f} GF", flops_per_token(p.job.model, sequence).total / 1e9);
    };
    const int64_t seq = p.job.training.seq_length, context = p.job.model.max_context_length;
    std::string want =
        fmt::format("\n# FLOPs: {} per token, forward and backward, causal, at seq_length {}",
                    gf(seq), with_commas(seq));
    if (context != seq) want += fmt::format("; {} at {}", gf(context), with_commas(context));
    EXPECT_NE(text.find(want + ".\n"), std::string::npos) << p.name << " wants" << want;
  }
}

TEST(Presets, TheTokensInTheirCommentsAreTheComputedOnes) {
  for (const Preset& p : presets()) {
    const std::string text = read_file(p.file).value();
    const TrainingSpec& t = p.job.training;
    const auto product = static_cast<double>(t.max_steps) *
                         static_cast<double>(t.global_batch_size) *
                         static_cast<double>(t.seq_length);
    const std::string want =
        fmt::format("\n# Tokens: {} wanted (20 per active parameter); the {} steps here see {}",
                    count_text(20.0 * static_cast<double>(count_params(p.job.model).active)),
                    with_commas(t.max_steps), count_text(product));
    EXPECT_NE(text.find(want), std::string::npos) << p.name << " wants" << want;
    EXPECT_NE(text.find(fmt::format("# sequences: {} tokens",
                                    with_commas(t.global_batch_size * t.seq_length))),
              std::string::npos)
        << p.name;
    EXPECT_NE(text.find("\n# Fits"), std::string::npos) << p.name;
  }
}

// What the planner settles is left to it in the presets that are scaled to clusters.
TEST(Presets, LeaveMicroBatchAndScheduleToThePlanner) {
  for (const char* name : {"1b", "5b", "10b", "15b", "20b", "671b"}) {
    const Result<Parsed> p = load(name);
    ASSERT_TRUE(p.ok() && p->ok()) << name;
    EXPECT_EQ(p->job.training.micro_batch_size, -1) << name;
    EXPECT_EQ(p->job.parallel.pipeline_schedule, "auto") << name;
  }
}

TEST(Presets, TheTwoOfDeepSeekV3DifferInWhatTheirCommentsSay) {
  const Result<Parsed> guide = load("671b"), published = load("v3");
  ASSERT_TRUE(guide.ok() && published.ok());
  EXPECT_EQ(diff_text(diff(guide->job, published->job)),
            "model.name: \"671b\" -> \"v3\"\n"
            "model.max_context_length: 131072 -> 163840\n"
            "training.dtype: bf16 -> fp8\n"
            "training.moments_dtype: fp32 -> bf16\n");
}

TEST(Presets, GoByTheNamesOfTheGuide) {
  for (const auto& [name, preset] :
       std::vector<std::pair<std::string, std::string>>{{"deepseek_v3_15b", "15b"},
                                                        {"deepseek_v3_15b.yaml", "15b"},
                                                        {"configs/deepseek_v3_1b.yaml", "1b"},
                                                        {"deepseek_v3_base", "671b"},
                                                        {"deepseek_v3_base.yaml", "671b"},
                                                        {"deepseek_v3_small", "small"},
                                                        {"deepseek-v3-5b", "5b"},
                                                        {"15B", "15b"},
                                                        {"DeepSeek_V3_Base.YAML", "671b"},
                                                        {"V2-Lite", "v2-lite"},
                                                        {"20b", "20b"}}) {
    const Result<Parsed> p = load(name);
    ASSERT_TRUE(p.ok()) << name << ": " << p.status().to_string();
    EXPECT_EQ(p->job.model.name, preset) << name;
  }
  EXPECT_EQ(load("deepseek_v3_16b").status().code(), Code::kNotFound);
  EXPECT_EQ(preset_name("models/config.json"), "");
  EXPECT_EQ(preset_name("./15b"), "");
}

TEST(Presets, TheDemoDividesByTheLayoutsItIsRehearsedWith) {
  for (const std::vector<std::string>& sets : std::vector<std::vector<std::string>>{
           {"parallel.tensor_parallel_size=2", "parallel.expert_parallel_size=2",
            "training.micro_batch_size=2"},
           {"parallel.pipeline_parallel_size=4", "training.micro_batch_size=2"},
           {"parallel.expert_parallel_size=4", "training.micro_batch_size=2"},
           {"parallel.tensor_parallel_size=2", "parallel.pipeline_parallel_size=2",
            "training.micro_batch_size=2"}}) {
    Result<Parsed> parsed = load("demo", sets);
    ASSERT_TRUE(parsed.ok() && parsed->ok());
    parsed->job.parallel.data_parallel_size = -1;
    ValidateOptions options;
    options.gpus = 4;
    const std::vector<Diagnostic> found = validate(parsed->job, options);
    for (const Diagnostic& d : found) ADD_FAILURE() << to_string(d);
  }
}

TEST(Load, ANameThatIsNoPresetListsThemAndGuesses) {
  const Result<Parsed> r = load("smal");
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.status().code(), Code::kNotFound);
  EXPECT_NE(r.status().hint().find("'small'"), std::string::npos);
  EXPECT_NE(r.status().hint().find("671b"), std::string::npos);
  EXPECT_EQ(load("no/such/file.yaml").status().code(), Code::kNotFound);
  EXPECT_FALSE(load("").ok());
  EXPECT_FALSE(load("/").ok());
}

TEST(Load, AJsonSuffixMeansAConfigJson) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "spec_load";
  ASSERT_TRUE(make_dirs(dir.string()).ok());
  const std::string path = (dir / "config.json").string();
  ASSERT_TRUE(write_file(path, R"({"model_type": "deepseek_v3", "num_hidden_layers": 7})").ok());
  const Result<Parsed> p = load(path, {"training.seq_length=128"});
  ASSERT_TRUE(p.ok() && p->ok());
  EXPECT_EQ(p->job.model.num_layers, 7);
  EXPECT_EQ(p->job.model.d_model, 7168);
  EXPECT_EQ(p->job.training.seq_length, 128);
}

TEST(Load, LoadValidRefusesWhatValidateRefuses) {
  const Result<JobSpec> r = load_valid("small", {"model.moe.n_group=3"});
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.status().code(), Code::kInvalid);
  EXPECT_EQ(r.status().where(), "--set model.moe.n_group=3");
  EXPECT_TRUE(load_valid("small").ok());
}

}  // namespace
}  // namespace dsv3::spec
