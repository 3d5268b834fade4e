// See deepspeed.h. The keys are in deepspeed_keys.cpp; here is what takes more than another name.
#include "configs/spec/deepspeed.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <set>

#include "base/text.h"
#include "configs/spec/deepspeed_keys.h"
#include "configs/spec/field_table.h"
#include "configs/spec/field_value.h"

namespace dsv3::spec {
namespace {

bool starts_section(std::string_view path, std::string_view section) {
  return path.size() > section.size() && path.starts_with(section) && path[section.size()] == '.';
}

// The entry of a path: its own, else that of the longest section it lies in.
const DeepSpeedKey* entry_of(std::string_view path) {
  const DeepSpeedKey* best = nullptr;
  for (const DeepSpeedKey& key : deepspeed_keys()) {
    const bool covers = key.path == path || starts_section(path, key.path);
    if (covers && (best == nullptr || key.path.size() > best->path.size())) best = &key;
  }
  return best;
}

bool has_below(std::string_view path) {
  for (const DeepSpeedKey& key : deepspeed_keys()) {
    if (starts_section(key.path, path)) return true;
  }
  return false;
}

// The words that may stand directly in a section.
std::vector<std::string_view> words_in(std::string_view section) {
  std::set<std::string_view> words;
  for (const DeepSpeedKey& key : deepspeed_keys()) {
    if (!section.empty() && !starts_section(key.path, section)) continue;
    const std::string_view rest = key.path.substr(section.empty() ? 0 : section.size() + 1);
    words.insert(rest.substr(0, rest.find('.')));
  }
  return {words.begin(), words.end()};
}

// Nothing is asked for: false, null, "none", "auto", 0.
bool is_off(const Node& node) {
  if (!node.is_scalar()) return node.entries.empty() && node.items.empty();
  return node.is_null() || node.text == "false" || node.text == "none" || node.text == "auto" ||
         node.text == "0" || node.text.empty();
}

// Something is asked for: a section without "enabled": false or "device": "none", another value.
bool is_on(const Node& node) {
  return !is_off(node) &&
         std::none_of(node.entries.begin(), node.entries.end(), [](const MapEntry& e) {
           return (e.key.text == "enabled" || e.key.text == "device") && is_off(e.value);
         });
}

int64_t batch_sequences_max() {
  return static_cast<int64_t>(find_field("training.global_batch_size")->max);
}

// The product of positive numbers; nullopt above `most`.
std::optional<int64_t> product_within(int64_t most, std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor > most / product) return std::nullopt;
    product *= factor;
  }
  return product;
}

class Importer {
 public:
  Importer(DeepSpeedBatch* batch, std::vector<Diagnostic>& out) : batch_(batch), out_(out) {}

  Node read(const Node& root) {
    layer_.kind = Node::Kind::kMap;
    layer_.where = root.where;
    if (root.kind != Node::Kind::kMap) {
      if (!has_errors(out_))
        error("NOT_A_MAPPING", root, "", "the DeepSpeed json is no mapping", "");
      return layer_;
    }
    walk(root, "");
    finish();
    return layer_;
  }

 private:
  void walk(const Node& map, const std::string& section);
  void entry(const MapEntry& at, const std::string& path);
  void special(const std::string& path, const Node& node);
  void optimizer(const std::string& path, const Node& node);
  void scheduler(const std::string& path, const Node& node);
  void precision(const std::string& path, const Node& node);
  void checkpointing(const Node& node);
  void finish();

  void set(std::string_view key, std::string text, const Node& from) {
    Node value;
    value.text = std::move(text);
    value.where = from.where;
    put(key, value);
  }
  // The same said twice is said once.
  void put(std::string_view key, const Node& value) {
    for (const MapEntry& e : layer_.entries) {
      if (e.key.text == key && e.value.text == value.text && value.is_scalar()) return;
    }
    Node name;
    name.text = std::string(key);
    name.where = value.where;
    layer_.entries.push_back({name, value});
  }
  void error(const char* code, const Node& at, const std::string& key, std::string message,
             std::string hint) {
    out_.push_back({Severity::kError, code, at.where, key, std::move(message), std::move(hint)});
  }
  void no_effect(const Node& at, const std::string& path, std::string_view why) {
    out_.push_back({Severity::kWarning, "NO_EFFECT", at.where, path,
                    fmt::format("{} has no effect", path), std::string(why)});
  }
  // A flag's value; nullopt, with an error, for anything but true and false.
  std::optional<bool> flag(const std::string& path, const Node& node) {
    if (node.is_scalar() && (node.text == "true" || node.text == "false"))
      return node.text == "true";
    error("WRONG_TYPE", node, path,
          fmt::format("{} must be true or false, not {}", path, node.describe()), "");
    return std::nullopt;
  }

