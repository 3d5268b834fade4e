// Reading Hugging Face's config.json, old and new style, with transformers' defaults.
#include <gtest/gtest.h>

#include "configs/spec/parse.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

// The keys of the released DeepSeek-V3 file.
const char* const kReleased = R"({
  "architectures": ["DeepseekV3ForCausalLM"],
  "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
  "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
  "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02,
  "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
  "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
  "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128,
  "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true,
  "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
  "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 129280
})";

// A file that says whose it is, with more keys.
std::string of_v3(const std::string& keys) {
  return R"({"model_type": "deepseek_v3")" + (keys.empty() ? "" : ", " + keys) + "}";
}

TEST(HfConfig, TheReleasedFileIsThePresetsModel) {
  const Parsed p = parse_json(kReleased, "models/DeepSeek-V3/config.json");
  ASSERT_TRUE(p.diagnostics.empty()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.model.name, "DeepSeek-V3");
  const Result<Parsed> preset = load("671b");
  ASSERT_TRUE(preset.ok() && preset->ok());
  ModelSpec ours = preset->job.model, theirs = p.job.model;
  EXPECT_EQ(theirs.num_key_value_heads, 128);
  EXPECT_EQ(theirs.max_context_length, 163840);
  EXPECT_EQ(theirs.moe.router_aux_loss_weight, 0.001);
  // What the file says otherwise than the report that the preset follows.
  theirs.name = ours.name;
  theirs.num_key_value_heads.reset();
  theirs.max_context_length = ours.max_context_length;
  theirs.moe.router_aux_loss_weight = ours.moe.router_aux_loss_weight;
  theirs.init_std = ours.init_std;
  EXPECT_EQ(theirs, ours);
}

TEST(HfConfig, AbsentKeysTakeTransformersDefaults) {
  const Parsed p = parse_json(of_v3(""), "config.json");
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  const ModelSpec& m = p.job.model;
  EXPECT_EQ(m.vocab_size, 129280);
  EXPECT_EQ(m.d_model, 7168);
  EXPECT_EQ(m.num_layers, 61);
  EXPECT_EQ(m.mla.q_lora_rank, 1536);
  EXPECT_EQ(m.moe.n_group, 8);
  EXPECT_EQ(m.moe.routed_scaling_factor, 2.5);
  EXPECT_EQ(m.max_context_length, 4096);
  EXPECT_EQ(m.mtp_layers, 0);
  EXPECT_EQ(m.init_std, 0.02);
  EXPECT_TRUE(m.moe.use_aux_loss_free);
}

TEST(HfConfig, NewStyleRopeParametersAndNullQRank) {
  const Parsed p =
      parse_json(of_v3(R"("rope_parameters": {"rope_theta": 50000.0, "rope_type": "yarn",
      "factor": 32.0, "original_max_position_embeddings": 4096}, "rope_interleave": true,
      "q_lora_rank": null)"),
                 "config.json");
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.model.mla.rope_theta, 50000.0);
  EXPECT_EQ(p.job.model.mla.rope_scaling.type, "yarn");
  EXPECT_EQ(p.job.model.max_context_length, 131072);  // 4096 before YaRN × 32
  EXPECT_FALSE(p.job.model.mla.q_lora_rank.has_value());
  const Parsed plain = parse_json(
      of_v3(
          R"("rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}, "rope_scaling": null)"),
      "config.json");
  ASSERT_TRUE(plain.ok()) << text_of(plain.diagnostics);
  EXPECT_EQ(plain.job.model.mla.rope_scaling.type, "none");
}

TEST(HfConfig, DeepSeekV2RoutesWithSoftmaxAndWithoutBias) {
  const Parsed p = parse_json(
      R"({"model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
      "num_attention_heads": 16, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6,
      "n_shared_experts": 2, "first_k_dense_replace": 1, "q_lora_rank": null, "scoring_func": "softmax", "topk_method": "greedy"})",
      "config.json");
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.model.moe.score_function, "softmax");
  EXPECT_FALSE(p.job.model.moe.use_aux_loss_free);
  EXPECT_FALSE(p.job.model.moe.norm_topk_prob);
  EXPECT_EQ(p.job.model.moe.n_group, 1);
}

