// Numbers are read here and not by the YAML library, whose idea of a number (octal, "0x", "1_000",
// ".inf") is wider than a config's should be.
#include "configs/spec/field_value.h"

#include <fmt/core.h>

#include <charconv>
#include <cmath>

#include "base/text.h"

namespace dsv3::spec {
namespace {

// The scalar's text if it can be a plain number at all; sets *why otherwise.
std::optional<std::string_view> number_text(const Node& node, std::string* why) {
  if (!node.is_scalar()) return std::nullopt;
  if (node.quoted) {
    *why = "remove the quotes: quoted, it is text";
    return std::nullopt;
  }
  std::string_view text = node.text;
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  const std::string_view digits = !text.empty() && text[0] == '-' ? text.substr(1) : text;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (digits.size() > 1 && digits[0] == '0' && is_digit(digits[1])) {
    const size_t first = digits.find_first_not_of('0');
    *why = fmt::format("a leading zero means octal in YAML 1.1; write {}",
                       first == std::string_view::npos ? "0" : std::string(digits.substr(first)));
    return std::nullopt;
  }
  if (digits.find('_') != std::string_view::npos) {
    *why = "write the digits without '_'";
    return std::nullopt;
  }
  if (digits.empty() || !(is_digit(digits[0]) || digits[0] == '.')) return std::nullopt;
  return text;
}

std::optional<double> to_double(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

// Writes one node into a slot; `*why` is a hint, filled where there is something better to say than
// the type.
class Assigner {
 public:
  Assigner(const Field& field, const Node& node, std::vector<Diagnostic>& out)
      : field_(field), node_(node), out_(out) {}

  bool operator()(int64_t* slot) {
    if (node_.kind == Node::Kind::kSequence && field_.key == "model.moe.moe_layers")
      return wrong_type();
    const auto value = parse_integer(node_, field_.kilo_suffix, &why_);
    if (!value) return wrong_type();
    if (!in_range(static_cast<double>(*value))) return false;
    *slot = *value;
    return true;
  }
  bool operator()(double* slot) {
    const auto value = parse_number(node_, &why_);
    if (!value) return wrong_type();
    if (!in_range(*value)) return false;
    *slot = *value;
    return true;
  }
  bool operator()(bool* slot) {
    const std::string& t = node_.text;
    if (node_.is_scalar() && !node_.quoted) {
      if (t == "true" || t == "True" || t == "TRUE") return *slot = true, true;
      if (t == "false" || t == "False" || t == "FALSE") return *slot = false, true;
      why_ = "write true or false";
    } else if (node_.is_scalar()) {
      why_ = "remove the quotes: quoted, it is text";
    }
    return wrong_type();
  }
  bool operator()(std::string* slot) {
    if (!node_.is_scalar()) return wrong_type();
    if (field_.choices.empty()) {
      *slot = node_.is_null() ? "" : node_.text;
      return true;
    }
    for (std::string_view c : field_.choices) {
      if (node_.text == c) return *slot = std::string(c), true;
    }
    std::string hint = did_you_mean(node_.text, field_.choices);
    if (!hint.empty()) hint = fmt::format("did you mean '{}'?", hint);
    report("BAD_CHOICE",
           fmt::format("{} must be {}, not {}", field_.key, range_text(field_), node_.describe()),
           hint);
    return false;
  }
  bool operator()(std::optional<int64_t>* slot) {
    if (node_.is_null()) return slot->reset(), true;
    if (field_.key == "model.moe.moe_layers" && !scalar_integer()) return layer_list(slot);
    int64_t value = 0;
    if (!(*this)(&value)) return false;
    *slot = value;
    return true;
  }
  bool operator()(std::optional<double>* slot) {
    if (node_.is_null()) return slot->reset(), true;
    double value = 0;
    if (!(*this)(&value)) return false;
    *slot = value;
    return true;
  }
  template <typename Number>
  bool operator()(std::vector<Number>* slot) {
    if (node_.kind != Node::Kind::kSequence) return wrong_type();
    std::vector<Number> values;
    for (const Node& item : node_.items) {
      Number value = 0;
      if (!Assigner(field_, item, out_)(&value)) return false;
      values.push_back(value);
    }
    *slot = std::move(values);
    return true;
  }
  bool operator()(Blend* slot);

  bool wrong_type() {
    const std::string kind = type_name(field_);
    const char* article = kind.starts_with("integer") ? "an " : kind.starts_with("t") ? "" : "a ";
    report("WRONG_TYPE",
           fmt::format("{} must be {}{}, not {}", field_.key, article, kind, node_.describe()),
           why_);
    return false;
  }

 private:
  bool scalar_integer() const {
    std::string ignored;
    return parse_integer(node_, false, &ignored).has_value();
  }
  bool layer_list(std::optional<int64_t>* slot);
  std::optional<Blend> blend_of_words(const std::vector<Node>& words);

  bool in_range(double value) {
    const bool low = field_.exclusive_min ? value <= field_.min : value < field_.min;
    if (!low && value <= field_.max) return true;
    report("OUT_OF_RANGE",
           fmt::format("{} is {}; it must be {}", field_.key, node_.describe(), range_text(field_)),
           "");
    return false;
  }
  void report(const char* code, std::string message, std::string hint) {
    out_.push_back({Severity::kError, code, node_.where, std::string(field_.key),
                    std::move(message), std::move(hint)});
  }

  const Field& field_;
  const Node& node_;
  std::vector<Diagnostic>& out_;
  std::string why_;
};

// Splits a scalar at separators into plain scalars of the same place.
std::vector<Node> words_of(const Node& scalar, std::string_view separators) {
  std::vector<Node> words;
  size_t at = 0;
  const std::string& t = scalar.text;
  while ((at = t.find_first_not_of(separators, at)) != std::string::npos) {
    const size_t end = std::min(t.find_first_of(separators, at), t.size());
    Node word;
    word.text = t.substr(at, end - at);
    word.where = scalar.where;
    words.push_back(std::move(word));
    at = end;
  }
  return words;
}

// A list of layer indices, "[4, 5, 6]" or "4,5,6": kept as a count when it is one run;
// that it ends at the last layer is validate's business (MOE_LAYERS_MISMATCH).
bool Assigner::layer_list(std::optional<int64_t>* slot) {
  const std::vector<Node> items = node_.is_scalar() ? words_of(node_, ", ") : node_.items;
  if (node_.kind == Node::Kind::kMap || items.empty()) return wrong_type();
  int64_t previous = -1;
  for (const Node& item : items) {
    std::string ignored;
    const auto value = parse_integer(item, false, &ignored);
    if (!value || *value < 0) return wrong_type();
    if (previous >= 0 && *value != previous + 1) {
      report("MOE_LAYERS_MISMATCH", "model.moe.moe_layers must be one run of layers, the last ones",
             "give first_k_dense instead: the layers from there on are MoE");
      return false;
    }
    previous = *value;
  }
  *slot = static_cast<int64_t>(items.size());
  return true;
}

// "weight prefix weight prefix …", every weight a plain number ≥ 0; nullopt when the words don't
// have that form.
std::optional<Blend> Assigner::blend_of_words(const std::vector<Node>& words) {
  if (words.empty() || words.size() % 2 != 0) return std::nullopt;
  Blend blend;
  for (size_t i = 0; i < words.size(); i += 2) {
    std::string ignored;
    const auto weight = parse_number(words[i], &ignored);
    if (!weight || *weight < 0 || !words[i + 1].is_scalar()) return std::nullopt;
    blend.emplace_back(words[i + 1].text, *weight);
  }
  return blend;
}

bool Assigner::operator()(Blend* slot) {
  if (node_.is_scalar()) {
    if (node_.is_null() || node_.text.empty()) return slot->clear(), true;
    const std::vector<Node> words = words_of(node_, " \t");
    if (auto blend = words.size() > 1 ? blend_of_words(words) : std::nullopt) {
      *slot = std::move(*blend);
    } else {
      *slot = {{node_.text, 1.0}};
    }
    return true;
  }
  Blend blend;
  if (node_.kind == Node::Kind::kMap) {
    for (const auto& [key, value] : node_.entries) {
      std::string ignored;
      const auto weight = parse_number(value, &ignored);
      if (!key.is_scalar() || !weight || *weight < 0) {
        why_ = "a blend's weights are numbers ≥ 0";
        return wrong_type();
      }
      blend.emplace_back(key.text, *weight);
    }
  } else if (auto weighted = blend_of_words(node_.items)) {
    blend = std::move(*weighted);
  } else {
    for (const Node& item : node_.items) {
      std::string ignored;
      if (!item.is_scalar() || item.is_null() || parse_number(item, &ignored)) {
        why_ = "write [weight, prefix, weight, prefix …] or [prefix, prefix …]";
        return wrong_type();
      }
      blend.emplace_back(item.text, 1.0);
    }
  }
  *slot = std::move(blend);
  return true;
}

// The value in our words for another program's; the node unchanged when it says nothing we know
// (and is then refused).
Node translated(const Field& field, AliasKind kind, const Node& node) {
  Node out = node;
  const std::string& t = node.text;
  if (kind == AliasKind::kTorchDtype) {
    if (t == "bfloat16") out.text = "bf16";
    if (t == "float32") out.text = "fp32";
    if (t == "float16")
      out.text = "bf16";  // the weights' file type; there is no fp16 training here
  } else if (kind == AliasKind::kTopkMethod) {
    out.quoted = false;
    if (t == "noaux_tc") out.text = "true";
    if (t == "greedy" || t == "group_limited_greedy") out.text = "false";
  } else if (field.key == "model.mla.rope_scaling.type") {
    if (t == "default" || node.is_null()) out.text = "none";
    if (t == "deepseek_yarn") out.text = "yarn";
  }
  return out;
}

}  // namespace

std::optional<int64_t> parse_integer(const Node& node, bool kilo_suffix, std::string* why) {
  Node plain = node;
  int64_t scale = 1;
  if (kilo_suffix && node.is_scalar() && node.text.size() > 1 &&
      (node.text.back() == 'K' || node.text.back() == 'k')) {
    plain.text.pop_back();
    plain.quoted = false;
    scale = 1024;
  }
  const auto text = number_text(plain, why);
  if (!text) return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error == std::errc{} && end == text->data() + text->size()) {
    int64_t scaled = 0;
    if (__builtin_mul_overflow(value, scale, &scaled)) return std::nullopt;
    return scaled;
  }
  // "1e6" and "4096.0" are whole numbers too.
  const auto number = to_double(*text);
  if (!number || scale != 1 || std::floor(*number) != *number || std::abs(*number) > 9.0e15) {
    return std::nullopt;
  }
  return static_cast<int64_t>(*number);
}

std::optional<double> parse_number(const Node& node, std::string* why) {
  const auto text = number_text(node, why);
  return text ? to_double(*text) : std::nullopt;
}

bool assign(const Field& field, AliasKind kind, const Node& node, JobSpec& job,
            std::vector<Diagnostic>& out) {
  if (kind == AliasKind::kTrueIsFp8 || kind == AliasKind::kTrueIsBf16) {
    bool on = false;
    if (!Assigner(field, node, out)(&on)) return false;
    if (on) job.training.dtype = kind == AliasKind::kTrueIsFp8 ? "fp8" : "bf16";
    return true;
  }
  const Node value = translated(field, kind, node);
  if (field.null_is_default && value.is_null()) {
    const JobSpec defaults;
    std::visit(
        [&](auto* slot) {
          *slot = *std::get<decltype(slot)>(field.slot(const_cast<JobSpec&>(defaults)));
        },
        field.slot(job));
    return true;
  }
  return std::visit(Assigner(field, value, out), field.slot(job));
}

}  // namespace dsv3::spec
