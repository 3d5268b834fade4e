// The models that have been published: their config.json as released, exact counts against what
// their makers say, and back out as config.json without loss.
#include <gtest/gtest.h>

#include "configs/spec/counts.h"
#include "configs/spec/hf_config_json.h"
#include "configs/spec/presets.h"
#include "configs/spec/validate.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

// `total`, `active` …: by an independent counter, checked against the makers' labels and against
// the tensors of the repositories.
struct Published {
  const char* name;
  const char* config;
  int64_t total, bias, active;
  double active_with_embedding_b, active_non_embedding_b;
};

const Published kModels[] = {
    {"DeepSeek-V3", R"({
      "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
      "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
      "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
      "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
      "max_position_embeddings": 163840, "model_type": "deepseek_v3",
      "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
      "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128,
      "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
      "num_nextn_predict_layers": 1, "pretraining_tp": 1, "q_lora_rank": 1536,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
                              "quant_method": "fp8", "weight_block_size": [128, 128]},
      "rms_norm_eps": 1e-06,
      "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                       "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
                       "type": "yarn"},
      "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
      "seq_aux": true, "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc",
      "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": true,
      "v_head_dim": 128, "vocab_size": 129280})",
     671'026'404'352, 14'848, 36'625'603'584, 37.55, 35.70},
    {"DeepSeek-V2", R"({
      "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "aux_loss_alpha": 0.003, "bos_token_id": 100000, "eos_token_id": 100001, "ep_size": 1,
      "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 5120,
      "initializer_range": 0.02, "intermediate_size": 12288, "kv_lora_rank": 512,
      "max_position_embeddings": 163840, "model_type": "deepseek_v2",
      "moe_intermediate_size": 1536, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 160,
      "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 128,
      "num_experts_per_tok": 6, "num_hidden_layers": 60, "num_key_value_heads": 128,
      "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "rms_norm_eps": 1e-06,
      "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                       "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
                       "type": "yarn"},
      "rope_theta": 10000, "routed_scaling_factor": 16.0, "scoring_func": "softmax",
      "seq_aux": true, "tie_word_embeddings": false, "topk_group": 3,
      "topk_method": "group_limited_greedy", "torch_dtype": "bfloat16", "use_cache": true,
      "v_head_dim": 128, "vocab_size": 102400})",
     235'741'434'880, 0, 20'851'512'320, 21.38, 20.33},
    {"DeepSeek-V2-Lite", R"({
      "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "aux_loss_alpha": 0.001, "bos_token_id": 100000, "eos_token_id": 100001,
      "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
      "initializer_range": 0.02, "intermediate_size": 10944, "kv_lora_rank": 512,
      "max_position_embeddings": 163840, "model_type": "deepseek_v2",
      "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64,
      "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 16,
      "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16,
      "pretraining_tp": 1, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "rms_norm_eps": 1e-06,
      "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707,
                       "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096,
                       "type": "yarn"},
      "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
      "seq_aux": true, "tie_word_embeddings": false, "topk_group": 1, "topk_method": "greedy",
      "torch_dtype": "bfloat16", "use_cache": true, "v_head_dim": 128, "vocab_size": 102400})",
     15'706'484'224, 0, 2'451'435'008, 2.66, 2.24},
    {"Moonlight-16B-A3B", R"({
      "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "aux_loss_alpha": 0.001, "bos_token_id": 163584, "eos_token_id": 163585, "ep_size": 1,
      "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
      "initializer_range": 0.02, "intermediate_size": 11264, "kv_lora_rank": 512,
      "max_position_embeddings": 8192, "model_type": "deepseek_v3",
      "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64,
      "n_shared_experts": 2, "norm_topk_prob": true, "num_attention_heads": 16,
      "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16,
      "num_nextn_predict_layers": 0, "pretraining_tp": 1, "q_lora_rank": null,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05, "rope_theta": 50000.0,
      "routed_scaling_factor": 2.446, "scoring_func": "sigmoid", "seq_aux": true,
      "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc",
      "torch_dtype": "bfloat16", "use_cache": true, "v_head_dim": 128, "vocab_size": 163840})",
     15'960'108'544, 1'664, 2'579'230'208, 2.91, 2.2437},
    {"Kimi-K2", R"({
      "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
      "aux_loss_alpha": 0.001, "bos_token_id": 163584, "eos_token_id": 163585, "ep_size": 1,
      "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 7168,
      "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
      "max_position_embeddings": 131072, "model_type": "kimi_k2", "moe_intermediate_size": 2048,
      "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 384, "n_shared_experts": 1,
      "norm_topk_prob": true, "num_attention_heads": 64, "num_experts_per_tok": 8,
      "num_hidden_layers": 61, "num_key_value_heads": 64, "num_nextn_predict_layers": 0,
      "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
                              "quant_method": "fp8", "weight_block_size": [128, 128]},
      "rms_norm_eps": 1e-06,
      "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0,
                       "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
                       "type": "yarn"},
      "rope_theta": 50000.0, "routed_scaling_factor": 2.827, "scoring_func": "sigmoid",
      "seq_aux": true, "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc",
      "torch_dtype": "bfloat16", "use_cache": true, "v_head_dim": 128, "vocab_size": 163840})",
     1'026'408'209'408, 23'040, 31'687'072'768, 32.86, 30.51},
};

