// Exact counts, validation codes and FLOPs against cases.json, whose numbers come from an
// independent counter and from the models' publishers (DeepSeek-V3's 671,026,404,352, Megatron's
// FLOPs per token …), not from this code.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "configs/spec/counts.h"
#include "configs/spec/parse.h"
#include "configs/spec/validate.h"

namespace dsv3::spec {
namespace {

using Json = nlohmann::json;

const Json& cases() {
  static const Json all = [] {
    std::ifstream file(DSV3_SOURCE_DIR "/tests/unit/configs/spec/cases.json");
    return Json::parse(file);
  }();
  return all;
}

std::vector<std::string> overrides_of(const Json& c) {
  return c.contains("set") ? c.at("set").get<std::vector<std::string>>()
                           : std::vector<std::string>{};
}

Parsed parsed_of(const Json& c) {
  if (c.contains("config"))
    return parse_json(c.at("config").dump(1), "config.json", overrides_of(c));
  Result<Parsed> parsed = load(c.at("preset").get<std::string>(), overrides_of(c));
  EXPECT_TRUE(parsed.ok()) << parsed.status().to_string();
  return parsed.ok() ? std::move(parsed).value() : Parsed{};
}

void expect_counts(const Json& c, const ModelSpec& model) {
  const ParamCounts n = count_params(model);
  const std::map<std::string, int64_t> ours = {
      {"total", n.total},
      {"active", n.active},
      {"active_with_embedding", n.active_with_embedding},
      {"active_non_embedding", n.active_non_embedding},
      {"router_bias_buffer", n.router_bias_buffer},
      {"mtp", n.mtp},
      {"per_routed_expert", n.per_routed_expert},
      {"attention_per_layer", n.attention_per_layer},
      {"kv_cache_bytes", kv_cache_bytes_per_token_per_layer(model)}};
  for (const auto& [name, value] : c.at("expect").items()) {
    EXPECT_EQ(ours.at(name), value.get<int64_t>()) << c.at("id") << " " << name;
  }
}

TEST(PlannerCases, CountsAreExactFromAConfigJson) {
  ASSERT_GE(cases().at("counts").size(), 12u);
  for (const Json& c : cases().at("counts")) {
    const Parsed parsed = parse_json(c.at("config").dump(), "config.json");
    ASSERT_TRUE(parsed.ok()) << to_status(parsed.diagnostics).to_string();
    expect_counts(c, parsed.job.model);
  }
}

TEST(PlannerCases, PresetsHaveTheCountsOfTheirCase) {
  int presets = 0;
  for (const Json& c : cases().at("counts")) {
    if (!c.contains("preset")) continue;
    const Result<Parsed> parsed = load(c.at("preset").get<std::string>());
    ASSERT_TRUE(parsed.ok() && parsed->ok()) << c.at("preset");
    expect_counts(c, parsed->job.model);
    ++presets;
  }
  EXPECT_EQ(presets, 7);
}

TEST(PlannerCases, ValidationReportsTheCodes) {
  ASSERT_GE(cases().at("validation").size(), 17u);
  for (const Json& c : cases().at("validation")) {
    const Parsed parsed = parsed_of(c);
    std::vector<Diagnostic> found = parsed.diagnostics;
    ValidateOptions options;
    options.gpus = c.value("gpus", 0);
    options.gpu_name = c.value("gpu", "");
    options.origins = &parsed.origins;
    for (Diagnostic& d : validate(parsed.job, options)) found.push_back(std::move(d));
    std::string all;
    for (const Diagnostic& d : found) all += "\n  " + to_string(d);
    EXPECT_EQ(!has_errors(found), c.at("ok").get<bool>()) << c.at("id") << all;
    for (const Json& want : c.at("report")) {
      const bool there = std::any_of(found.begin(), found.end(), [&](const Diagnostic& d) {
        return d.code == want.at(1) && severity_name(d.severity) == want.at(0);
      });
      EXPECT_TRUE(there) << c.at("id") << " wants " << want << all;
    }
    for (const Json& code : c.at("silent")) {
      const bool there = std::any_of(found.begin(), found.end(),
                                     [&](const Diagnostic& d) { return d.code == code; });
      EXPECT_FALSE(there) << c.at("id") << " must not report " << code << all;
    }
  }
}

TEST(PlannerCases, FlopsPerTokenAreExact) {
  for (const Json& c : cases().at("flops")) {
    const Parsed parsed = parsed_of(c);
    const FlopsPerToken f = flops_per_token(parsed.job.model, c.at("sequence").get<int64_t>());
    const std::map<std::string, double> ours = {{"total", f.total},
                                                {"total_with_mtp", f.total_with_mtp},
                                                {"attention", f.attention},
                                                {"non_causal", f.non_causal},
                                                {"megatron_convention", f.megatron_convention}};
    for (const auto& [name, value] : c.at("expect").items()) {
      EXPECT_EQ(ours.at(name), value.get<double>()) << c.at("id") << " " << name;
    }
  }
}

// The released repository stores projections in FP8 with one f32 scale per 128×128 block, the rest
// in bf16, the bias in f32, and repeats embedding and head in the MTP layer.
TEST(PlannerCases, TensorListMatchesTheReleasedRepository) {
  const Json& c = cases().at("serialized").at(0);
  const Parsed parsed = parse_json(c.at("config").dump(), "config.json");
  const ModelSpec& model = parsed.job.model;
  int64_t tensors = 0, bytes = 0;
  const auto add = [&](int64_t elements, int64_t size) {
    ++tensors;
    bytes += elements * size;
  };
  for (const TensorInfo& t : model_tensors(model)) {
    const bool fp8 = t.part == Part::kAttention || t.part == Part::kDenseFfn ||
                     t.part == Part::kRoutedExperts || t.part == Part::kSharedExperts;
    add(t.num_elements(), fp8 ? 1 : 2);
    if (fp8) add(((t.shape[0] + 127) / 128) * ((t.shape[1] + 127) / 128), 4);
  }
  for (const TensorInfo& t : model_buffers(model)) add(t.num_elements(), 4);
  for (int copy = 0; copy < 2; ++copy) add(model.vocab_size * model.d_model, 2);
  EXPECT_EQ(tensors, c.at("expect").at("tensors").get<int64_t>());
  EXPECT_EQ(bytes, c.at("expect").at("bytes").get<int64_t>());
}

}  // namespace
}  // namespace dsv3::spec
