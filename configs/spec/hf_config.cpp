// The keys of config.json that are no fields, after transformers' DeepseekV3Config and DeepSeek's
// own files.
#include "configs/spec/hf_config.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

namespace dsv3::spec {
namespace {

// Nothing of these changes what is trained.
constexpr std::array kSkipped = {
    "_name_or_path",        "architectures",   "attention_dropout", "auto_map",
    "bos_token_id",         "eos_token_id",    "ep_size",           "head_dim",
    "max_length",           "model_type",      "output_attentions", "output_hidden_states",
    "output_router_logits", "pad_token_id",    "pretraining_tp",    "qk_head_dim",
    "quantization_config",  "return_dict",     "rope_interleave",   "seq_aux",
    "transformers_version", "unsloth_version", "use_cache",
};

// These would change the model; we have one value of each.
struct Fixed {
  std::string_view name;
  std::string_view value;
  std::string_view why;
};
constexpr std::array kFixed = {
    Fixed{"attention_bias", "false", "projections have no bias"},
    Fixed{"hidden_act", "silu", "feed-forwards are SwiGLU"},
    Fixed{"mlp_bias", "false", "projections have no bias"},
    Fixed{"moe_layer_freq", "1", "every layer from first_k_dense on is MoE"},
};

struct TypeDefault {
  std::string_view key;
  std::string_view value;
};
// DeepSeek-V2's ways where its files leave them unsaid.
constexpr std::array kV2Defaults = {
    TypeDefault{"model.moe.score_function", "softmax"},
    TypeDefault{"model.moe.use_aux_loss_free", "false"},
    TypeDefault{"model.moe.norm_topk_prob", "false"},
    TypeDefault{"model.moe.routed_scaling_factor", "1.0"},
    TypeDefault{"model.moe.n_group", "1"},
    TypeDefault{"model.moe.topk_group", "1"},
};

}  // namespace

bool check_hf_key(std::string_view name, const Node& value, std::vector<Diagnostic>& out) {
  if (name.starts_with('_')) return true;
  if (std::find(kSkipped.begin(), kSkipped.end(), name) != kSkipped.end()) {
    const bool half_split = name == "rope_interleave" && value.is_scalar() && value.text == "false";
    if (half_split) {
      out.push_back({Severity::kError, "UNSUPPORTED_MODEL", value.where, std::string(name),
                     "rope_interleave is false; the model's rotary pairs are interleaved, as in "
                     "the released weights",
                     "use the interleaved weights"});
    }
    return true;
  }
  for (const Fixed& f : kFixed) {
    if (f.name != name) continue;
    if (!value.is_null() && !(value.is_scalar() && value.text == f.value)) {
      out.push_back({Severity::kError, "UNSUPPORTED_MODEL", value.where, std::string(name),
                     fmt::format("{} is {}; only {} is supported", name, value.describe(), f.value),
                     std::string(f.why)});
    }
    return true;
  }
  return false;
}

std::string hf_model_type(const Node& root, std::vector<Diagnostic>& out) {
  for (const auto& [key, value] : root.entries) {
    if (key.text != "model_type" || !value.is_scalar()) continue;
    // Kimi-K2 and Moonlight are this architecture under their own names.
    if (value.text == "deepseek_v3" || value.text == "deepseek_v2" || value.text == "kimi_k2")
      return value.text;
    out.push_back({Severity::kError, "UNSUPPORTED_MODEL", value.where, "model_type",
                   fmt::format("model_type is {}", value.describe()),
                   "supported: deepseek_v3, deepseek_v2, kimi_k2"});
  }
  return "deepseek_v3";
}

std::string_view hf_default(const Field& field, std::string_view model_type) {
  if (model_type == "deepseek_v2") {
    for (const TypeDefault& d : kV2Defaults) {
      if (d.key == field.key) return d.value;
    }
    if (field.required) return "";  // its sizes have no defaults that anyone means
  }
  return field.hf_default;
}

}  // namespace dsv3::spec