TEST(HfConfig, WhatWouldBeAnotherModelIsRefused) {
  for (const char* text : {R"("attention_bias": true)", R"("hidden_act": "gelu")",
                           R"("moe_layer_freq": 2)", R"("rope_interleave": false)"}) {
    const Parsed p = parse_json(of_v3(text), "config.json");
    EXPECT_NE(find(p.diagnostics, "UNSUPPORTED_MODEL"), nullptr) << text << text_of(p.diagnostics);
    EXPECT_FALSE(p.ok());
  }
}

// A file of another family says so in one sentence, and none of its absent keys becomes V3's.
TEST(HfConfig, AnotherFamilysFileIsRefusedByWhatItIs) {
  const std::pair<const char*, const char*> files[] = {
      {R"({"model_type": "llama", "kv_lora_rank": 512})", "\"llama\""},
      {R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32})",
       "LlamaForCausalLM"},
      {R"({"architectures": ["LlamaForCausalLM"], "kv_lora_rank": 512})", "LlamaForCausalLM"},
      {R"({"architectures": ["DeepseekV32ForCausalLM"], "kv_lora_rank": 512})", "V32"},
      {R"({"architectures": "MixtralForCausalLM"})", "MixtralForCausalLM"},
      {R"({"model_type": null, "num_local_experts": 8, "hidden_size": 4096})", "Mixtral"},
      {R"({"sliding_window": 4096, "kv_lora_rank": 512})", "sliding_window"},
      {R"({"hidden_size": 4096, "n_routed_experts": 64})", "kv_lora_rank"},
      {R"({"architectures": [], "hidden_size": 4096})", "kv_lora_rank"},
      {"{}", "kv_lora_rank"}};
  for (const auto& [text, says] : files) {
    const Parsed p = parse_json(text, "config.json");
    ASSERT_EQ(p.diagnostics.size(), 1u) << text << "\n" << text_of(p.diagnostics);
    EXPECT_EQ(p.diagnostics[0].code, "UNSUPPORTED_MODEL") << text;
    EXPECT_EQ(p.diagnostics[0].severity, Severity::kError);
    EXPECT_NE(p.diagnostics[0].message.find(says), std::string::npos) << p.diagnostics[0].message;
    EXPECT_FALSE(p.diagnostics[0].hint.empty());
    EXPECT_EQ(p.job.model.d_model, 0) << "not DeepSeek-V3's";
  }
}

TEST(HfConfig, DeepSeeksFileIsKnownByTypeByClassOrByItsLatent) {
  for (const char* text :
       {R"({"model_type": "deepseek_v3"})", R"({"model_type": "kimi_k2", "sliding_window": null})",
        R"({"architectures": ["DeepseekV3ForCausalLM"]})",
        R"({"architectures": ["DeepseekV3Model"]})",
        R"({"kv_lora_rank": 512, "sliding_window": null})"}) {
    const Parsed p = parse_json(text, "config.json");
    EXPECT_TRUE(p.ok()) << text << text_of(p.diagnostics);
    EXPECT_EQ(p.job.model.mla.kv_lora_rank, 512) << text;
    EXPECT_EQ(p.job.model.moe.score_function, "sigmoid") << text;
  }
  const Parsed v2 = parse_json(R"({"architectures": ["DeepseekV2ForCausalLM"], "vocab_size": 1000,
      "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_lora_rank": 16,
      "intermediate_size": 128, "max_position_embeddings": 64, "first_k_dense_replace": 2,
      "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32})",
                               "config.json");
  EXPECT_TRUE(v2.ok()) << text_of(v2.diagnostics);
  EXPECT_EQ(v2.job.model.moe.score_function, "softmax");
}

