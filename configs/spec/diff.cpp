// Compares by the text of canonical YAML, which reads back exactly: equal texts are equal values.
#include "configs/spec/diff.h"

#include <fmt/core.h>

#include "configs/spec/field_table.h"

namespace dsv3::spec {

std::vector<Difference> diff(const JobSpec& from, const JobSpec& to) {
  std::vector<Difference> found;
  for (const Field& field : field_table()) {
    if (field.key.starts_with("preset.")) continue;
    std::string before = value_text(field, from), after = value_text(field, to);
    if (before == after) continue;
    found.push_back({std::string(field.key), std::move(before), std::move(after)});
  }
  return found;
}

std::string diff_text(const std::vector<Difference>& differences) {
  std::string out;
  for (const Difference& d : differences) out += fmt::format("{}: {} -> {}\n", d.key, d.from, d.to);
  return out;
}

}  // namespace dsv3::spec
