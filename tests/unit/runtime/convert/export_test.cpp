// Export: names, dtypes, shards and config.json as transformers reads them; the way back is
// bitwise.
#include "runtime/convert/export.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/file.h"
#include "configs/spec/hf_config_json.h"
#include "configs/spec/parse.h"
#include "configs/spec/render.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tests/unit/runtime/convert/hf_builder.h"

namespace dsv3::convert {
namespace {

class Export : public testing::Test {
 protected:
  std::string saved() const { return folder_ / "saved"; }
  std::string out() const { return folder_ / "out"; }

  // A checkpoint of the model with the values of values_of(), without the tensor `left_out`.
  void save(const spec::ModelSpec& model, const std::string& left_out = "",
            const std::string& dtype = "fp32") const {
    spec::JobSpec job;
    job.model = model;
    job.training.dtype = dtype;
    job.training.global_batch_size = job.training.seq_length = 8;
    job.data.path = {{folder_ / "text", 1.0}};
    checkpoint::SaveRequest request;
    request.dir = saved();
    request.job = "job";
    request.step = 3;
    request.spec_yaml = spec::to_yaml(job);
    const RawTensors tensors = tensors_of(model);
    for (const auto& [name, tensor] : tensors) {
      if (name == left_out) continue;
      request.tensors.push_back({.name = name, .shape = tensor.shape, .data = tensor.bytes.data()});
    }
    ASSERT_TRUE(checkpoint::save(request).ok());
  }
  Result<ExportReport> run(const std::string& dtype = "", int64_t shard_bytes_max = 1 << 30) const {
    return export_hf({.checkpoint = saved(),
                      .out_dir = out(),
                      .dtype = dtype,
                      .shard_bytes_max = shard_bytes_max});
  }
  // Every tensor in the folder's files.
  RawTensors exported() const {
    RawTensors all;
    for (const auto& entry : std::filesystem::directory_iterator(out())) {
      if (entry.path().extension() != ".safetensors") continue;
      const auto file = checkpoint::SafetensorsFile::open(entry.path());
      EXPECT_TRUE(file.ok()) << file.status().to_string();
      EXPECT_EQ(file->metadata().at("format"), "pt");
      for (const auto& tensor : file->tensors()) {
        const auto bytes = file->bytes(tensor);
        EXPECT_TRUE(all.emplace(tensor.name,
                                RawTensor{tensor.tag, tensor.shape, {bytes.begin(), bytes.end()}})
                        .second);
      }
    }
    return all;
  }
  Json config() const { return Json::parse(read_file(out() + "/config.json").value()); }

  TemporaryFolder folder_;
};

TEST_F(Export, F32IsWrittenBitForBitUnderTheSameNames) {
  save(tiny_model());
  const auto report = run();
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  const RawTensors got = exported(), want = tensors_of(tiny_model());
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want) {
    EXPECT_EQ(got.at(name).tag, "F32") << name;
    EXPECT_EQ(got.at(name).shape, tensor.shape) << name;
    EXPECT_EQ(got.at(name).bytes, tensor.bytes) << name;
  }
  EXPECT_EQ(config()["torch_dtype"], "float32");
  EXPECT_TRUE(path_exists(out() + "/model.safetensors"));
  EXPECT_FALSE(path_exists(out() + "/model.safetensors.index.json"));
}

// The nearest of the two neighbours with 16 bits, the even one in the middle.
uint16_t nearest_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto low = static_cast<uint16_t>(bits >> 16);
  const double below = std::bit_cast<float>(uint32_t{low} << 16);
  const double above = std::bit_cast<float>((uint32_t{low} + 1) << 16);
  const double to_below = std::fabs(value - below), to_above = std::fabs(above - value);
  if (to_below != to_above) return to_below < to_above ? low : static_cast<uint16_t>(low + 1);
  return low % 2 == 0 ? low : static_cast<uint16_t>(low + 1);
}

TEST_F(Export, Bf16IsTheNearestAndRouterBiasesStayF32) {
  save(tiny_model(), "", "bf16");  // the default follows the job
  ASSERT_TRUE(run().ok());
  const RawTensors got = exported();
  for (const auto& [name, tensor] : tensors_of(tiny_model())) {
    if (name.ends_with("e_score_correction_bias")) {
      EXPECT_EQ(got.at(name).tag, "F32");
      EXPECT_EQ(got.at(name).bytes, tensor.bytes);
      continue;
    }
    std::vector<uint16_t> want;
    for (const float v : values_of(name, tensor.bytes.size() / 4)) want.push_back(nearest_bf16(v));
    EXPECT_EQ(got.at(name).tag, "BF16") << name;
    EXPECT_EQ(got.at(name).bytes, raw("BF16", {}, want).bytes) << name;
  }
  EXPECT_EQ(config()["torch_dtype"], "bfloat16");
}

