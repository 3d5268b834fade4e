// Round trips through canonical YAML, `explain`, and the README kept current.
#include "configs/spec/render.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <regex>
#include <set>

#include "base/file.h"
#include "configs/spec/deepspeed.h"
#include "configs/spec/field_table.h"
#include "configs/spec/presets.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

// Sets a field to a random value of its range.
struct Randomise {
  const Field& f;
  std::mt19937_64& rng;
  double number() {
    const double u = std::uniform_real_distribution<double>(0, 1)(rng);
    return std::max(f.min + (f.exclusive_min ? 1e-12 : 0),
                    std::min(f.max, f.min + (f.max - f.min) * std::pow(u, 20)));
  }
  void operator()(int64_t* v) {
    *v = std::uniform_int_distribution<int64_t>(static_cast<int64_t>(f.min),
                                                static_cast<int64_t>(f.max))(rng);
  }
  void operator()(double* v) { *v = number(); }
  void operator()(bool* v) { *v = rng() % 2 == 0; }
  void operator()(std::string* v) {
    if (!f.choices.empty()) {
      *v = std::string(f.choices[rng() % f.choices.size()]);
      return;
    }
    static const std::vector<std::string> kWords = {
        "",          "plain", "null",  "010", "a: b # c", "\"q\" \\ 'x'",
        "tab\tnl\n", "ünï",   "@demo", "- x", "*y",       "true"};
    *v = kWords[rng() % kWords.size()];
  }
  void operator()(std::optional<int64_t>* v) {
    v->reset();
    if (rng() % 2 == 0) (*this)(&v->emplace());
  }
  void operator()(std::optional<double>* v) {
    v->reset();
    if (rng() % 2 == 0) (*this)(&v->emplace());
  }
  void operator()(std::vector<double>* v) { *v = {number(), number()}; }
  void operator()(std::vector<int64_t>* v) {
    v->resize(rng() % 4);
    for (int64_t& item : *v) (*this)(&item);
  }
  void operator()(Blend* v) {
    static const Blend kPrefixes[] = {
        {}, {{"a", 1.0}}, {{"a b", 1.0}}, {{"1", 0.25}, {"x: y", 1e-7}}, {{"0.3 a 0.7 b", 1.0}}};
    *v = kPrefixes[rng() % 5];
  }
};

TEST(ToYaml, ReadsBackExactly) {
  std::mt19937_64 rng(7);
  for (int i = 0; i < 200; ++i) {
    JobSpec job;
    for (const Field& f : field_table()) std::visit(Randomise{f, rng}, f.slot(job));
    const std::string text = to_yaml(job);
    const Parsed back = parse_yaml(text, "spec.yaml");
    ASSERT_TRUE(back.ok()) << text_of(back.diagnostics) << text;
    ASSERT_EQ(back.job, job) << text << "\nread back:\n" << to_yaml(back.job);
  }
}

TEST(ToYaml, PresetsReadBackExactly) {
  const Result<std::vector<Preset>> presets = list_presets();
  ASSERT_TRUE(presets.ok()) << presets.status().to_string();
  for (const Preset& p : *presets)
    EXPECT_EQ(parse_yaml(to_yaml(p.job), "x.yaml").job, p.job) << p.name;
}

TEST(FieldTable, EveryMemberOfJobSpecHasAnEntry) {
  // The members as the header declares them, but those that are structs themselves.
  const std::string header = read_file(DSV3_SOURCE_DIR "/configs/spec/job_spec.h").value();
  const std::regex member(R"(\n  [a-z][\w:<>, ]* (\w+)( = [^;\n]*)?;)");
  std::multiset<std::string> declared, entered;
  for (std::sregex_iterator it(header.begin(), header.end(), member), end; it != end; ++it) {
    if ((*it)[1] != "default") declared.insert((*it)[1]);
  }
  for (const Field& f : field_table()) {
    entered.emplace(f.key.substr(f.key.rfind('.') + 1));
    EXPECT_FALSE(f.doc.empty()) << f.key;
    EXPECT_TRUE(f.doc.ends_with('.')) << f.key;
    EXPECT_EQ(find_field(f.key), &f) << "two entries for " << f.key;
  }
  EXPECT_GT(declared.size(), 80u);
  EXPECT_EQ(declared, entered);
}

