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

// The model_type of a config.json ("deepseek_v3" when absent); an unsupported one is a diagnostic.
std::string hf_model_type(const Node& root, std::vector<Diagnostic>& out);

// The value that an absent key takes in a config.json of that type; "" when the type has no default
// of its own.
std::string_view hf_default(const Field& field, std::string_view model_type);

}  // namespace dsv3::spec