TEST_F(Export, ShardsHoldEverythingOnceAndTheIndexSaysWhere) {
  save(tiny_model());
  constexpr int64_t kShardBytes = 500;
  const auto report = run("fp32", kShardBytes);
  ASSERT_TRUE(report.ok());
  EXPECT_GT(report->files, 3);
  const Json index = Json::parse(read_file(out() + "/model.safetensors.index.json").value());
  int64_t total = 0;
  std::set<std::string> files;
  const RawTensors all = exported();
  for (const auto& [name, tensor] : all) {
    total += static_cast<int64_t>(tensor.bytes.size());
    const std::string file = index["weight_map"].at(name);
    files.insert(file);
    EXPECT_NE(checkpoint::SafetensorsFile::open(out() + "/" + file)->find(name), nullptr);
  }
  EXPECT_EQ(index["weight_map"].size(), all.size());
  EXPECT_EQ(index["metadata"]["total_size"], total);
  EXPECT_EQ(static_cast<int64_t>(files.size()), report->files);
  const std::string last = *files.rbegin();
  EXPECT_EQ(last, "model-0000" + std::to_string(files.size()) + "-of-0000" +
                      std::to_string(files.size()) + ".safetensors");
}

TEST_F(Export, TheWayBackIsBitwise) {
  spec::ModelSpec model = tiny_model();
  model.mtp_layers = 1;
  model.mla.rope_scaling = {.type = "yarn",
                            .factor = 4.0,
                            .original_max_position = 4,
                            .mscale = 0.7,
                            .mscale_all_dim = 0.6};
  model.rms_norm_eps = 1e-5;
  model.init_std = 0.006;
  model.moe.router_aux_loss_weight = 1e-4;
  save(model);
  ASSERT_TRUE(run("fp32", 500).ok());
  const auto report = import_hf({.hf_dir = out(), .out_dir = folder_ / "again"});
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  const auto again = checkpoint::Checkpoint::open(report->path).value();
  const RawTensors want = tensors_of(model);
  EXPECT_EQ(again.tensors().size(), want.size());
  for (const auto& [name, tensor] : want) {
    std::vector<std::byte> bytes(tensor.bytes.size());
    ASSERT_TRUE(again.read(name, bytes).ok()) << name;
    EXPECT_EQ(bytes, tensor.bytes) << name;
  }
  model.name = "out";
  model.num_key_value_heads = 1;
  EXPECT_EQ(report->model, model);
}

TEST_F(Export, MtpBringsItsCopiesAsDeepSeeksFilesDo) {
  spec::ModelSpec model = tiny_model();
  model.mtp_layers = 1;
  save(model);
  ASSERT_TRUE(run().ok());
  const RawTensors got = exported();
  EXPECT_EQ(got.size(), tensors_of(model).size() + 2);
  EXPECT_EQ(got.at("model.layers.2.embed_tokens.weight").bytes,
            got.at("model.embed_tokens.weight").bytes);
  EXPECT_EQ(got.at("model.layers.2.shared_head.head.weight").bytes, got.at("lm_head.weight").bytes);
  EXPECT_EQ(config()["num_nextn_predict_layers"], 1);
}

// transformers has these modules in every model with a sigmoid router.
TEST_F(Export, WhatTransformersExpectsIsThereAsZerosOrEmpty) {
  spec::ModelSpec model = tiny_model();
  model.moe.use_aux_loss_free = false;
  model.moe.num_shared_experts = 0;
  save(model);
  ASSERT_TRUE(run().ok());
  const RawTensors got = exported();
  const RawTensor& bias = got.at("model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(bias.bytes, std::vector<std::byte>(12));
  EXPECT_EQ(got.at("model.layers.1.mlp.shared_experts.down_proj.weight").shape,
            (std::vector<int64_t>{6, 0}));
}

TEST_F(Export, ATiedHeadHasNoTensor) {
  spec::ModelSpec model = tiny_model();
  model.tie_embeddings = true;
  save(model);
  ASSERT_TRUE(run().ok());
  EXPECT_FALSE(exported().contains("lm_head.weight"));
  EXPECT_EQ(config()["tie_word_embeddings"], true);
}

TEST_F(Export, TheTokenizersModelGoesAlong) {
  save(tiny_model());
  overwrite(folder_ / "text.tokenizer.model", "pieces");
  ASSERT_EQ(run()->tokenizer, folder_ / "text.tokenizer.model");
  EXPECT_EQ(read_file(out() + "/tokenizer.model").value(), "pieces");
}

TEST_F(Export, RefusalsLeaveNothing) {
  save(tiny_model(), "model.norm.weight");
  const auto lacking = run();
  ASSERT_FALSE(lacking.ok());
  EXPECT_EQ(lacking.status().code(), Code::kCheckpointUnusable);
  EXPECT_NE(lacking.status().message().find("lacks tensor model.norm.weight"), std::string::npos);
  EXPECT_EQ(run("fp16").status().code(), Code::kInvalid);
  EXPECT_EQ(export_hf({.checkpoint = folder_ / "nowhere", .out_dir = out()}).status().code(),
            Code::kNotFound);
  EXPECT_FALSE(path_exists(out()));
  EXPECT_FALSE(path_exists(folder_ / ".out.exporting"));
}

TEST_F(Export, AFolderWithContentsStaysAndAnEmptyOneIsFilled) {
  save(tiny_model());
  std::filesystem::create_directories(out());
  overwrite(out() + "/mine", "1");
  EXPECT_EQ(run().status().code(), Code::kConflict);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out()), {}), 1);
  std::filesystem::remove(out() + "/mine");
  EXPECT_TRUE(run().ok());
  EXPECT_FALSE(path_exists(folder_ / ".out.exporting"));
}

