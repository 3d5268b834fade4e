// Reading YAML: every fault of form, where it stands, and all of them at once.
#include "configs/spec/parse.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

Parsed with_sets(const std::vector<std::string>& sets) {
  return parse_yaml(kSmallYaml, "f.yaml", sets);
}

TEST(ParseYaml, ReadsAValidFile) {
  const Parsed p = parse_yaml(kSmallYaml, "f.yaml");
  ASSERT_TRUE(p.diagnostics.empty()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.model.name, "tiny");
  EXPECT_EQ(p.job.model.mla.q_lora_rank, 32);
  EXPECT_EQ(p.job.model.moe.num_experts_per_token, 2);
  EXPECT_EQ(p.job.training.beta2, 0.95);  // a default
  EXPECT_EQ(p.job.data.path, (std::vector<std::pair<std::string, double>>{{"some/prefix", 1.0}}));
  EXPECT_EQ(p.origins.at("model.mla.kv_lora_rank"), "f.yaml:10:19");
  EXPECT_EQ(p.origins.count("training.beta2"), 0u);
}

TEST(ParseYaml, ParallelSizesLeftOutAreThePlannersChoice) {
  const Parsed p = parse_yaml(kSmallYaml, "f.yaml");
  EXPECT_EQ(p.job.parallel.tensor_parallel_size, -1);
  EXPECT_EQ(p.job.parallel.pipeline_parallel_size, -1);
  EXPECT_EQ(p.job.parallel.expert_parallel_size, -1);
  EXPECT_EQ(p.job.parallel.data_parallel_size, -1);
  EXPECT_EQ(p.job.parallel.context_parallel_size, 1);
}

TEST(ParseYaml, AllFaultsOfAFileAreReportedAtOnceWithTheirPlace) {
  const std::string text =
      "model:\n"
      "  vocab_sise: 100\n"   // 2:3 unknown
      "  num_layers: many\n"  // 3:15 type
      "  d_model: 0\n"        // 4:12 range
      "  num_heads: 4\n"
      "  num_heads: 8\n"  // 6:3 duplicate
      "  moe: 7\n"        // 7:8 a section
      "training:\n"
      "  dtype: bf61\n";  // 9:10 choice
  const Parsed p = parse_yaml(text, "bad.yaml");
  const std::vector<std::pair<std::string, std::string>> want = {
      {"UNKNOWN_KEY", "bad.yaml:2:3"},   {"WRONG_TYPE", "bad.yaml:3:15"},
      {"OUT_OF_RANGE", "bad.yaml:4:12"}, {"DUPLICATE_KEY", "bad.yaml:6:3"},
      {"WRONG_TYPE", "bad.yaml:7:8"},    {"BAD_CHOICE", "bad.yaml:9:10"}};
  ASSERT_GE(p.diagnostics.size(), want.size()) << text_of(p.diagnostics);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(p.diagnostics[i].code, want[i].first) << text_of(p.diagnostics);
    EXPECT_EQ(p.diagnostics[i].where, want[i].second);
  }
  EXPECT_NE(p.diagnostics[0].hint.find("vocab_size"), std::string::npos);
  EXPECT_NE(p.diagnostics[5].hint.find("bf16"), std::string::npos);
  // What is missing is said too, but not what was given wrongly.
  EXPECT_NE(find(p.diagnostics, "MISSING_KEY"), nullptr);
  for (const Diagnostic& d : p.diagnostics) {
    EXPECT_FALSE(d.code == "MISSING_KEY" && d.key == "model.num_layers");
  }
}

TEST(ParseYaml, AMisplacedKeyIsToldItsSection) {
  const Parsed p = with_sets({"training.n_group=2"});
  const Diagnostic* d = find(p.diagnostics, "UNKNOWN_KEY");
  ASSERT_NE(d, nullptr);
  EXPECT_NE(d->hint.find("model.moe.n_group"), std::string::npos) << d->hint;
}

struct BadScalar {
  const char* set;
  const char* code;
  const char* says;  // found in message or hint
};

