// Scoring against other people's code: checkpoints made of the golden fixtures' weights, their
// logits as transformers computed them (tests/golden/README.md).
#include "worker/rank/scorer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "configs/spec/parse.h"
#include "configs/spec/render.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/safetensors.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::rank {
namespace {

using checkpoint::SafetensorsFile;

const std::string kData = std::string(DSV3_SOURCE_DIR) + "/tests/golden/data/";
constexpr std::string_view kParam = "param/";

// A fixture as a checkpoint; its first sequence.
struct Golden {
  explicit Golden(const std::string& name, const std::string& left_out = "")
      : file(SafetensorsFile::open(kData + name + ".safetensors").value()) {
    const spec::JobSpec job = spec::load(kData + name + ".yaml")->job;
    vocabulary = job.model.vocab_size;
    checkpoint::SaveRequest request;
    request.dir = folder / "checkpoints";
    request.job = "golden";
    request.spec_yaml = spec::to_yaml(job);
    for (const auto& tensor : file.tensors()) {
      if (!tensor.name.starts_with(kParam) || tensor.name == "param/" + left_out) continue;
      request.tensors.push_back({.name = tensor.name.substr(kParam.size()),
                                 .shape = tensor.shape,
                                 .data = file.bytes(tensor).data()});
    }
    const auto saved = checkpoint::save(request);
    EXPECT_TRUE(saved.ok()) << saved.status().to_string();
    tokens.resize(static_cast<size_t>(job.training.seq_length));
    const auto all = file.bytes(*file.find("input/tokens"));  // [2, sequence + 1] i32
    std::memcpy(tokens.data(), all.data(), tokens.size() * sizeof(int32_t));
    logits = file.read_f32("out/logits").value();
    logits.resize(tokens.size() * static_cast<size_t>(vocabulary));
  }
  ScoreOptions options() const { return {.checkpoint = folder / "checkpoints", .tokens = tokens}; }
  double largest() const {
    double most = 0;
    for (const float v : logits) most = std::max(most, std::fabs(static_cast<double>(v)));
    return most;
  }

  TemporaryFolder folder;
  SafetensorsFile file;
  int64_t vocabulary = 0;
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [tokens, vocabulary]
};

TEST(Scorer, LogitsAreTransformersWithin1e5) {
  for (const char* name : {"groups", "odd_sizes", "softmax_groups", "tied", "yarn"}) {
    const Golden golden(name);
    ScoreOptions options = golden.options();
    options.logits_path = golden.folder / "logits.safetensors";
    const auto scored = score(options);
    ASSERT_TRUE(scored.ok()) << name << ": " << scored.status().to_string();
    const auto file = SafetensorsFile::open(options.logits_path).value();
    EXPECT_EQ(
        file.find("logits")->shape,
        (std::vector<int64_t>{static_cast<int64_t>(golden.tokens.size()), golden.vocabulary}));
    const std::vector<float> got = file.read_f32("logits").value();
    ASSERT_EQ(got.size(), golden.logits.size());
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - golden.logits[i]));
    EXPECT_LE(worst, 1e-5 * golden.largest()) << name;
  }
}

TEST(Scorer, LogprobsAreTheirLogSoftmax) {
  const Golden golden("base");
  const auto scored = score(golden.options());
  ASSERT_TRUE(scored.ok());
  ASSERT_EQ(scored->logprobs.size(), golden.tokens.size() - 1);
  double sum = 0;
  for (size_t i = 0; i + 1 < golden.tokens.size(); ++i) {
    const float* row = golden.logits.data() + i * static_cast<size_t>(golden.vocabulary);
    double total = 0;
    for (int64_t v = 0; v < golden.vocabulary; ++v) total += std::exp(static_cast<double>(row[v]));
    const double want = row[golden.tokens[i + 1]] - std::log(total);
    EXPECT_NEAR(scored->logprobs[i], want, 2e-5 * golden.largest()) << i;
    sum += scored->logprobs[i];
  }
  EXPECT_DOUBLE_EQ(scored->mean_logprob, sum / static_cast<double>(golden.tokens.size() - 1));
  EXPECT_DOUBLE_EQ(scored->perplexity, std::exp(-scored->mean_logprob));
}

TEST(Scorer, AnEarlierTokenDoesNotSeeLaterOnes) {
  const Golden golden("base");
  ScoreOptions options = golden.options();
  const auto whole = score(options);
  options.tokens.resize(5);
  const auto part = score(options);
  ASSERT_TRUE(whole.ok() && part.ok());
  ASSERT_EQ(part->logprobs.size(), 4U);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(part->logprobs[i], whole->logprobs[i], 1e-5);
}

TEST(Scorer, TokensThatTheModelHasNotAreRefused) {
  const Golden golden("base");
  const auto refusal = [&](std::vector<int32_t> tokens) {
    ScoreOptions options = golden.options();
    options.tokens = std::move(tokens);
    const auto scored = score(options);
    EXPECT_FALSE(scored.ok());
    EXPECT_EQ(scored.status().code(), Code::kInvalid);
    return scored.status().message();
  };
  EXPECT_NE(refusal({3, 67}).find("token 67 (number 2 of the sequence)"), std::string::npos);
  EXPECT_NE(refusal({-1, 3}).find("token -1"), std::string::npos);
  EXPECT_NE(refusal({3}).find("at least 2"), std::string::npos);
  EXPECT_NE(refusal({}).find("at least 2"), std::string::npos);
  EXPECT_NE(refusal(std::vector<int32_t>(65, 1)).find("context of 64"), std::string::npos);
}

TEST(Scorer, ACheckpointWithoutATensorOfItsModelIsNamed) {
  const Golden golden("base", "model.norm.weight");
  const auto scored = score(golden.options());
  ASSERT_FALSE(scored.ok());
  EXPECT_EQ(scored.status().code(), Code::kCheckpointUnusable);
  EXPECT_NE(scored.status().message().find("model.norm.weight"), std::string::npos);
  ScoreOptions nowhere = golden.options();
  nowhere.checkpoint = golden.folder / "nowhere";
  EXPECT_EQ(score(nowhere).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace dsv3::rank
