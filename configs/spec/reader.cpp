// See reader.h: keys and values. What follows from them is in reader_finish.cpp.
#include "configs/spec/reader.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/text.h"
#include "configs/spec/field_value.h"
#include "configs/spec/foreign_keys.h"
#include "configs/spec/hf_config.h"

namespace dsv3::spec {
namespace {

constexpr size_t kDiagnosticsMax = 200;
constexpr size_t kSuggestedWordMax = 64;

// The last words of all keys.
std::vector<std::string_view> leaves() {
  std::vector<std::string_view> names;
  for (const Field& f : field_table()) names.push_back(f.key.substr(f.key.rfind('.') + 1));
  return names;
}

// The whole key of a last word, "" when no key ends so.
std::string key_of_leaf(std::string_view name) {
  for (const Field& f : field_table()) {
    if (f.key.substr(f.key.rfind('.') + 1) == name) return std::string(f.key);
  }
  return {};
}

void set_where(Node& node, const std::string& where) {
  node.where = where;
  for (auto& [key, value] : node.entries) {
    set_where(key, where);
    set_where(value, where);
  }
  for (Node& item : node.items) set_where(item, where);
}

}  // namespace

bool Reader::error(std::string code, std::string where, std::string key, std::string message,
                   std::string hint) {
  if (p_.diagnostics.size() >= kDiagnosticsMax) return false;
  p_.diagnostics.push_back({Severity::kError, std::move(code), std::move(where), std::move(key),
                            std::move(message), std::move(hint)});
  return true;
}

bool Reader::document(const Node& root) {
  if (root.kind != Node::Kind::kMap) {
    if (!has_errors(p_.diagnostics)) {
      const bool empty = root.is_null();
      error(empty ? "EMPTY_FILE" : "NOT_A_MAPPING", root.where, "",
            empty ? "the file is empty"
                  : "the file is " + root.describe() + ", not a mapping of keys",
            "start from a preset: dsv3ctl configs show 1b");
    }
    return false;
  }
  if (hf_) model_type_ = hf_model_type(root, p_.diagnostics);
  if (model_type_.empty()) return false;  // of another family: its other keys would say nothing
  walk(root, "");
  return true;
}

void Reader::layer(const Node& root) {
  ++layer_;
  if (root.kind == Node::Kind::kMap) return walk(root, "");
  const bool empty = root.is_null();
  if (empty && has_errors(p_.diagnostics)) return;  // what could not be read reads as empty
  error(empty ? "EMPTY_FILE" : "NOT_A_MAPPING", root.where, "",
        empty ? "the overlay is empty" : "the overlay is " + root.describe() + ", not a mapping",
        "it holds the keys to change, in sections as in a configuration");
}

void Reader::walk(const Node& map, const std::string& section) {
  std::set<std::string> seen;
  for (const auto& [key, value] : map.entries) {
    if (p_.diagnostics.size() >= kDiagnosticsMax) return;
    if (!key.is_scalar() || key.text.empty()) {
      error("UNKNOWN_KEY", key.where, section,
            fmt::format("a key must be a name, not {}", key.describe()), "");
      continue;
    }
    if (key.text == "<<" && !key.quoted) {
      error("YAML_FEATURE", key.where, section, "a merge key (<<) is not supported",
            "write the keys out");
      continue;
    }
    const std::string path = section.empty() ? key.text : section + "." + key.text;
    if (!seen.insert(key.text).second) {
      error("DUPLICATE_KEY", key.where, path, fmt::format("{} is given twice", path), "remove one");
      continue;
    }
    entry(key, path, value);
  }
}

void Reader::entry(const Node& key, const std::string& path, const Node& node) {
  if (const Resolved r = resolve_key(path); r.field != nullptr) {
    value(r, path, node);
  } else if (is_section(path)) {
    if (node.kind == Node::Kind::kMap) {
      walk(node, path);
    } else if (!node.is_null()) {
      error("WRONG_TYPE", node.where, path,
            fmt::format("{} is a section of keys, not {}", path, node.describe()),
            fmt::format("dsv3ctl explain {}", path));
    }
  } else {
    unknown(key, path, node);
  }
}

void Reader::value(const Resolved& resolved, const std::string& path, const Node& node) {
  const Field& field = *resolved.field;
  if (resolved.kind == AliasKind::kBatchTokens) return batch_tokens(path, node);
  if (resolved.kind == AliasKind::kTorchDtype && hf_ && node.is_null()) return;
  if (given_here(field.key)) return conflict(field, path, node);
  const size_t before = p_.diagnostics.size();
  const bool ok = assign(field, resolved.kind, node, p_.job, p_.diagnostics);
  for (size_t i = before; i < p_.diagnostics.size(); ++i) {
    // Name the spelling that stands in the file, where it is another one.
    if (path != field.key && path.find(field.key) == std::string::npos) {
      p_.diagnostics[i].message += fmt::format(" ({} = {})", path, field.key);
    }
  }
  if (ok && node.text == "false" && resolved.kind == AliasKind::kTrueIsFp8) {
    no_fp8_ = {path, node.where, layer_};
  }
  const bool says_nothing =
      ok && node.text == "false" &&
      (resolved.kind == AliasKind::kTrueIsFp8 || resolved.kind == AliasKind::kTrueIsBf16);
  if (says_nothing) return;
  given_[std::string(field.key)] = {path, node.where, layer_};
  p_.origins[std::string(field.key)] = node.where;
  if (resolved.kind == AliasKind::kTopkMethod) greedy_ = node.text == "greedy";
  if (field.key == "training.global_batch_size") batch_tokens_.reset();
  if (field.key == "model.moe.moe_layers" && ok) moe_layers(node);
}

// "[4, 5, 6]" or "4,5,6": where the run ends matters as well as its length.
void Reader::moe_layers(const Node& node) {
  last_moe_layer_.reset();
  std::string last = node.kind == Node::Kind::kSequence ? node.items.back().text : "";
  if (const size_t comma = node.text.find_last_of(", "); comma != std::string::npos) {
    last = node.text.substr(comma + 1);
  }
  int64_t index = 0;
  const auto [end, ec] = std::from_chars(last.data(), last.data() + last.size(), index);
  if (ec == std::errc{} && !last.empty()) last_moe_layer_ = index;
}

// The same key by two spellings: fine when they say the same (some guides give d_model in two
// sections).
void Reader::conflict(const Field& field, const std::string& path, const Node& node) {
  JobSpec other = p_.job;
  const AliasKind kind = resolve_key(path).kind;
  if (!assign(field, kind, node, other, p_.diagnostics)) return;
  if (kind == AliasKind::kTrueIsFp8 && node.text == "false") no_fp8_ = {path, node.where, layer_};
  if (other == p_.job) return;
  error("DUPLICATE_KEY", node.where, std::string(field.key),
        fmt::format("{} says {}, but {} at {} says {}", path, value_text(field, other),
                    given_[std::string(field.key)].path, p_.origins[std::string(field.key)],
                    value_text(field, p_.job)),
        fmt::format("both mean {}: keep one", field.key));
}

void Reader::batch_tokens(const std::string& path, const Node& node) {
  std::string why;
  const auto tokens = parse_integer(node, true, &why);
  if (!tokens || *tokens < 1) {
    error("WRONG_TYPE", node.where, path,
          fmt::format("{} must be a number of tokens, not {}", path, node.describe()), why);
    return;
  }
  if (given_here("training.global_batch_size")) {
    error("DUPLICATE_KEY", node.where, "training.global_batch_size",
          fmt::format("{} and {} both set the global batch", path,
                      given_["training.global_batch_size"].path),
          "keep one");
    return;
  }
  batch_tokens_ = node;
  batch_tokens_->text = std::to_string(*tokens);
  given_["training.global_batch_size"] = {path, node.where, layer_};
  p_.origins["training.global_batch_size"] = node.where;
}

void Reader::unknown(const Node& key, const std::string& path, const Node& node) {
  const bool hf = hf_ && layer_ == 0;
  if (hf && check_hf_key(path, node, p_.diagnostics)) return;
  const size_t dot = path.rfind('.');
  const std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
  const std::string name = dot == std::string::npos ? path : path.substr(dot + 1);
  std::string hint(hf ? std::string_view{} : instead_of(path, name));
  if (hint.empty() && name.size() <= kSuggestedWordMax) {
    hint = key_of_leaf(name);
    if (hint.empty()) hint = did_you_mean(name, names_below(section));
    if (hint.empty() && !hf) hint = key_of_leaf(did_you_mean(name, leaves()));
    if (!hint.empty()) hint = fmt::format("did you mean '{}'?", hint);
  }
  const std::string shown = path.size() <= 200 ? path : path.substr(0, 200) + "…";
  // A config.json carries whatever its makers liked: only what looks like a slip of the pen is
  // refused.
  if (hf && hint.empty()) {
    p_.diagnostics.push_back({Severity::kWarning, "UNKNOWN_KEY", key.where, shown,
                              fmt::format("unknown key {} is ignored", shown), ""});
    return;
  }
  if (hint.empty())
    hint = fmt::format("dsv3ctl explain{} lists the keys",
                       is_section(section) && !section.empty() ? " " + section : "");
  error("UNKNOWN_KEY", key.where, shown, fmt::format("unknown key {}", shown), hint);
}

void Reader::overrides(const std::vector<std::string>& list) {
  for (const std::string& text : list) {
    ++layer_;  // the last word counts
    const std::string where = "--set " + (text.size() <= 200 ? text : text.substr(0, 200) + "…");
    if (find_not_utf8(text) != std::string::npos) {
      error("BAD_OVERRIDE", "--set", "", "a value given with --set is not UTF-8", "");
      continue;
    }
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      error("BAD_OVERRIDE", where, "", fmt::format("'{}' is not of the form key=value", text),
            "for example --set training.max_steps=100");
      continue;
    }
    Node key;
    key.text = text.substr(0, equals);
    key.where = where;
    Node value;
    value.text = text.substr(equals + 1);
    // Lists, mappings and quoted text are YAML; anything else is taken as it stands, so that no
    // shell value is a trap.
    if (!value.text.empty() &&
        std::string_view("[{\"'").find(value.text[0]) != std::string_view::npos) {
      const size_t before = p_.diagnostics.size();
      value = read_yaml(value.text, where, p_.diagnostics);
      const bool bad = p_.diagnostics.size() > before;
      for (size_t i = before; i < p_.diagnostics.size(); ++i) p_.diagnostics[i].where = where;
      if (bad) continue;
    }
    set_where(value, where);
    entry(key, key.text, value);
  }
}

}  // namespace dsv3::spec
