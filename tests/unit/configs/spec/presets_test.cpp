// The presets: valid without a warning that isn't explained, found by name, and honest in their
// comments.
#include "configs/spec/presets.h"

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

TEST(Presets, AreTheNineSmallestFirst) {
  std::vector<std::string> names;
  for (const Preset& p : presets()) names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{"demo", "bench-cpu", "small", "1b", "5b", "10b", "15b",
                                             "20b", "671b"}));
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
  ASSERT_TRUE(write_file(path, "{\"num_hidden_layers\": 7}").ok());
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
