// The walk over a document: every key is looked up in the field table, every fault is noted, then
// what the file left out is filled in.
#include "configs/spec/parse.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <set>

#include "base/text.h"
#include "configs/spec/document.h"
#include "configs/spec/field_table.h"
#include "configs/spec/field_value.h"
#include "configs/spec/hf_config.h"

namespace dsv3::spec {
namespace {

constexpr size_t kDiagnosticsMax = 200;
constexpr size_t kSuggestedWordMax = 64;

class Reader {
 public:
  Reader(Parsed& parsed, bool hf) : p_(parsed), hf_(hf) {}

  void document(const Node& root) {
    if (root.kind != Node::Kind::kMap) {
      if (!has_errors(p_.diagnostics)) {
        const bool empty = root.is_null();
        error(empty ? "EMPTY_FILE" : "NOT_A_MAPPING", root.where, "",
              empty ? "the file is empty"
                    : "the file is " + root.describe() + ", not a mapping of keys",
              "start from a preset: dsv3ctl configs show 1b");
      }
      return;
    }
    if (hf_) model_type_ = hf_model_type(root, p_.diagnostics);
    walk(root, "");
  }
  void overrides(const std::vector<std::string>& list);
  void finish();

 private:
  void walk(const Node& map, const std::string& section);
  void entry(const Node& key, const std::string& path, const Node& value);
  void value(const Resolved& resolved, const std::string& path, const Node& value);
  void unknown(const Node& key, const std::string& path, const Node& value);
  void conflict(const Field& field, const std::string& path, const Node& value);
  void batch_tokens(const std::string& path, const Node& value);
  void fill_absent();
  void derive();
  void require_parts();

  bool given(std::string_view key) const { return given_.count(std::string(key)) > 0; }
  // False once there are so many faults that more would not help.
  bool error(std::string code, std::string where, std::string key, std::string message,
             std::string hint) {
    if (p_.diagnostics.size() >= kDiagnosticsMax) return false;
    p_.diagnostics.push_back({Severity::kError, std::move(code), std::move(where), std::move(key),
                              std::move(message), std::move(hint)});
    return true;
  }