  DeepSpeedBatch* batch_;
  std::vector<Diagnostic>& out_;
  Node layer_;  // a map of dotted keys
  std::optional<Node> lr_, bf16_, fp8_, fp16_, min_ratio_;
};

void Importer::walk(const Node& map, const std::string& section) {
  std::set<std::string> seen;
  for (const MapEntry& at : map.entries) {
    const std::string path = section.empty() ? at.key.text : section + "." + at.key.text;
    if (!seen.insert(at.key.text).second) {
      error("DUPLICATE_KEY", at.key, path, fmt::format("{} is given twice", path), "remove one");
      continue;
    }
    entry(at, path);
  }
}

void Importer::entry(const MapEntry& at, const std::string& path) {
  const DeepSpeedKey* key = entry_of(path);
  const bool own = key != nullptr && key->path == path;
  const bool is_map = at.value.kind == Node::Kind::kMap;
  if (!own && has_below(path)) {
    if (is_map) return walk(at.value, path);
    if (is_off(at.value)) return;
    return error("WRONG_TYPE", at.value, path,
                 fmt::format("{} is a section of keys, not {}", path, at.value.describe()), "");
  }
  if (key == nullptr) {
    const size_t dot = path.rfind('.');
    const std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
    const std::string near =
        at.key.text.size() <= 64 ? did_you_mean(at.key.text, words_in(section)) : "";
    return error("UNKNOWN_KEY", at.key, path, fmt::format("unknown DeepSpeed key {}", path),
                 near.empty() ? "leave it out, or give its meaning as a key of ours "
                                "(dsv3ctl explain)"
                              : fmt::format("did you mean '{}'?", near));
  }
  if (own && is_map && has_below(path)) return walk(at.value, path);
  if (at.value.is_scalar() && at.value.text == "auto") return;
  switch (key->use) {
    case DeepSpeedUse::kKey:
      if (at.value.is_null()) return;
      if (path == "tensor_parallel.autotp_size" && is_off(at.value)) return;
      if (path == "optimizer.params.lr") lr_ = at.value;
      if (path == "scheduler.params.warmup_max_lr" && !lr_) lr_ = at.value;
      if (path == "train_batch_size") batch_->batch_given = true;
      return put(key->text, at.value);
    case DeepSpeedUse::kSpecial:
      return special(path, at.value);
    case DeepSpeedUse::kSilent:
      return;
    case DeepSpeedUse::kIgnored:
      if (is_map && !own) return;  // said once, for the section
      if (is_on(at.value)) no_effect(at.value, path, key->text);
      return;
    case DeepSpeedUse::kRefused:
      if (!is_on(at.value)) return;
      return error("UNSUPPORTED_DEEPSPEED", at.value, path,
                   fmt::format("{} is not supported", path), std::string(key->text));
  }
}

void Importer::special(const std::string& path, const Node& node) {
  if (path.starts_with("optimizer.")) return optimizer(path, node);
  if (path.starts_with("scheduler.")) return scheduler(path, node);
  if (path.ends_with(".enabled")) return precision(path, node);
  if (path.starts_with("activation_checkpointing")) return checkpointing(node);
  if (path == "zero_optimization.offload_optimizer.device") {
    if (node.text == "cpu" || node.text == "none" || node.is_null())
      return set("parallel.offload_optimizer", node.text == "cpu" ? "true" : "false", node);
    return error("BAD_CHOICE", node, path, fmt::format("{} is {}", path, node.describe()),
                 "cpu keeps the optimizer's state in host memory; there is no offload to disks");
  }
  // gradient_accumulation_steps
  std::string why;
  const auto steps = parse_integer(node, false, &why);
  if (!steps || *steps < 1) {
    return error("WRONG_TYPE", node, path,
                 fmt::format("{} must be a positive integer, not {}", path, node.describe()), why);
  }
  const int64_t most = batch_sequences_max();
  if (*steps > most) {
    return error("OUT_OF_RANGE", node, path,
                 fmt::format("{} is {}; a batch has at most {} sequences", path, *steps, most),
                 "leave it out: it follows from train_batch_size");
  }
  batch_->accumulation = *steps;
  batch_->where = node.where;
}

