// Import: every dtype's values, sharding, the formats' liberties, and each way a folder can be
// wrong.
#include "runtime/convert/import.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "configs/spec/parse.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tests/unit/runtime/convert/hf_builder.h"

namespace dsv3::convert {
namespace {

class Import : public testing::Test {
 protected:
  std::string hf() const { return folder_ / "hf"; }
  std::string out() const { return folder_ / "out"; }
  Result<ImportReport> run() const { return import_hf({.hf_dir = hf(), .out_dir = out()}); }

  checkpoint::Checkpoint imported() const {
    const auto report = run();
    EXPECT_TRUE(report.ok()) << report.status().to_string();
    auto opened = checkpoint::Checkpoint::open(report->path);
    EXPECT_TRUE(opened.ok()) << opened.status().to_string();
    return std::move(opened).value();
  }
  static std::vector<float> values(const checkpoint::Checkpoint& saved, const std::string& name) {
    const checkpoint::TensorInfo* info = saved.find(name);
    EXPECT_NE(info, nullptr) << name;
    if (info == nullptr) return {};
    EXPECT_EQ(info->dtype, DType::kF32);
    std::vector<float> read(static_cast<size_t>(info->num_elements()));
    EXPECT_TRUE(saved.read(name, std::as_writable_bytes(std::span(read))).ok());
    return read;
  }
  void expect_all_values(const checkpoint::Checkpoint& saved, const spec::ModelSpec& model) const {
    size_t count = 0;
    for (const auto& [name, tensor] : tensors_of(model)) {
      EXPECT_EQ(values(saved, name), values_of(name, tensor.bytes.size() / 4)) << name;
      ++count;
    }
    EXPECT_EQ(saved.tensors().size(), count);
  }
  // The import fails with the code, says `words`, and leaves nothing.
  void expect_refused(Code code, const std::string& words) const {
    const auto report = run();
    ASSERT_FALSE(report.ok()) << words;
    EXPECT_EQ(report.status().code(), code) << report.status().to_string();
    EXPECT_NE(report.status().to_string().find(words), std::string::npos)
        << report.status().to_string();
    EXPECT_FALSE(std::filesystem::exists(out())) << words;
  }

  TemporaryFolder folder_;
};

TEST_F(Import, F32ComesThroughBitForBitWithItsModel) {
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()));
  const auto saved = imported();
  expect_all_values(saved, tiny_model());
  EXPECT_EQ(saved.step(), 0);
  EXPECT_EQ(checkpoint::find_checkpoint(out()).value(), saved.path());
  const spec::Parsed parsed = spec::parse_yaml(saved.spec_yaml(), "spec");
  EXPECT_TRUE(parsed.ok());
  spec::ModelSpec want = tiny_model();
  want.name = "hf";
  want.num_key_value_heads = 1;
  EXPECT_EQ(parsed.job.model, want);
  EXPECT_EQ(parsed.job.training.dtype, "fp32");
}

TEST_F(Import, ShardsAreOneModel) {
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()), 3);
  EXPECT_EQ(run()->files, 3);
  std::filesystem::remove_all(out());
  expect_all_values(imported(), tiny_model());
}

TEST_F(Import, Bf16IsWidenedExactly) {
  RawTensors tensors = tensors_of(tiny_model());
  std::map<std::string, std::vector<float>> want;
  for (auto& [name, tensor] : tensors) {
    std::vector<uint16_t> bits;
    for (const float v : values_of(name, tensor.bytes.size() / 4)) {
      bits.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16));
      want[name].push_back(std::bit_cast<float>(uint32_t{bits.back()} << 16));
    }
    tensor = raw("BF16", tensor.shape, bits);
  }
  write_hf(hf(), tiny_config(), tensors);
  const auto saved = imported();
  for (const auto& [name, expected] : want) EXPECT_EQ(values(saved, name), expected) << name;
}

// Value of an E4M3 byte by its definition, in double.
double e4m3(uint8_t bits) {
  const double sign = bits & 0x80 ? -1 : 1;
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  return sign * (exponent == 0 ? mantissa / 8.0 * std::pow(2, -6)
                               : (1 + mantissa / 8.0) * std::pow(2, exponent - 7));
}