class BadScalars : public testing::TestWithParam<BadScalar> {};

TEST_P(BadScalars, AreRefusedWithTheReason) {
  const Parsed p = with_sets({GetParam().set});
  ASSERT_EQ(p.diagnostics.size(), 1u) << GetParam().set << "\n" << text_of(p.diagnostics);
  const Diagnostic& d = p.diagnostics[0];
  EXPECT_EQ(d.code, GetParam().code) << to_string(d);
  EXPECT_EQ(d.where, std::string("--set ") + GetParam().set);
  EXPECT_NE((d.message + " " + d.hint).find(GetParam().says), std::string::npos) << to_string(d);
}

INSTANTIATE_TEST_SUITE_P(
    ParseYaml, BadScalars,
    testing::Values(BadScalar{"model.d_model=010", "WRONG_TYPE", "octal"},
                    BadScalar{"model.d_model=0x10", "WRONG_TYPE", "integer"},
                    BadScalar{"model.d_model=1_000", "WRONG_TYPE", "_"},
                    BadScalar{"model.d_model=64.5", "WRONG_TYPE", "64.5"},
                    BadScalar{"model.d_model=99999999999999999999", "WRONG_TYPE", "integer"},
                    BadScalar{"model.d_model=\"64\"", "WRONG_TYPE", "quotes"},
                    BadScalar{"model.d_model=", "WRONG_TYPE", "null"},
                    BadScalar{"model.d_model=-64", "OUT_OF_RANGE", "-64"},
                    BadScalar{"model.d_model=[64]", "WRONG_TYPE", "a list"},
                    BadScalar{"model.d_model={a: 1}", "WRONG_TYPE", "a mapping"},
                    BadScalar{"training.learning_rate=.inf", "WRONG_TYPE", "number"},
                    BadScalar{"training.learning_rate=nan", "WRONG_TYPE", "number"},
                    BadScalar{"training.learning_rate=1e999", "WRONG_TYPE", "number"},
                    BadScalar{"training.eps=0", "OUT_OF_RANGE", "> 0"},
                    BadScalar{"training.deterministic=yes", "WRONG_TYPE", "true or false"},
                    BadScalar{"training.dtype=fp16", "BAD_CHOICE", "fp32, bf16, fp8"},
                    BadScalar{"data.path=[0.5, a, x, b]", "WRONG_TYPE", "weight"},
                    BadScalar{"data.split=[0.9, high]", "WRONG_TYPE", "high"},
                    BadScalar{"model.moe.moe_layers=[1, 3]", "MOE_LAYERS_MISMATCH", "one run"},
                    BadScalar{"model.moe.moe_layers=[0, 1, 2]", "MOE_LAYERS_MISMATCH", "last"},
                    BadScalar{"nonsense", "BAD_OVERRIDE", "key=value"},
                    BadScalar{"=3", "BAD_OVERRIDE", "key=value"},
                    BadScalar{"model.mla.d_laten=3", "UNKNOWN_KEY", "d_latent"},
                    BadScalar{"model=3", "WRONG_TYPE", "section"}));

TEST(ParseYaml, NumbersMayBeWrittenInTheUsualWays) {
  const Parsed p = with_sets({"training.max_steps=1e6", "training.learning_rate=3E-4",
                              "training.weight_decay=.1", "model.max_context_length=128K",
                              "training.seed=+7", "model.mla.rope_theta=5000000"});
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.training.max_steps, 1000000);
  EXPECT_EQ(p.job.training.learning_rate, 3e-4);
  EXPECT_EQ(p.job.training.weight_decay, 0.1);
  EXPECT_EQ(p.job.model.max_context_length, 131072);
  EXPECT_EQ(p.job.training.seed, 7);
  EXPECT_EQ(p.job.model.mla.rope_theta, 5e6);
}