TEST(HfConfig, ASlipIsRefusedAndAStrangersKeyOnlyMentioned) {
  const Parsed slip =
      parse_json("{\n  \"hiden_size\": 1024, \"kv_lora_rank\": 64\n}", "config.json");
  ASSERT_FALSE(slip.ok());
  EXPECT_EQ(slip.diagnostics[0].where, "config.json:2:3");
  EXPECT_NE(slip.diagnostics[0].hint.find("hidden_size"), std::string::npos);
  const Parsed stranger =
      parse_json(of_v3(R"("zz_training_cluster_of_the_makers": 1)"), "config.json");
  EXPECT_TRUE(stranger.ok());
  EXPECT_NE(find(stranger.diagnostics, "UNKNOWN_KEY"), nullptr);
}

// A stranger's key in the file is its makers'; one of --set is the user's own slip.
TEST(HfConfig, AnUnknownKeyOfSetIsAnError) {
  EXPECT_FALSE(parse_json(of_v3(""), "config.json", {"zz_training_cluster_of_the_makers=1"}).ok());
}

// What would be refused in a file of ours is its makers' business in theirs.
TEST(HfConfig, OtherMakersKeysAreNotRefused) {
  const Parsed p = parse_json(of_v3(R"("dropout": 0.0, "head_dim": 64, "sequence_parallel": true,
                                        "dtype": null)"),
                              "config.json");
  EXPECT_TRUE(p.ok()) << text_of(p.diagnostics);
}

TEST(HfConfig, TheNewNameOfTorchDtypeIsRead) {
  EXPECT_EQ(parse_json(of_v3(R"("dtype": "float32")"), "config.json").job.training.dtype, "fp32");
  EXPECT_EQ(parse_json(of_v3(R"("torch_dtype": "float32")"), "config.json").job.training.dtype,
            "fp32");
  EXPECT_EQ(parse_json(of_v3(R"("dtype": "bfloat16")"), "config.json").job.training.dtype, "bf16");
}

TEST(HfConfig, FaultsCarryTheirPlace) {
  const Parsed p = parse_json(
      "{\n  \"hidden_size\": \"wide\",\n  \"n_group\": 2, \"n_group\": 4,\n  \"vocab_size\": -1,\n"
      "  \"kv_lora_rank\": 512\n}",
      "c.json");
  ASSERT_EQ(p.diagnostics.size(), 3u) << text_of(p.diagnostics);
  EXPECT_EQ(p.diagnostics[0].where, "c.json:2:3");
  EXPECT_EQ(p.diagnostics[0].code, "WRONG_TYPE");
  EXPECT_NE(p.diagnostics[0].message.find("hidden_size"), std::string::npos);
  EXPECT_EQ(p.diagnostics[1].where, "c.json:3:17");
  EXPECT_EQ(p.diagnostics[1].code, "DUPLICATE_KEY");
  EXPECT_EQ(p.diagnostics[2].code, "OUT_OF_RANGE");
}

TEST(HfConfig, DamagedFilesAreRefusedWithoutHarm) {
  const std::string text = kReleased;
  for (size_t n = 0; n + 1 < text.size(); n += 5)
    EXPECT_FALSE(parse_json(text.substr(0, n), "c.json").ok()) << n;
  EXPECT_EQ(parse_json("", "c.json").diagnostics.at(0).code, "EMPTY_FILE");
  EXPECT_EQ(parse_json("[1]", "c.json").diagnostics.at(0).code, "NOT_A_MAPPING");
  EXPECT_EQ(parse_json(std::string(100000, '['), "c.json").diagnostics.at(0).code, "TOO_DEEP");
  EXPECT_EQ(parse_json("{\"a\": \xff}", "c.json").diagnostics.at(0).code, "NOT_UTF8");
}

TEST(HfConfig, AJsonFileWithAModelSectionHasOurKeys) {
  const Parsed p = parse_json(R"({"model": {"d_model": 64}})", "c.json");
  EXPECT_NE(find(p.diagnostics, "MISSING_KEY"), nullptr);  // no transformers defaults here
}

}  // namespace
}  // namespace dsv3::spec
