// Does an object have the fields that CLI.md promises, each of its type.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::e2e {

// "int", "number", "string", "bool", "array", "object", or any of them followed by "?" when null is
// allowed.
inline bool is_of_type(const nlohmann::json& value, std::string type) {
  if (type.ends_with('?')) {
    if (value.is_null()) return true;
    type.pop_back();
  }
  if (type == "int") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "bool") return value.is_boolean();
  if (type == "array") return value.is_array();
  return type == "object" && value.is_object();
}

using Fields = std::vector<std::pair<std::string, std::string>>;

inline void expect_fields(const nlohmann::json& object, const Fields& fields,
                          const std::string& of) {
  ASSERT_TRUE(object.is_object()) << of << ": " << object.dump();
  for (const auto& [name, type] : fields) {
    if (!object.contains(name)) {
      ADD_FAILURE() << of << " has no \"" << name << "\": " << object.dump();
    } else {
      EXPECT_TRUE(is_of_type(object[name], type))
          << of << "." << name << " is not " << type << ": " << object[name].dump();
    }
  }
}

inline const Fields kLayout = {{"tp", "int"},
                               {"cp", "int"},
                               {"pp", "int"},
                               {"ep", "int"},
                               {"dp", "int"},
                               {"etp", "int"},
                               {"dense_dp", "int"},
                               {"expert_dp", "int"},
                               {"zero_stage", "int"},
                               {"schedule", "string"},
                               {"recompute", "string"},
                               {"micro_batch", "int"},
                               {"grad_accumulation", "int"}};

inline const Fields kJob = {{"id", "string"},
                            {"name", "string"},
                            {"state", "string"},
                            {"reason", "string"},
                            {"since", "number"},
                            {"attempt", "int"},
                            {"restarts", "int"},
                            {"step", "int?"},
                            {"max_steps", "int"},
                            {"loss", "number?"},
                            {"tokens_per_s", "number?"},
                            {"mfu", "number?"},
                            {"effective_time_ratio", "number?"},
                            {"lost_steps", "int"},
                            {"layout", "object"},
                            {"ranks", "int"},
                            {"checkpoint", "object?"}};

inline const Fields kError = {
    {"code", "string"}, {"message", "string"}, {"hint", "string"}, {"where", "string"}};
inline const Fields kDiagnostic = {{"code", "string"},
                                   {"where", "string"},
                                   {"key", "string"},
                                   {"message", "string"},
                                   {"hint", "string"}};

}  // namespace dsv3::e2e