// Makes every projection 8-bit; gives what its values must be.
std::map<std::string, std::vector<float>> make_fp8(RawTensors* tensors, int64_t rows,
                                                   int64_t cols) {
  std::map<std::string, std::vector<float>> want;
  RawTensors changed;
  for (const auto& [name, tensor] : *tensors) {
    if (name.find("_proj") == std::string::npos) continue;
    const int64_t height = tensor.shape[0], width = tensor.shape[1];
    const int64_t down = (height + rows - 1) / rows, across = (width + cols - 1) / cols;
    const std::vector<float> scales = values_of(name + "/scale", down * across);
    std::vector<uint8_t> bits;
    for (int64_t i = 0; i < height * width; ++i) {
      bits.push_back(static_cast<uint8_t>((i * 37 + height) % 0x7F + (i % 3 == 0 ? 0x80 : 0)));
      const float scale = scales[static_cast<size_t>(i / width / rows * across + i % width / cols)];
      want[name].push_back(static_cast<float>(e4m3(bits.back()) * static_cast<double>(scale)));
    }
    changed[name] = raw("F8_E4M3", tensor.shape, bits);
    changed[name + "_scale_inv"] = raw("F32", {down, across}, scales);
  }
  for (auto& [name, tensor] : changed) (*tensors)[name] = tensor;
  return want;
}

TEST_F(Import, EightBitWeightsAreMultipliedByTheirBlocksScale) {
  RawTensors tensors = tensors_of(tiny_model());
  const auto want = make_fp8(&tensors, 4, 5);  // divides few of the sizes
  Json config = tiny_config();
  config["quantization_config"] = {
      {"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {4, 5}}};
  write_hf(hf(), config, tensors, 2);
  const auto saved = imported();
  ASSERT_GE(want.size(), 15U);
  for (const auto& [name, expected] : want) EXPECT_EQ(values(saved, name), expected) << name;
  EXPECT_EQ(saved.find("lm_head.weight_scale_inv"), nullptr);
  EXPECT_EQ(values(saved, "lm_head.weight"), values_of("lm_head.weight", 60));
}

TEST_F(Import, BlocksAre128WhereConfigJsonDoesNotSay) {
  RawTensors tensors = tensors_of(tiny_model());
  const auto want = make_fp8(&tensors, 128, 128);
  Json config = tiny_config();
  config["quantization_config"] = {{"quant_method", "fp8"}};
  write_hf(hf(), config, tensors);
  const auto saved = imported();
  for (const auto& [name, expected] : want) EXPECT_EQ(values(saved, name), expected) << name;
}

TEST_F(Import, MtpIsLeftOutWhereTheFilesHaveNone) {
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()));
  const auto report = run();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->model.mtp_layers, 0);
  ASSERT_EQ(report->notes.size(), 1U);
  EXPECT_NE(report->notes[0].find("num_nextn_predict_layers 1"), std::string::npos);
}

TEST_F(Import, MtpIsImportedWithoutItsCopies) {
  spec::ModelSpec model = tiny_model();
  model.mtp_layers = 1;
  RawTensors tensors = tensors_of(model);
  tensors["model.layers.2.embed_tokens.weight"] = tensors["model.embed_tokens.weight"];
  tensors["model.layers.2.shared_head.head.weight"] = tensors["model.embed_tokens.weight"];
  write_hf(hf(), tiny_config(), tensors);
  const auto report = run();
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  ASSERT_EQ(report->notes.size(), 2U);
  EXPECT_NE(report->notes[0].find("embed_tokens.weight is a copy of"), std::string::npos);
  EXPECT_NE(report->notes[1].find("shared_head.head.weight differs from"), std::string::npos);
  std::filesystem::remove_all(out());
  expect_all_values(imported(), model);
}

TEST_F(Import, ATiedHeadMayBeThereOrNot) {
  spec::ModelSpec model = tiny_model();
  model.tie_embeddings = true;
  Json config = tiny_config();
  config["tie_word_embeddings"] = true;
  RawTensors tensors = tensors_of(model);
  write_hf(hf(), config, tensors);
  expect_all_values(imported(), model);
  std::filesystem::remove_all(out());
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  write_hf(hf(), config, tensors);
  expect_all_values(imported(), model);
}