TEST(HfConfigJson, ASoftmaxRouterIsDeepSeekV2) {
  spec::ModelSpec model = tiny_model();
  model.moe.score_function = "softmax";
  model.moe.use_aux_loss_free = false;
  model.moe.norm_topk_prob = false;
  std::vector<std::string> notes;
  Json config = Json::parse(hf_config_json(model, DType::kBf16, &notes).value());
  EXPECT_EQ(config["model_type"], "deepseek_v2");
  EXPECT_EQ(config["architectures"][0], "DeepseekV2ForCausalLM");
  EXPECT_EQ(config["topk_method"], "greedy");
  EXPECT_EQ(config["rope_scaling"], nullptr);
  model.moe.n_group = 3;
  config = Json::parse(hf_config_json(model, DType::kBf16, &notes).value());
  EXPECT_EQ(config["topk_method"], "group_limited_greedy");
  EXPECT_TRUE(notes.empty());
  model.mla.rope_scaling = {
      .type = "yarn", .factor = 4.0, .original_max_position = 4, .mscale_all_dim = 0.7};
  EXPECT_TRUE(hf_config_json(model, DType::kBf16, &notes).ok());
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_NE(notes[0].find("transformers 4"), std::string::npos);
}

TEST(HfConfigJson, RefusesWhatTransformersWouldComputeDifferently) {
  spec::ModelSpec model = tiny_model();
  model.moe.score_function = "softmax";
  model.moe.use_aux_loss_free = false;
  std::vector<std::string> notes;
  EXPECT_EQ(hf_config_json(model, DType::kF32, &notes).status().code(), Code::kInvalid);
  model.moe.norm_topk_prob = false;
  model.moe.use_aux_loss_free = true;
  EXPECT_EQ(hf_config_json(model, DType::kF32, &notes).status().code(), Code::kInvalid);
}

// transformers 4 divides the two lengths to get YaRN's factor.
TEST(HfConfigJson, YarnsLengthsGiveItsFactor) {
  spec::ModelSpec model = tiny_model();
  model.mla.rope_scaling = {.type = "yarn", .factor = 8.0, .original_max_position = 4};
  model.max_context_length = 20;
  std::vector<std::string> notes;
  const Json config = Json::parse(hf_config_json(model, DType::kF32, &notes).value());
  EXPECT_EQ(config["max_position_embeddings"], 32);
  EXPECT_EQ(config["rope_scaling"]["original_max_position_embeddings"], 4);
  EXPECT_TRUE(config["rope_scaling"]["factor"].is_number_float());
  ASSERT_EQ(notes.size(), 1U);
  model.max_context_length = 32;
  notes.clear();
  EXPECT_TRUE(hf_config_json(model, DType::kF32, &notes).ok());
  EXPECT_TRUE(notes.empty());
}

TEST(HfConfigJson, AModelWithoutExpertsIsDenseThroughout) {
  spec::ModelSpec model = tiny_model();
  model.moe = {};
  std::vector<std::string> notes;
  const std::string text = hf_config_json(model, DType::kF32, &notes).value();
  EXPECT_EQ(Json::parse(text)["first_k_dense_replace"], model.num_layers);
  const spec::Parsed parsed = spec::parse_json(text, "config.json");
  ASSERT_TRUE(parsed.ok());
  for (int64_t layer = 0; layer < model.num_layers; ++layer)
    EXPECT_FALSE(parsed.job.model.is_moe_layer(layer));
}

}  // namespace
}  // namespace dsv3::convert