void Importer::optimizer(const std::string& path, const Node& node) {
  if (path == "optimizer.type") {
    std::string name = node.text;
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (name == "adam" || name == "adamw" || name == "fusedadam" || name == "deepspeedcpuadam")
      return;
    return error("BAD_CHOICE", node, path, fmt::format("{} is {}", path, node.describe()),
                 "AdamW is the optimizer there is");
  }
  if (path == "optimizer.params.betas") {
    if (node.kind != Node::Kind::kSequence || node.items.size() != 2) {
      return error("WRONG_TYPE", node, path,
                   fmt::format("{} must be a list of two numbers, not {}", path, node.describe()),
                   "for example [0.9, 0.95]");
    }
    put("training.beta1", node.items[0]);
    return put("training.beta2", node.items[1]);
  }
  const std::optional<bool> on = flag(path, node);
  if (on && !*on) {
    error("UNSUPPORTED_DEEPSPEED", node, path, fmt::format("{} is false", path),
          "AdamW decays weights apart from the moments and corrects their bias");
  }
}

void Importer::scheduler(const std::string& path, const Node& node) {
  if (path == "scheduler.type") {
    const char* ours = node.text == "WarmupLR"         ? "constant"
                       : node.text == "WarmupDecayLR"  ? "linear"
                       : node.text == "WarmupCosineLR" ? "cosine"
                                                       : nullptr;
    if (ours == nullptr) {
      return error("BAD_CHOICE", node, path, fmt::format("{} is {}", path, node.describe()),
                   "WarmupLR (constant), WarmupDecayLR (linear) or WarmupCosineLR (cosine)");
    }
    set("training.lr_schedule", ours, node);
    if (node.text == "WarmupDecayLR") set("training.min_learning_rate", "0", node);
    return;
  }
  if (path == "scheduler.params.cos_min_ratio") {
    min_ratio_ = node;
    return;
  }
  if (path == "scheduler.params.warmup_type") {
    if (node.text != "linear") no_effect(node, path, "the warm-up is linear");
    return;
  }
  if (!is_off(node) && node.text != "0.0") no_effect(node, path, "the warm-up starts from 0");
}

void Importer::precision(const std::string& path, const Node& node) {
  if (!flag(path, node)) return;
  if (path == "bf16.enabled") bf16_ = node;
  if (path == "fp8.enabled") fp8_ = node;
  if (path == "fp16.enabled") fp16_ = node;
}

// DeepSpeed keeps the inputs of a layer and computes the rest again: full recomputation.
void Importer::checkpointing(const Node& node) {
  static constexpr std::string_view kKnown[] = {
      "partition_activations",           "cpu_checkpointing",
      "contiguous_memory_optimization",  "number_checkpoints",
      "synchronize_checkpoint_boundary", "profile"};
  if (node.kind != Node::Kind::kMap) {
    return error(
        "WRONG_TYPE", node, "activation_checkpointing",
        fmt::format("activation_checkpointing is a section of keys, not {}", node.describe()), "");
  }
  for (const auto& [key, value] : node.entries) {
    const std::string path = "activation_checkpointing." + key.text;
    if (std::find(std::begin(kKnown), std::end(kKnown), key.text) == std::end(kKnown)) {
      const std::string near = key.text.size() <= 64 ? did_you_mean(key.text, kKnown) : "";
      error("UNKNOWN_KEY", key, path, fmt::format("unknown DeepSpeed key {}", path),
            near.empty() ? "leave it out" : fmt::format("did you mean '{}'?", near));
    } else if (key.text == "partition_activations") {
      continue;  // a TP group's ranks share the kept inputs out anyway
    } else if (!is_off(value)) {
      no_effect(value, path, "kept inputs stay on the device, one a layer");
    }
  }
  set("parallel.recompute", "full", node);
}

