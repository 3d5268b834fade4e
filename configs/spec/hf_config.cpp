// The keys of config.json that are no fields, after transformers' DeepseekV3Config and DeepSeek's
// own files.
#include "configs/spec/hf_config.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>

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

// Keys that only other families' files have.
struct Foreign {
  std::string_view name;
  std::string_view whose;
};
constexpr std::array kForeign = {
    Foreign{"num_local_experts", "Mixtral's and gpt-oss' experts"},
    Foreign{"sliding_window", "attention over a window (Mistral, Gemma)"},
    Foreign{"layer_types", "models whose layers differ in kind (Gemma, gpt-oss)"},
    Foreign{"use_qk_norm", "models that norm queries and keys (GLM)"},
    Foreign{"ssm_cfg", "state-space models (Mamba)"},
    Foreign{"n_embd", "GPT-2's family"},
};

// The value of a key, null when absent; the last of two (DUPLICATE_KEY is told of later).
const Node* value_of(const Node& root, std::string_view name) {
  const Node* found = nullptr;
  for (const auto& [key, value] : root.entries) {
    if (key.text == name) found = &value;
  }
  return found;
}

bool is_empty(const Node& list) {
  return list.is_scalar() ? list.is_null() || list.text.empty()
                          : list.items.empty() && list.entries.empty();
}

// "DeepseekV3ForCausalLM" is one of DeepseekV3, "DeepseekV32ForCausalLM" (another attention) isn't.
bool is_class_of(std::string_view name, std::string_view family) {
  return name.starts_with(family) &&
         (name.size() == family.size() ||
          std::isdigit(static_cast<unsigned char>(name[family.size()])) == 0);
}

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
  const auto refuse = [&](const Node& at, std::string_view key, std::string message,
                          std::string hint) {
    out.push_back({Severity::kError, "UNSUPPORTED_MODEL", at.where, std::string(key),
                   std::move(message), std::move(hint)});
    return std::string();
  };
  if (const Node* type = value_of(root, "model_type"); type != nullptr && !type->is_null()) {
    // Kimi-K2 and Moonlight are this architecture under their own names.
    for (const char* known : {"deepseek_v3", "deepseek_v2", "kimi_k2"}) {
      if (type->is_scalar() && type->text == known) return known;
    }
    return refuse(*type, "model_type", fmt::format("model_type is {}", type->describe()),
                  "supported: deepseek_v3, deepseek_v2, kimi_k2");
  }
  if (const Node* names = value_of(root, "architectures"); names != nullptr && !is_empty(*names)) {
    const Node& first = names->kind == Node::Kind::kSequence ? names->items[0] : *names;
    if (first.is_scalar() && is_class_of(first.text, "DeepseekV3")) return "deepseek_v3";
    if (first.is_scalar() && is_class_of(first.text, "DeepseekV2")) return "deepseek_v2";
    return refuse(*names, "architectures", fmt::format("architectures names {}", first.describe()),
                  "supported: DeepseekV3ForCausalLM, DeepseekV2ForCausalLM");
  }
  constexpr const char* kSayIt =
      "if it is DeepSeek's architecture, add \"model_type\": \"deepseek_v3\"";
  for (const Foreign& f : kForeign) {
    const Node* value = value_of(root, f.name);
    const bool set = value != nullptr && !value->is_null() && value->text != "false";
    if (set)
      return refuse(*value, f.name, fmt::format("{} is a key of {}", f.name, f.whose), kSayIt);
  }
  if (value_of(root, "kv_lora_rank") == nullptr) {
    return refuse(root, "",
                  "the file names neither model_type nor architectures, and has no kv_lora_rank: "
                  "nothing says that it is DeepSeek's architecture",
                  kSayIt);
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