TEST_F(Import, EmptyAndDerivedTensorsAreIgnored) {
  spec::ModelSpec model = tiny_model();
  model.moe.num_shared_experts = 0;
  Json config = tiny_config();
  config["n_shared_experts"] = 0;
  RawTensors tensors = tensors_of(model);
  tensors["model.layers.1.mlp.shared_experts.up_proj.weight"] = raw<float>("F32", {0, 6}, {});
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = raw<float>("F32", {1}, {1});
  write_hf(hf(), config, tensors);
  expect_all_values(imported(), model);
}

// A rule for new models, not for those that are there.
TEST_F(Import, UnevenGroupsOfAReleasedModelAreAllowed) {
  Json config = tiny_config();
  config["n_routed_experts"] = 6;
  config["n_group"] = 3;
  config["topk_group"] = 2;
  config["num_experts_per_tok"] = 3;
  spec::ModelSpec model = tiny_model();
  model.moe.num_experts = 6;
  write_hf(hf(), config, tensors_of(model));
  const auto report = run();
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_TRUE(report->model.moe.allow_uneven_groups);
}

TEST_F(Import, AKilledImportsLeftoversDoNotMatter) {
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()));
  std::filesystem::create_directories(out() + "/.tmp-step-00000000-attempt-1");
  expect_all_values(imported(), tiny_model());
  EXPECT_FALSE(std::filesystem::exists(out() + "/.tmp-step-00000000-attempt-1"));
}

TEST_F(Import, ProgressEndsAtTheWhole) {
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()));
  int64_t last = 0, whole = 0;
  const auto report =
      import_hf({.hf_dir = hf(), .out_dir = out(), .progress = [&](int64_t done, int64_t total) {
                   EXPECT_GT(done, last);
                   last = done;
                   whole = total;
                 }});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(last, whole);
  EXPECT_GT(whole, 4 * report->parameters);  // the routers' biases too
}

// ---- each way to be wrong

TEST_F(Import, WhatIsAbsentIsNotFound) {
  expect_refused(Code::kNotFound, "there is no folder");
  std::filesystem::create_directories(hf());
  expect_refused(Code::kNotFound, "no config.json");
  overwrite(hf() + "/config.json", tiny_config().dump());
  expect_refused(Code::kNotFound, "neither model.safetensors nor");
  std::filesystem::remove_all(hf());
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()), 3);
  std::filesystem::remove(hf() + "/part-1.safetensors");
  expect_refused(Code::kNotFound, "shard part-1.safetensors is missing");
}

TEST_F(Import, AFileInPlaceOfTheFolderIsInvalid) {
  overwrite(hf(), "text");
  expect_refused(Code::kInvalid, "is not a folder");
}

TEST_F(Import, AnotherConfigIsNamedWithItsTensor) {
  const RawTensors good = tensors_of(tiny_model());
  RawTensors tensors = good;
  tensors.erase("model.layers.1.mlp.experts.2.up_proj.weight");
  write_hf(hf(), tiny_config(), tensors);
  expect_refused(Code::kInvalid, "tensor model.layers.1.mlp.experts.2.up_proj.weight is missing");
  tensors = good;
  tensors["model.layers.1.mlp.experts.3.up_proj.weight"] = raw<float>("F32", {1}, {1});
  write_hf(hf(), tiny_config(), tensors);
  expect_refused(Code::kInvalid, "holds tensor model.layers.1.mlp.experts.3.up_proj.weight");
  tensors = good;
  tensors["model.norm.weight"] = raw<float>("F32", {1, 6}, {1, 2, 3, 4, 5, 6});
  write_hf(hf(), tiny_config(), tensors);
  expect_refused(Code::kInvalid, "tensor model.norm.weight is [1, 6]");
}

