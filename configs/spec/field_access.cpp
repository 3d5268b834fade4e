// Questions to the table: which field a path means, and how a field's type, range, default and
// value read as text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/text.h"
#include "configs/spec/field_table.h"

namespace dsv3::spec {
namespace {

std::string_view section_of(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? std::string_view{} : key.substr(0, dot);
}

bool has_dot(std::string_view name) {
  return name.find('.') != std::string_view::npos;
}

// "--moe-router-topk" → "moe_router_topk"; "" for a name with a remark, which doesn't mean the
// same.
std::string same_name(std::string_view name) {
  if (name.find(' ') != std::string_view::npos) return {};
  if (name.starts_with("--")) name.remove_prefix(2);
  std::string out(name);
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}

// A name that stands among the aliases means what it says there.
AliasKind kind_of(const Field& field, std::string_view name) {
  for (const Alias& a : field.aliases) {
    if (a.path == name) return a.kind;
  }
  return AliasKind::kSame;
}

struct Index {
  std::map<std::string, Resolved, std::less<>> paths;  // every accepted path
  std::map<std::string, std::set<std::string>, std::less<>>
      children;  // section → accepted names in it

  void add(std::string path, const Field& field, AliasKind kind) {
    paths.emplace(path,
                  Resolved{&field, kind});  // the first entry wins: canonical keys are added first
    std::string_view at = path;
    while (true) {
      const std::string_view parent = section_of(at);
      children[std::string(parent)].emplace(at.substr(parent.empty() ? 0 : parent.size() + 1));
      if (parent.empty()) break;
      at = parent;
    }
  }
};

const Index& index() {
  static const Index built = [] {
    Index out;
    for (const Field& f : field_table()) out.add(std::string(f.key), f, AliasKind::kSame);
    for (const Field& f : field_table()) {
      const auto bare = [&](std::string_view name, AliasKind kind) {
        out.add(std::string(name), f, kind);
        out.add(fmt::format("{}.{}", section_of(f.key), name), f, kind);
        if (f.key.starts_with("model.")) out.add(fmt::format("model.{}", name), f, kind);
      };
      for (std::string_view name : f.bare) bare(name, AliasKind::kSame);
      if (const std::string name = same_name(f.hf_name); !name.empty() && !has_dot(name)) {
        bare(name, kind_of(f, name));
      }
      if (const std::string name = same_name(f.megatron_name); !name.empty()) {
        bare(name, AliasKind::kSame);
      }
      for (const Alias& a : f.aliases) {
        if (a.path.find('.') == std::string_view::npos) {
          bare(a.path, a.kind);
        } else {
          out.add(std::string(a.path), f, a.kind);
        }
      }
    }
    return out;
  }();
  return built;
}

// A number that YAML 1.1 readers take for a number too: "1e-05" has no dot, so it gets one.
std::string yaml_number(double value) {
  std::string text = exact_number(value);
  const size_t e = text.find_first_of("eE");
  if (e != std::string::npos && text.find('.') == std::string::npos) text.insert(e, ".0");
  return text;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02X}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string blend_text(const Blend& blend) {
  const bool plain = blend.size() == 1 && blend[0].second == 1.0 &&
                     blend[0].first.find_first_of(" \t\n") == std::string::npos;
  if (plain) return quoted(blend[0].first);
  if (blend.empty()) return "\"\"";
  std::string out = "[";
  for (size_t i = 0; i < blend.size(); ++i) {
    if (i > 0) out += ", ";
    out += yaml_number(blend[i].second) + ", " + quoted(blend[i].first);
  }
  return out + "]";
}

struct ValueText {
  const Field& field;
  std::string operator()(const int64_t* v) const { return std::to_string(*v); }
  std::string operator()(const double* v) const { return yaml_number(*v); }
  std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
  std::string operator()(const std::string* v) const {
    return field.choices.empty() ? quoted(*v) : *v;
  }
  std::string operator()(const std::optional<int64_t>* v) const {
    return *v ? std::to_string(**v) : "null";
  }
  std::string operator()(const std::optional<double>* v) const {
    return *v ? yaml_number(**v) : "null";
  }
  std::string operator()(const std::vector<double>* v) const {
    std::string out = "[";
    for (size_t i = 0; i < v->size(); ++i) out += (i > 0 ? ", " : "") + yaml_number((*v)[i]);
    return out + "]";
  }
  std::string operator()(const Blend* v) const { return blend_text(*v); }
  std::string operator()(const std::vector<int64_t>* v) const {
    return fmt::format("[{}]", fmt::join(*v, ", "));
  }
};

std::string bound(double value) {
  if (std::floor(value) == value && std::abs(value) < 1e8) {
    return std::to_string(static_cast<int64_t>(value));
  }
  return fmt::format("{:g}", value);
}

}  // namespace

const Field* find_field(std::string_view canonical_key) {
  const Resolved r = resolve_key(canonical_key);
  return r.field != nullptr && r.field->key == canonical_key ? r.field : nullptr;
}

Resolved resolve_key(std::string_view path) {
  const auto it = index().paths.find(path);
  return it == index().paths.end() ? Resolved{} : it->second;
}

bool is_section(std::string_view path) {
  return index().children.count(path) > 0;
}

std::vector<std::string_view> names_below(std::string_view section) {
  const auto it = index().children.find(section);
  if (it == index().children.end()) return {};
  return {it->second.begin(), it->second.end()};
}

std::string type_name(const Field& field) {
  static constexpr std::string_view kNames[] = {
      "integer",         "number",         "true or false",   "text",
      "integer or null", "number or null", "list of numbers", "data path or blend",
      "list of integers"};
  if (!field.choices.empty()) return "choice";
  JobSpec scratch;
  return std::string(kNames[field.slot(scratch).index()]);
}

std::string range_text(const Field& field) {
  if (!field.choices.empty()) {
    std::string out = "one of ";
    for (size_t i = 0; i < field.choices.size(); ++i) {
      out += (i > 0 ? ", " : "") + std::string(field.choices[i]);
    }
    return out;
  }
  if (field.min == field.max) return "";
  return fmt::format("{}{} … {}", field.exclusive_min ? "> " : "", bound(field.min),
                     bound(field.max));
}

std::string default_text(const Field& field) {
  if (!field.absent.empty()) return std::string(field.absent);
  if (field.required) return "required";
  return value_text(field, JobSpec{});
}

std::string value_text(const Field& field, const JobSpec& job) {
  // The slot is only read here.
  return std::visit(ValueText{field}, field.slot(const_cast<JobSpec&>(job)));
}

}  // namespace dsv3::spec