TEST(ParseYaml, NullIsAValueWhereTheTableSaysSo) {
  const Parsed p = with_sets({"model.mla.q_lora_rank=null", "model.moe.capacity_factor=null",
                              "model.mla.kv_lora_rank=null"});
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_FALSE(p.job.model.mla.q_lora_rank.has_value());
  EXPECT_FALSE(p.job.model.moe.capacity_factor.has_value());
  EXPECT_EQ(p.job.model.mla.kv_lora_rank, 0);  // validate: MLA_KV_RANK_REQUIRED
}

TEST(ParseYaml, WhatYamlCanSayAndAConfigMustNotIsRefused) {
  const auto code_of = [](const std::string& text) {
    const Parsed p = parse_yaml(text, "f.yaml");
    return p.diagnostics.empty() ? std::string("nothing") : p.diagnostics[0].code;
  };
  EXPECT_EQ(code_of(""), "EMPTY_FILE");
  EXPECT_EQ(code_of("# only a comment\n\n"), "EMPTY_FILE");
  EXPECT_EQ(code_of("---\n"), "EMPTY_FILE");
  EXPECT_EQ(code_of("null\n"), "EMPTY_FILE");
  EXPECT_EQ(code_of("- a\n- b\n"), "NOT_A_MAPPING");
  EXPECT_EQ(code_of("just text\n"), "NOT_A_MAPPING");
  EXPECT_EQ(code_of(kSmallYaml + "---\nmodel: {}\n"), "MULTIPLE_DOCUMENTS");
  EXPECT_EQ(code_of("model: &m {d_model: 4}\n"), "YAML_FEATURE");
  EXPECT_EQ(code_of("model: {d_model: &x 4, num_heads: *x}\n"), "YAML_FEATURE");
  EXPECT_EQ(code_of("model: !!map {d_model: 4}\n"), "YAML_FEATURE");
  EXPECT_EQ(code_of("model:\n  <<: {d_model: 4}\n"), "YAML_FEATURE");
  EXPECT_EQ(code_of("model: {d_model: 4\n"), "YAML_SYNTAX");
  EXPECT_EQ(code_of("model:\n\td_model: 4\n"), "YAML_SYNTAX");
  EXPECT_EQ(code_of("? [a, b]\n: c\n"), "UNKNOWN_KEY");
  EXPECT_EQ(code_of(std::string(10000, '[')), "TOO_DEEP");
  EXPECT_EQ(code_of(std::string(kFileBytesMax + 1, ' ')), "FILE_TOO_LARGE");
}

TEST(ParseYaml, ASyntaxErrorNamesItsLine) {
  const Parsed p = parse_yaml("model:\n  d_model: 4\n  - oops\n", "f.yaml");
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.diagnostics[0].where.substr(0, 9), "f.yaml:3:") << text_of(p.diagnostics);
}

TEST(ParseYaml, TheSeedsSpellingsAreTheSameKeys) {
  const std::string guide = R"(
model:
  vocab_size: 128
  num_layers: 4
  num_heads: 4
  dense_intermediate_size: 160
  mla: {d_model: 64, d_latent: 16, max_context_length: 64, use_fp8_kv: true}
  moe: {num_experts: 8, num_experts_per_token: 2, expert_intermediate_size: 128, first_k_dense: 1}
training: {use_fp8: true, seq_length: 32, global_batch_size: 8}
)";
  const Parsed p = parse_yaml(guide, "guide.yaml");
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.model.d_model, 64);
  EXPECT_EQ(p.job.model.mla.kv_lora_rank, 16);
  EXPECT_EQ(p.job.model.max_context_length, 64);
  EXPECT_EQ(p.job.training.dtype, "fp8");
  EXPECT_EQ(p.job.model.name, "guide");
}

TEST(ParseYaml, ASecondSpellingMayAgreeButNotDiffer) {
  const auto with = [](const std::string& line) {
    return parse_yaml("hidden_size: " + line + "\n" + kSmallYaml, "f.yaml");
  };
  EXPECT_TRUE(with("64").ok()) << text_of(with("64").diagnostics);
  const Parsed differs = with("128");
  const Diagnostic* d = find(differs.diagnostics, "DUPLICATE_KEY");
  ASSERT_NE(d, nullptr);
  EXPECT_NE(d->message.find("64"), std::string::npos) << d->message;
  EXPECT_NE(d->message.find("128"), std::string::npos) << d->message;
  EXPECT_EQ(d->key, "model.d_model");
}