// A name of another program without a remark means the same, so it is accepted; with one it isn't.
TEST(FieldTable, NamesOfOtherProgramsAreAcceptedWhereTheyMeanTheSame) {
  int accepted = 0;
  for (const Field& f : field_table()) {
    for (std::string name : {std::string(f.hf_name), std::string(f.megatron_name)}) {
      if (name.empty() || name.find(' ') != std::string::npos) continue;
      if (name.starts_with("--")) name.erase(0, 2);
      std::replace(name.begin(), name.end(), '-', '_');
      EXPECT_EQ(resolve_key(name).field, &f) << name;
      ++accepted;
    }
    if (!f.deepspeed_name.empty()) {
      const std::string_view path = f.deepspeed_name.substr(0, f.deepspeed_name.find(' '));
      EXPECT_TRUE(deepspeed_takes(path)) << path;
    }
  }
  EXPECT_GT(accepted, 90);
  EXPECT_EQ(resolve_key("qk_head_dim").field, nullptr) << "Megatron's and Hugging Face's differ";
}

// An alias that two keys claim would silently belong to the first.
TEST(FieldTable, NoSpellingMeansTwoKeys) {
  for (const Field& f : field_table()) {
    for (const std::string_view name : f.bare) EXPECT_EQ(resolve_key(name).field, &f) << name;
    for (const Alias& a : f.aliases) EXPECT_EQ(resolve_key(a.path).field, &f) << a.path;
  }
}

TEST(FieldTable, DefaultsAreInTheirOwnRange) {
  for (const Field& f : field_table()) {
    const std::string text = default_text(f);
    if (text == "required") continue;
    const Parsed p = parse_yaml(kSmallYaml, "f.yaml", {std::string(f.key) + "=" + text});
    EXPECT_TRUE(p.ok()) << f.key << " " << text_of(p.diagnostics);
  }
}

TEST(Explain, AKeyAnAliasASectionAndASlip) {
  const std::string key = explain("model.mla.kv_lora_rank").value();
  EXPECT_NE(key.find("integer"), std::string::npos);
  EXPECT_NE(key.find("0 … 65536"), std::string::npos);
  EXPECT_NE(key.find("model.mla.d_latent"), std::string::npos);
  EXPECT_NE(explain("hidden_size")->find("model.d_model"), std::string::npos);
  EXPECT_NE(explain("d_latent")->find("model.mla.kv_lora_rank"), std::string::npos);
  EXPECT_NE(explain("model.moe")->find("num_experts_per_token"), std::string::npos);
  EXPECT_NE(explain("")->find("parallel"), std::string::npos);
  EXPECT_NE(explain("zero_stage")->find("parallel.zero_stage"), std::string::npos);
  EXPECT_NE(explain("interval_steps")->find("logging.interval_steps"), std::string::npos);
  const Result<std::string> slip = explain("training.learing_rate");
  ASSERT_FALSE(slip.ok());
  EXPECT_EQ(slip.status().code(), Code::kNotFound);
  EXPECT_NE(slip.status().hint().find("training.learning_rate"), std::string::npos);
}

TEST(ConfigsReadme, IsCurrent) {
  const std::string path = DSV3_SOURCE_DIR "/configs/README.md";
  if (std::getenv("DSV3_UPDATE_README") != nullptr) {
    ASSERT_TRUE(write_file(path, configs_readme()).ok());
  }
  const Result<std::string> text = read_file(path);
  ASSERT_TRUE(text.ok()) << text.status().to_string();
  EXPECT_TRUE(*text == configs_readme())
      << "renew it: DSV3_UPDATE_README=1 unit_spec --gtest_filter='ConfigsReadme.*'";
}

}  // namespace
}  // namespace dsv3::spec