void Importer::finish() {
  const auto on = [](const std::optional<Node>& node) { return node && node->text == "true"; };
  if (on(fp16_)) {
    error("UNSUPPORTED_DEEPSPEED", *fp16_, "fp16.enabled", "fp16.enabled is true",
          "there is no fp16 training; write \"bf16\": {\"enabled\": true}");
  } else if (on(fp8_)) {
    set("training.dtype", "fp8", *fp8_);
  } else if (bf16_) {
    set("training.dtype", on(bf16_) ? "bf16" : "fp32", *bf16_);
  }
  if (!min_ratio_) return;
  std::string why;
  const auto ratio = parse_number(*min_ratio_, &why);
  const auto lr = lr_ ? parse_number(*lr_, &why) : std::nullopt;
  if (ratio && lr) {
    set("training.min_learning_rate", fmt::format("{:.12g}", *ratio * *lr), *min_ratio_);
  } else {
    error("MISSING_KEY", *min_ratio_, "scheduler.params.cos_min_ratio",
          "scheduler.params.cos_min_ratio is a share of optimizer.params.lr, which is no number "
          "here",
          "give optimizer.params.lr, or write --set training.min_learning_rate=…");
  }
}

}  // namespace

Node from_deepspeed(const Node& root, DeepSpeedBatch* batch, std::vector<Diagnostic>& out) {
  return Importer(batch, out).read(root);
}

void check_accumulation(const DeepSpeedBatch& batch, Parsed& parsed) {
  if (!batch.accumulation || !parsed.ok()) return;
  const int64_t steps = *batch.accumulation;
  const ParallelSpec& p = parsed.job.parallel;
  TrainingSpec& t = parsed.job.training;
  constexpr const char* kPath = "gradient_accumulation_steps";
  const auto report = [&](Severity severity, const char* code, std::string message,
                          std::string hint) {
    parsed.diagnostics.push_back({severity, code, batch.where, "training.global_batch_size",
                                  std::move(message), std::move(hint)});
  };
  const bool known = p.expert_parallel_size > 0 && p.data_parallel_size > 0;
  if (!known || t.micro_batch_size < 1) {
    report(Severity::kWarning, "NO_EFFECT",
           fmt::format("{}={} has no effect: it follows from global_batch_size={} and the layout, "
                       "which is the planner's choice",
                       kPath, steps, t.global_batch_size),
           "fix micro_batch_size, expert_parallel_size and data_parallel_size to make it certain");
    return;
  }
  const int64_t most = batch_sequences_max();
  const int64_t width =
      p.expert_parallel_size * p.data_parallel_size;  // at most 2^28: their ranges
  const auto step = product_within(most, {t.micro_batch_size, width});
  const auto sequences = step ? product_within(most, {*step, steps}) : std::nullopt;
  const bool batch_known =
      batch.batch_given || parsed.origins.count("training.global_batch_size") > 0;
  if (!batch_known && sequences) {
    t.global_batch_size = *sequences;
    parsed.origins["training.global_batch_size"] = batch.where;
    return;
  }
  if (batch_known && sequences == t.global_batch_size) return;
  const std::string makes = fmt::format(
      "{}={} with micro_batch_size={} and EP*DP={} makes a batch of {}", kPath, steps,
      t.micro_batch_size, width,
      sequences ? std::to_string(*sequences) : fmt::format("more than {} sequences", most));
  if (!batch_known) {
    return report(Severity::kError, "OUT_OF_RANGE", makes, fmt::format("a smaller {}", kPath));
  }
  const bool divides = step && t.global_batch_size % *step == 0;
  std::string hint = divides ? fmt::format("leave {} out ({})", kPath, t.global_batch_size / *step)
                             : fmt::format("leave {} out", kPath);
  if (sequences) hint += fmt::format(", or train_batch_size: {}", *sequences);
  report(Severity::kError, "GRAD_ACCUMULATION_MISMATCH",
         fmt::format("{}, but global_batch_size={}", makes, t.global_batch_size), std::move(hint));
}

bool deepspeed_takes(std::string_view path) {
  const DeepSpeedKey* key = entry_of(path);
  return key != nullptr && key->path == path &&
         (key->use == DeepSpeedUse::kKey || key->use == DeepSpeedUse::kSpecial);
}

}  // namespace dsv3::spec