TEST(ParseYaml, OverridesWinOverTheFileAndTheLastOverEarlierOnes) {
  const Parsed p =
      with_sets({"training.max_steps=5", "max_steps=7", "model.moe={n_group: 2, topk_group: 2}",
                 "data.path=@demo", "checkpoint.path=/a b/#c: d"});
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.training.max_steps, 7);
  EXPECT_EQ(p.job.model.moe.n_group, 2);
  EXPECT_EQ(p.job.data.path[0].first, "@demo");
  EXPECT_EQ(p.job.checkpoint.path, "/a b/#c: d");
  EXPECT_EQ(p.origins.at("training.max_steps"), "--set max_steps=7");
}

TEST(ParseYaml, BlendsComeInMegatronsForms) {
  using Blend = std::vector<std::pair<std::string, double>>;
  const Blend want = {{"a", 0.3}, {"b", 0.7}};
  EXPECT_EQ(with_sets({"data.path=0.3 a 0.7 b"}).job.data.path, want);
  EXPECT_EQ(with_sets({"data.path=[0.3, a, 0.7, b]"}).job.data.path, want);
  EXPECT_EQ(with_sets({"data.path={a: 0.3, b: 0.7}"}).job.data.path, want);
  EXPECT_EQ(with_sets({"data.path=[a, b]"}).job.data.path, (Blend{{"a", 1.0}, {"b", 1.0}}));
  EXPECT_EQ(with_sets({"data.path=my data/x"}).job.data.path, (Blend{{"my data/x", 1.0}}));
}

TEST(ParseYaml, BatchInTokensBecomesSequences) {
  std::string text = kSmallYaml;
  text.replace(text.find("global_batch_size: 8"), 20, "global_batch_tokens: 128");
  EXPECT_EQ(parse_yaml(text, "f.yaml").job.training.global_batch_size, 4);  // 128 / 32
  const Parsed odd = parse_yaml(text, "f.yaml", {"training.global_batch_tokens=100"});
  ASSERT_EQ(odd.diagnostics.size(), 1u) << text_of(odd.diagnostics);
  EXPECT_EQ(odd.diagnostics[0].code, "OUT_OF_RANGE");
  for (const char* tokens : {"4611686018427387904", "9223372036854775807"}) {
    const Parsed huge =
        parse_yaml(text, "f.yaml", {std::string("training.global_batch_tokens=") + tokens});
    ASSERT_EQ(huge.diagnostics.size(), 1u) << text_of(huge.diagnostics);
    EXPECT_EQ(huge.diagnostics[0].code, "OUT_OF_RANGE");
  }
}

TEST(ParseYaml, MoeLayersMayBeListedWhenTheyAreTheLast) {
  std::string text = kSmallYaml;
  text.replace(text.find("first_k_dense: 1"), 16, "moe_layers: [2, 3]");
  const Parsed p = parse_yaml(text, "f.yaml");
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.model.moe.moe_layers, 2);
  EXPECT_EQ(p.job.model.moe.first_k_dense, 2);
}

// Every prefix of a file and every file with one byte changed is read or refused; nothing aborts or
// throws.
TEST(ParseYaml, DamagedFilesAreRefusedWithoutHarm) {
  int refused = 0;
  for (size_t n = 0; n < kSmallYaml.size(); n += 3)
    refused += parse_yaml(kSmallYaml.substr(0, n), "f.yaml").ok() ? 0 : 1;
  EXPECT_GT(refused, 100);
  const std::string bytes("\0\t\n\"'#&*!|>%@`{}[]:,?-~\xff\xc3\x80", 27);
  uint32_t random = 1;
  for (int i = 0; i < 1500; ++i) {
    random = random * 1664525u + 1013904223u;
    std::string text = kSmallYaml;
    text[(random >> 8) % text.size()] = bytes[(random >> 3) % bytes.size()];
    const Parsed p = parse_yaml(text, "f.yaml");
    for (const Diagnostic& d : p.diagnostics) EXPECT_FALSE(d.code.empty() || d.message.empty());
  }
}

