// What a Hugging Face config.json holds beside the keys of the field table.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "configs/spec/diagnostic.h"
#include "configs/spec/document.h"
#include "configs/spec/field_table.h"

namespace dsv3::spec {

// True when `name` is a config.json key that is no field of ours but understood: either without
// meaning for training (skipped), or one that must have the only value that this model definition
// has (a diagnostic otherwise).
bool check_hf_key(std::string_view name, const Node& value, std::vector<Diagnostic>& out);

// Whose architecture a config.json holds: "deepseek_v3", "deepseek_v2" or "kimi_k2", by model_type,
// else by architectures, else "deepseek_v3" for a file that has a kv_lora_rank and no key of
// another family. "" for any other, with an UNSUPPORTED_MODEL that says what it is: its absent keys
// must not become DeepSeek-V3's.
std::string hf_model_type(const Node& root, std::vector<Diagnostic>& out);

// The value that an absent key takes in a config.json of that type; "" when the type has no default
// of its own.
std::string_view hf_default(const Field& field, std::string_view model_type);

}  // namespace dsv3::spec
