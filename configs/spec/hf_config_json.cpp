// See hf_config_json.h. Old-style keys (rope_theta, rope_scaling, torch_dtype): transformers 5
// reads them too.
#include "configs/spec/hf_config_json.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace dsv3::spec {
namespace {

using Json = nlohmann::ordered_json;

Status check_expressible(const ModelSpec& model) {
  const bool has_moe = model.moe.num_experts > 0;
  if (!has_moe || model.moe.score_function != "softmax") return {};
  const std::string kept = "export needs a model that transformers has";
  if (model.moe.norm_topk_prob) {
    return Status(Code::kInvalid,
                  "softmax router with norm_topk_prob true: transformers' DeepSeek-V2 does not "
                  "normalise weights, so it would compute another model",
                  kept);
  }
  if (model.moe.use_aux_loss_free) {
    return Status(Code::kInvalid,
                  "softmax router with use_aux_loss_free true: transformers' DeepSeek-V2 has no "
                  "router bias, so it would compute another model",
                  kept);
  }
  return {};
}

// Transformers 4 takes max_position_embeddings / original for YaRN's factor, so that must hold.
int64_t max_positions(const ModelSpec& model, std::vector<std::string>* notes) {
  const RopeScaling& rope = model.mla.rope_scaling;
  if (rope.type != "yarn") return model.max_context_length;
  const auto stretched = static_cast<int64_t>(
      std::llround(rope.factor * static_cast<double>(rope.original_max_position)));
  if (stretched != model.max_context_length) {
    notes->push_back(
        fmt::format("max_position_embeddings is {} (factor · original_max_position), not "
                    "max_context_length {}: "
                    "transformers 4 computes YaRN's factor from it",
                    stretched, model.max_context_length));
  }
  return stretched;
}

Json rope_scaling(const RopeScaling& rope) {
  if (rope.type != "yarn") return nullptr;
  return {{"type", "yarn"},
          {"factor", rope.factor},
          {"original_max_position_embeddings", rope.original_max_position},
          {"beta_fast", rope.beta_fast},
          {"beta_slow", rope.beta_slow},
          {"mscale", rope.mscale},
          {"mscale_all_dim", rope.mscale_all_dim}};
}

void add_moe(const ModelSpec& model, bool v3, Json* json) {
  const MoeSpec& moe = model.moe;
  const bool has_moe = moe.num_experts > 0;
  (*json)["n_routed_experts"] = moe.num_experts;
  (*json)["n_shared_experts"] = moe.num_shared_experts;
  (*json)["num_experts_per_tok"] = moe.num_experts_per_token;
  (*json)["moe_intermediate_size"] = moe.expert_intermediate_size;
  (*json)["first_k_dense_replace"] = has_moe ? moe.first_k_dense : model.num_layers;
  (*json)["moe_layer_freq"] = 1;
  (*json)["n_group"] = moe.n_group;
  (*json)["topk_group"] = moe.topk_group;
  (*json)["topk_method"] = v3 ? "noaux_tc" : moe.n_group == 1 ? "greedy" : "group_limited_greedy";
  (*json)["scoring_func"] = moe.score_function;
  (*json)["norm_topk_prob"] = moe.norm_topk_prob;
  (*json)["routed_scaling_factor"] = moe.routed_scaling_factor;
  (*json)["aux_loss_alpha"] = moe.router_aux_loss_weight;
  (*json)["seq_aux"] = true;
}

}  // namespace

Result<std::string> hf_config_json(const ModelSpec& model, DType dtype,
                                   std::vector<std::string>* notes) {
  DSV3_RETURN_IF_ERROR(check_expressible(model));
  const bool v3 = model.moe.score_function != "softmax";
  const MlaSpec& mla = model.mla;
  if (!v3 && mla.rope_scaling.type == "yarn" && mla.rope_scaling.mscale_all_dim != 0) {
    notes->push_back(
        "transformers 4 leaves mscale_all_dim out of DeepSeek-V2's softmax scale, so its logits "
        "differ; transformers 5 and DeepSeek's own code agree with this runtime");
  }
  Json json;
  json["architectures"] = {v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"};
  json["model_type"] = v3 ? "deepseek_v3" : "deepseek_v2";
  json["torch_dtype"] = dtype == DType::kF32 ? "float32" : "bfloat16";
  json["vocab_size"] = model.vocab_size;
  json["hidden_size"] = model.d_model;
  json["intermediate_size"] = model.dense_intermediate_size;
  json["num_hidden_layers"] = model.num_layers;
  json["num_attention_heads"] = model.num_heads;
  json["num_key_value_heads"] = model.num_heads;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["attention_dropout"] = 0.0;
  json["max_position_embeddings"] = max_positions(model, notes);
  json["rms_norm_eps"] = model.rms_norm_eps;
  json["initializer_range"] = model.init_std;
  json["tie_word_embeddings"] = model.tie_embeddings;
  json["q_lora_rank"] = mla.q_lora_rank ? Json(*mla.q_lora_rank) : Json(nullptr);
  json["kv_lora_rank"] = mla.kv_lora_rank;
  json["qk_nope_head_dim"] = mla.qk_nope_head_dim;
  json["qk_rope_head_dim"] = mla.qk_rope_head_dim;
  json["v_head_dim"] = mla.v_head_dim;
  json["rope_theta"] = mla.rope_theta;
  json["rope_scaling"] = rope_scaling(mla.rope_scaling);
  add_moe(model, v3, &json);
  json["num_nextn_predict_layers"] = model.mtp_layers;
  json["bos_token_id"] = nullptr;
  json["eos_token_id"] = nullptr;
  json["pad_token_id"] = nullptr;
  json["use_cache"] = true;
  return json.dump(2) + "\n";
}

}  // namespace dsv3::spec