  Parsed& p_;
  const bool hf_;
  std::string model_type_ = "deepseek_v3";
  bool overriding_ = false;                   // inside --set: replaces what the file says
  std::map<std::string, std::string> given_;  // canonical key → the spelling it was given by
  std::optional<Node> batch_tokens_;
  std::optional<int64_t> last_moe_layer_;
  bool greedy_ = false;  // topk_method: groups play no part
};

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
  if (!overriding_ && given(field.key)) return conflict(field, path, node);
  const size_t before = p_.diagnostics.size();
  const bool ok = assign(field, resolved.kind, node, p_.job, p_.diagnostics);
  for (size_t i = before; i < p_.diagnostics.size(); ++i) {
    // Name the spelling that stands in the file, where it is another one.
    if (path != field.key && path.find(field.key) == std::string::npos) {
      p_.diagnostics[i].message += fmt::format(" ({} = {})", path, field.key);
    }
  }
  const bool says_nothing =
      ok && node.text == "false" &&
      (resolved.kind == AliasKind::kTrueIsFp8 || resolved.kind == AliasKind::kTrueIsBf16);
  if (says_nothing) return;
  given_[std::string(field.key)] = path;
  p_.origins[std::string(field.key)] = node.where;
  if (resolved.kind == AliasKind::kTopkMethod) greedy_ = node.text == "greedy";
  if (field.key == "training.global_batch_size") batch_tokens_.reset();
  if (field.key == "model.moe.moe_layers" && ok) {
    last_moe_layer_.reset();
    // "[4, 5, 6]" or "4,5,6": where the run ends matters as well as its length.
    std::string last = node.kind == Node::Kind::kSequence ? node.items.back().text : "";
    if (const size_t comma = node.text.find_last_of(", "); comma != std::string::npos) {
      last = node.text.substr(comma + 1);
    }
    int64_t index = 0;
    const auto [end, ec] = std::from_chars(last.data(), last.data() + last.size(), index);
    if (ec == std::errc{} && !last.empty()) last_moe_layer_ = index;
  }
}

// The same key by two spellings: fine when they say the same (seeds give d_model in two sections).
void Reader::conflict(const Field& field, const std::string& path, const Node& node) {
  JobSpec other = p_.job;
  if (!assign(field, resolve_key(path).kind, node, other, p_.diagnostics)) return;
  if (other == p_.job) return;
  error("DUPLICATE_KEY", node.where, std::string(field.key),
        fmt::format("{} says {}, but {} at {} says {}", path, value_text(field, other),
                    given_[std::string(field.key)], p_.origins[std::string(field.key)],
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
  if (!overriding_ && given("training.global_batch_size")) {
    error("DUPLICATE_KEY", node.where, "training.global_batch_size",
          fmt::format("{} and {} both set the global batch", path,
                      given_["training.global_batch_size"]),
          "keep one");
    return;
  }
  batch_tokens_ = node;
  batch_tokens_->text = std::to_string(*tokens);
  given_["training.global_batch_size"] = path;
  p_.origins["training.global_batch_size"] = node.where;
}

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

void Reader::unknown(const Node& key, const std::string& path, const Node& node) {
  if (hf_ && check_hf_key(path, node, p_.diagnostics)) return;
  const size_t dot = path.rfind('.');
  const std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
  const std::string name = dot == std::string::npos ? path : path.substr(dot + 1);
  std::string hint;
  if (name.size() <= kSuggestedWordMax) {
    hint = key_of_leaf(name);
    if (hint.empty()) hint = did_you_mean(name, names_below(section));
    if (hint.empty() && !hf_) hint = key_of_leaf(did_you_mean(name, leaves()));
    if (!hint.empty()) hint = fmt::format("did you mean '{}'?", hint);
  }
  const std::string shown = path.size() <= 200 ? path : path.substr(0, 200) + "…";
  // A config.json carries whatever its makers liked: only what looks like a slip of the pen is
  // refused.
  if (hf_ && hint.empty()) {
    p_.diagnostics.push_back({Severity::kWarning, "UNKNOWN_KEY", key.where, shown,
                              fmt::format("unknown key {} is ignored", shown), ""});
    return;
  }
  if (hint.empty())
    hint = fmt::format("dsv3ctl explain{} lists the keys",
                       is_section(section) && !section.empty() ? " " + section : "");
  error("UNKNOWN_KEY", key.where, shown, fmt::format("unknown key {}", shown), hint);
}

void set_where(Node& node, const std::string& where) {
  node.where = where;
  for (auto& [key, value] : node.entries) {
    set_where(key, where);
    set_where(value, where);
  }
  for (Node& item : node.items) set_where(item, where);
}

void Reader::overrides(const std::vector<std::string>& list) {
  overriding_ = true;
  for (const std::string& text : list) {
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

// What the file leaves out: a config.json's own default, or what an absent key means in ours;
// JobSpec's value otherwise.
void Reader::fill_absent() {
  for (const Field& field : field_table()) {
    if (given(field.key)) continue;
    const std::string_view hf = hf_ ? hf_default(field, model_type_) : std::string_view{};
    const std::string_view text = hf.empty() ? field.absent : hf;
    if (!text.empty()) {
      Node node;
      node.text = text;
      std::vector<Diagnostic> none;
      const bool ok = assign(field, AliasKind::kSame, node, p_.job, none);
      DSV3_CHECK(ok, field.key);
    } else if (field.required) {
      error("MISSING_KEY", p_.file, std::string(field.key),
            fmt::format("{} is not given", field.key), std::string(field.doc));
    }
  }
}

// Values that follow from others.
void Reader::derive() {
  ModelSpec& m = p_.job.model;
  TrainingSpec& t = p_.job.training;
  if (!given("model.name")) {
    const std::filesystem::path path(p_.file);
    m.name =
        path.stem() == "config" ? path.parent_path().filename().string() : path.stem().string();
    if (m.name.empty()) m.name = "model";
  }
  const bool stretched = m.mla.rope_scaling.type == "yarn";
  if (hf_ && stretched && m.max_context_length == m.mla.rope_scaling.original_max_position) {
    // Some files give the length before YaRN, DeepSeek's the one after it.
    m.max_context_length =
        static_cast<int64_t>(static_cast<double>(m.max_context_length) * m.mla.rope_scaling.factor);
  }
  if (!given("model.max_context_length") && !hf_ && given("training.seq_length")) {
    m.max_context_length = std::max(m.max_context_length, t.seq_length);
  }
  if (!given("training.seq_length")) t.seq_length = std::min<int64_t>(4096, m.max_context_length);
  if (batch_tokens_) {
    const int64_t tokens = std::stoll(batch_tokens_->text);
    const auto most = static_cast<int64_t>(find_field("training.global_batch_size")->max);
    t.global_batch_size = std::min(tokens / std::max<int64_t>(1, t.seq_length), most);
    if (tokens > most * std::max<int64_t>(1, t.seq_length)) {
      error("OUT_OF_RANGE", batch_tokens_->where, "training.global_batch_size",
            fmt::format("{} tokens are more than {} sequences of {}", tokens, most, t.seq_length),
            "a smaller batch");
    } else if (t.seq_length > 0 && tokens % t.seq_length != 0) {
      error(
          "OUT_OF_RANGE", batch_tokens_->where, "training.global_batch_size",
          fmt::format("{} tokens are not a whole number of sequences of {}", tokens, t.seq_length),
          fmt::format("use a multiple of {}, for example {}", t.seq_length,
                      (t.global_batch_size + 1) * t.seq_length));
    }
  }
  if (greedy_) m.moe.n_group = m.moe.topk_group = 1;
  if (m.moe.moe_layers && !given("model.moe.first_k_dense")) {
    m.moe.first_k_dense = std::max<int64_t>(0, m.num_layers - *m.moe.moe_layers);
  }
  if (last_moe_layer_ && m.num_layers > 0 && *last_moe_layer_ != m.num_layers - 1) {
    error("MOE_LAYERS_MISMATCH", p_.origins["model.moe.moe_layers"], "model.moe.moe_layers",
          fmt::format("the listed MoE layers end at {}, but the model's last layer is {}",
                      *last_moe_layer_, m.num_layers - 1),
          "MoE layers are the last ones; give first_k_dense instead");
  }
}

// Sizes that are needed only by some models.
void Reader::require_parts() {
  const ModelSpec& m = p_.job.model;
  const auto need = [&](const char* key, int64_t value, const std::string& why) {
    if (value < 1 && !given(key)) {
      error("MISSING_KEY", p_.file, key, fmt::format("{} is not given", key), why);
    }
  };
  if (m.moe.num_experts > 0) {
    const std::string why = fmt::format("needed with num_experts {}", m.moe.num_experts);
    need("model.moe.num_experts_per_token", m.moe.num_experts_per_token, why);
    need("model.moe.expert_intermediate_size", m.moe.expert_intermediate_size, why);
  }
  if (m.num_layers > 0 && (m.moe.num_experts == 0 || m.moe.first_k_dense > 0)) {
    need("model.dense_intermediate_size", m.dense_intermediate_size,
         "the width of the dense layers' feed-forward");
  }
}

void Reader::finish() {
  const bool readable = !p_.diagnostics.empty() ? !given_.empty() : true;
  if (!readable) return;  // nothing was read: "not given" thirty times would hide why
  fill_absent();
  derive();
  require_parts();
}

Parsed parse(const Node& root, Parsed parsed, bool hf, const std::vector<std::string>& overrides) {
  Reader reader(parsed, hf);
  reader.document(root);
  const bool is_map = root.kind == Node::Kind::kMap;
  reader.overrides(overrides);
  if (is_map) reader.finish();
  return parsed;
}

// What no reader should see: a text beyond the limit, or bytes that are no text. yaml-cpp would
// take UTF-16, end at a NUL, and pass on bytes that no message or database takes.
bool refused(std::string_view text, Parsed& parsed) {
  const auto refuse = [&](const char* code, std::string where, std::string message,
                          const char* hint) {
    parsed.diagnostics.push_back(
        {Severity::kError, code, std::move(where), "", std::move(message), hint});
    return true;
  };
  if (text.size() > kFileBytesMax) {
    return refuse("FILE_TOO_LARGE", parsed.file,
                  fmt::format("the file has {} bytes; the limit is {}", text.size(), kFileBytesMax),
                  "a configuration is a few kilobytes");
  }
  const size_t nul = text.find('\0');
  const size_t at = std::min(nul, find_not_utf8(text));
  if (at == std::string_view::npos) return false;
  const std::string_view before = text.substr(0, at);
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t column = at - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  return refuse("NOT_UTF8", fmt::format("{}:{}:{}", parsed.file, line, column),
                at == nul ? std::string("the file holds a NUL byte: it is no text")
                          : fmt::format("the file is not UTF-8 (byte 0x{:02x})",
                                        static_cast<unsigned char>(text[at])),
                "save it as UTF-8 text");
}

}  // namespace

Parsed parse_yaml(std::string_view text, const std::string& file_name,
                  const std::vector<std::string>& overrides) {
  Parsed parsed;
  parsed.file = file_name;
  if (refused(text, parsed)) return parsed;
  const Node root = read_yaml(text, file_name, parsed.diagnostics);
  return parse(root, std::move(parsed), false, overrides);
}

Parsed parse_json(std::string_view text, const std::string& file_name,
                  const std::vector<std::string>& overrides) {
  Parsed parsed;
  parsed.file = file_name;
  if (refused(text, parsed)) return parsed;
  const Node root = read_json(text, file_name, parsed.diagnostics);
  const bool ours = std::any_of(root.entries.begin(), root.entries.end(), [](const auto& entry) {
    return entry.key.text == "model" && entry.value.kind == Node::Kind::kMap;
  });
  return parse(root, std::move(parsed), !ours, overrides);
}

}  // namespace dsv3::spec