TEST_F(Import, ValuesThatCannotBeReadAreNamed) {
  const RawTensors good = tensors_of(tiny_model());
  const std::string name = "model.layers.0.mlp.up_proj.weight";  // [5, 6]
  const std::vector<uint8_t> bits(30, 0x38);
  RawTensors tensors = good;
  tensors[name] = raw("I32", {5, 6}, std::vector<int32_t>(30));
  write_hf(hf(), tiny_config(), tensors);
  expect_refused(Code::kInvalid, name + " is I32");
  tensors[name] = raw("F8_E4M3", {5, 6}, bits);
  write_hf(hf(), tiny_config(), tensors);
  expect_refused(Code::kInvalid, name + " has no " + name + "_scale_inv");
  tensors[name + "_scale_inv"] = raw<float>("F32", {2, 1}, {1, 1});
  write_hf(hf(), tiny_config(), tensors);
  expect_refused(Code::kInvalid, "needs floats [1, 1]");
  tensors = good;
  tensors[name + "_scale_inv"] = raw<float>("F32", {1, 1}, {1});
  write_hf(hf(), tiny_config(), tensors);
  expect_refused(Code::kInvalid, "but has a scale");
  Json config = tiny_config();
  config["quantization_config"] = {{"quant_method", "awq"}};
  write_hf(hf(), config, good);
  expect_refused(Code::kInvalid, "quantised by 'awq'");
  config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {0, 128}}};
  write_hf(hf(), config, good);
  expect_refused(Code::kInvalid, "not two sizes");
}

TEST_F(Import, AnIndexThatLiesIsRefused) {
  const RawTensors good = tensors_of(tiny_model());
  write_hf(hf(), tiny_config(), good, 2);
  const std::string index = hf() + "/model.safetensors.index.json";
  const auto with = [&](const std::string& name, const Json& file) {
    Json map;
    map["lm_head.weight"] = "part-0.safetensors";
    map["model.norm.weight"] = "part-1.safetensors";
    map[name] = file;
    overwrite(index, Json{{"weight_map", map}}.dump());
  };
  with("x", "../hf/part-0.safetensors");
  expect_refused(Code::kInvalid, "not a file's name");
  with("x", 3);
  expect_refused(Code::kInvalid, "not a file's name");
  // A message must not write out what it complains about: a million levels would take the stack.
  const std::string nested = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  overwrite(index, "{\"weight_map\": {\"x\": " + nested + "}}");
  expect_refused(Code::kInvalid, "into a list, which is not a file's name");
  std::string many = "0";
  for (int i = 0; i < 2'000'000; ++i) many += ",0";
  overwrite(index, "{\"weight_map\": {\"x\": [" + many + "]}}");
  expect_refused(Code::kInvalid, "2000000 at most");
  with("x", "part-0.safetensors");
  expect_refused(Code::kInvalid, "doesn't hold it");
  overwrite(index, "{\"weight_map\": [");
  expect_refused(Code::kInvalid, "is not JSON");
  overwrite(index, "{}");
  expect_refused(Code::kInvalid, "has no weight_map");
  write_safetensors(hf() + "/part-1.safetensors", good);
  with("model.norm.weight", "part-1.safetensors");
  expect_refused(Code::kInvalid, "stands in two files");
}

TEST_F(Import, AWeightThatIsNoNumberIsNamedAndNothingIsLeft) {
  for (const float wrong : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    RawTensors tensors = tensors_of(tiny_model());
    RawTensor& norm = tensors.at("model.norm.weight");
    std::memcpy(norm.bytes.data() + 3 * sizeof wrong, &wrong, sizeof wrong);
    write_hf(hf(), tiny_config(), tensors);
    expect_refused(Code::kInvalid, "tensor model.norm.weight in '" + hf() + "' has a weight");
    expect_refused(Code::kInvalid, "element 3");
    EXPECT_FALSE(std::filesystem::exists(out()));
  }
}

TEST_F(Import, ADamagedFileOrConfigIsNamed) {
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()));
  std::filesystem::resize_file(hf() + "/model.safetensors", 4000);
  expect_refused(Code::kInvalid, "model.safetensors");
  Json config = tiny_config();
  config["attention_bias"] = true;
  write_hf(hf(), config, tensors_of(tiny_model()));
  expect_refused(Code::kInvalid, "attention_bias");
  overwrite(hf() + "/config.json", "[1]");
  expect_refused(Code::kInvalid, "config.json' is not JSON");
}

TEST_F(Import, WhatIsInTheOutputStays) {
  write_hf(hf(), tiny_config(), tensors_of(tiny_model()));
  std::filesystem::create_directories(out());
  overwrite(out() + "/mine", "1");
  const auto report = run();
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), Code::kConflict);
  EXPECT_NE(report.status().message().find("it holds mine"), std::string::npos);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out()), {}), 1);
}

}  // namespace
}  // namespace dsv3::convert