// What a user may hand over by mistake or on purpose: each is one sentence with its place, at once.
TEST(ParseYaml, WhatIsNoTextIsRefusedWithItsPlace) {
  const auto only = [](const std::string& text) {
    const Parsed p = parse_yaml(text, "f.yaml");
    EXPECT_EQ(p.diagnostics.size(), 1u) << text_of(p.diagnostics);
    return p.diagnostics.empty() ? Diagnostic{} : p.diagnostics[0];
  };
  const Diagnostic nul = only("model:\n  d_mo" + std::string(1, '\0') + "del: 4\n");
  EXPECT_EQ(nul.code, "NOT_UTF8");
  EXPECT_EQ(nul.where, "f.yaml:2:7");
  EXPECT_NE(nul.message.find("NUL"), std::string::npos) << nul.message;
  const Diagnostic latin = only("model:\n# caf\xe9\n");
  EXPECT_EQ(latin.code, "NOT_UTF8");
  EXPECT_EQ(latin.where, "f.yaml:2:6");
  EXPECT_NE(latin.message.find("0xe9"), std::string::npos) << latin.message;
  EXPECT_EQ(only(std::string("\xff\xfem\0o\0", 6)).code, "NOT_UTF8");  // UTF-16
  EXPECT_EQ(parse_json("{\"a\": \"\xe9\"}", "f.json").diagnostics[0].code, "NOT_UTF8");
  EXPECT_EQ(with_sets({"model.name=\xff"}).diagnostics[0].code, "BAD_OVERRIDE");
}

TEST(ParseYaml, ByteOrderMarkAndCarriageReturnsAreText) {
  std::string windows = "\xef\xbb\xbf";
  for (const char c : kSmallYaml) windows += c == '\n' ? std::string("\r\n") : std::string(1, c);
  const Parsed p = parse_yaml(windows, "f.yaml");
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_TRUE(p.job == parse_yaml(kSmallYaml, "f.yaml").job);
}

// The depth is bounded while reading: neither reader may use the stack up.
TEST(ParseYaml, DeepNestingInEveryNotationIsRefused) {
  const auto repeated = [](const std::string& part) {
    std::string text;
    for (int i = 0; i < 20000; ++i) text += part;
    return text;
  };
  for (const char* part : {"[", "{", "{a: ", "- ", "? ", "[a: ", "[? ", "[: ", "{? ", "{{a: "}) {
    for (const char* head : {"", "model: ", "a: 1\n---\n"}) {
      const Parsed p = parse_yaml(head + repeated(part), "f.yaml");
      EXPECT_FALSE(p.ok()) << head << part;
      EXPECT_LE(p.diagnostics.size(), 10u) << head << part;
    }
  }
  for (const char* part : {"!a ", "&a ", "*a ", "!a [", "| ", "> ", "\"", "'"})
    EXPECT_FALSE(parse_yaml("model: " + repeated(part), "f.yaml").ok()) << part;
  EXPECT_EQ(parse_json(repeated("["), "f.json").diagnostics[0].code, "TOO_DEEP");
  EXPECT_EQ(parse_json(repeated("{\"a\":"), "f.json").diagnostics[0].code, "TOO_DEEP");
}

TEST(ParseYaml, AliasesThatWouldMultiplyAreNotFollowed) {
  std::string text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 12; ++i) {
    text += fmt::format("a{}: &a{} [", i, i);
    for (int k = 0; k < 10; ++k) text += fmt::format("{}*a{}", k == 0 ? "" : ",", i - 1);
    text += "]\n";
  }
  const Parsed p = parse_yaml(text, "f.yaml");
  EXPECT_NE(find(p.diagnostics, "YAML_FEATURE"), nullptr);
  EXPECT_LE(p.diagnostics.size(), 40u) << "the same sentence over and over";
}

}  // namespace
}  // namespace dsv3::spec