class PublishedModels : public testing::TestWithParam<Published> {};

TEST_P(PublishedModels, AreReadWithoutAWordAndAreValid) {
  const Published& m = GetParam();
  const Parsed p = parse_json(m.config, std::string(m.name) + "/config.json");
  ASSERT_TRUE(p.diagnostics.empty()) << text_of(p.diagnostics);
  ValidateOptions options;
  options.origins = &p.origins;
  EXPECT_FALSE(has_errors(validate(p.job, options))) << text_of(validate(p.job, options));
}

TEST_P(PublishedModels, HaveTheirMakersCounts) {
  const Published& m = GetParam();
  const ParamCounts c = count_params(parse_json(m.config, "config.json").job.model);
  EXPECT_EQ(c.total, m.total);
  EXPECT_EQ(c.router_bias_buffer, m.bias);
  EXPECT_EQ(c.active, m.active);
  EXPECT_NEAR(static_cast<double>(c.active_with_embedding) / 1e9, m.active_with_embedding_b, 0.005);
  EXPECT_NEAR(static_cast<double>(c.active_non_embedding) / 1e9, m.active_non_embedding_b, 0.005);
  EXPECT_EQ(c.mtp, std::string(m.name) == "DeepSeek-V3" ? 11'610'067'968 : 0);
}

// What a token uses of each part sums to what it uses.
TEST_P(PublishedModels, ActivePartsSumUp) {
  const ParamCounts c = count_params(parse_json(GetParam().config, "config.json").job.model);
  int64_t sum = 0;
  for (const int64_t n : c.active_by_part) sum += n;
  EXPECT_EQ(sum, c.active_with_embedding);
  EXPECT_EQ(sum - c.active_part(Part::kEmbedding), c.active);
  EXPECT_EQ(c.active_part(Part::kMtp), 0);
}

TEST_P(PublishedModels, GoOutAndComeBackTheSame) {
  const Published& m = GetParam();
  const Parsed first = parse_json(m.config, "config.json");
  std::vector<std::string> notes;
  const Result<std::string> text = hf_config_json(first.job.model, DType::kBf16, &notes);
  ASSERT_TRUE(text.ok()) << text.status().to_string();
  const Parsed back = parse_json(*text, "config.json");
  ASSERT_TRUE(back.diagnostics.empty()) << text_of(back.diagnostics);
  EXPECT_EQ(diff_text(diff(first.job, back.job)), "");
  EXPECT_EQ(back.job, first.job);
}

INSTANTIATE_TEST_SUITE_P(HfConfig, PublishedModels, testing::ValuesIn(kModels),
                         [](const auto& info) {
                           std::string name;
                           for (const char c : std::string(info.param.name)) {
                             if (std::isalnum(static_cast<unsigned char>(c))) name += c;
                           }
                           return name;
                         });

// The presets that are published models differ from the files only where their comments say.
TEST(PublishedPresets, AreTheReleasedModels) {
  const std::vector<std::pair<std::string, int>> same = {
      {"v3", 0}, {"v2-lite", 2}, {"moonlight-16b", 3}};
  for (const auto& [name, at] : same) {
    ModelSpec released = parse_json(kModels[at].config, "config.json").job.model;
    const Result<Parsed> preset = load(name);
    ASSERT_TRUE(preset.ok() && preset->ok()) << name;
    ModelSpec ours = preset->job.model;
    EXPECT_EQ(count_params(ours).total, kModels[at].total) << name;
    released.name = ours.name;
    released.num_key_value_heads.reset();
    if (name != "moonlight-16b") released.init_std = 0.006;  // the reports'
    if (name == "v3") released.moe.router_aux_loss_weight = 1e-4;
    EXPECT_EQ(ours, released) << name;
  }
}

// A rounding trap: with the embedding table DeepSeek-V3 would print "38B", and V2 is 235.7B.
TEST(PublishedLabels, AreReproducedByTheDefaultConvention) {
  const auto rounded = [](int64_t n) { return (n + 500'000'000) / 1'000'000'000; };
  EXPECT_EQ(rounded(count_params(parse_json(kModels[0].config, "c.json").job.model).active), 37);
  EXPECT_EQ(rounded(count_params(parse_json(kModels[1].config, "c.json").job.model).active), 21);
}

}  // namespace
}  // namespace dsv3::spec
