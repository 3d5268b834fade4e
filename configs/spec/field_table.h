// The one table of configuration keys: name, type, range, default, unit, sentence, aliases, and
// where it lives in JobSpec.
//
// Law: parsing, range checks, defaults, `explain`, configs/README.md and canonical YAML all walk
// this table; a key that is not here does not exist, and nothing about a key is written twice. The
// default is JobSpec's own initial value, but where a file that leaves the key out means something
// else than code that does (`absent`).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "configs/spec/job_spec.h"

namespace dsv3::spec {

using Blend = std::vector<std::pair<std::string, double>>;

// Where a key's value lives in a JobSpec; the alternative is the key's type.
using Slot =
    std::variant<int64_t*, double*, bool*, std::string*, std::optional<int64_t>*,
                 std::optional<double>*, std::vector<double>*, Blend*, std::vector<int64_t>*>;

// What an alias's value means. kSame: the key's own value; the others translate another program's
// way of saying it.
enum class AliasKind {
  kSame,
  kTrueIsFp8,    // use_fp8: true → training.dtype fp8; false says nothing
  kTrueIsBf16,   // bf16: true → bf16
  kTorchDtype,   // bfloat16 → bf16, float32 → fp32
  kTopkMethod,   // noaux_tc → use_aux_loss_free true; greedy, group_limited_greedy → false
  kBatchTokens,  // global batch in tokens; divided by seq_length after the whole file is read
};

struct Alias {
  std::string_view path;  // full dotted path where it is accepted (without a dot: as `bare` above)
  AliasKind kind = AliasKind::kSame;
};

struct Field {
  std::string_view key;  // canonical dotted key = the member's path in JobSpec
  Slot (*slot)(JobSpec&);
  std::string_view unit;  // "tokens", "sequences", "" …
  double min = 0;         // inclusive, for numbers
  double max = 0;
  std::vector<std::string_view> choices;  // for enumerations
  std::string_view doc;                   // one sentence
  // Other programs' names (Hugging Face's config.json, Megatron's flags, DeepSpeed's json):
  // accepted at the top level, in the key's own section and, for model keys, directly under
  // `model`.
  std::vector<std::string_view> bare;
  // What other programs call it, for the README: a key of config.json or of TrainingArguments, a
  // flag, a path in a DeepSpeed json. A name without a remark ("--split (99,1,0)") means the same,
  // so it is accepted as `bare` is; DeepSpeed's by the importer (deepspeed.h).
  std::string_view hf_name, megatron_name, deepspeed_name;
  std::vector<Alias> aliases;   // further accepted full paths
  std::string_view absent;      // value a key left out of a file takes; "": JobSpec's initial value
  std::string_view hf_default;  // value an absent key takes in a config.json (transformers'
                                // DeepseekV3Config); "": `absent`
  bool required = false;        // absent in YAML: MISSING_KEY
  bool null_is_default = false;  // null is accepted and means the default
  bool exclusive_min = false;    // the value must be > min
  bool kilo_suffix = false;      // "8K" is accepted and means 8·1024
};

// All fields in canonical (rendering) order.
std::span<const Field> field_table();
// A section's path and its one-line description, in rendering order ("model", "model.mla", …).
struct Section {
  std::string_view path;
  std::string_view doc;
};
std::span<const Section> section_table();

// The field of a canonical key, or null.
const Field* find_field(std::string_view canonical_key);

struct Resolved {
  const Field* field = nullptr;
  AliasKind kind = AliasKind::kSame;
};
// The field that a path as written means (canonical or any alias); field is null when there is
// none.
Resolved resolve_key(std::string_view path);
// True when some accepted path lies below `path` ("model", "model.mla", "rope_scaling").
bool is_section(std::string_view path);
// Accepted leaf or section names directly below `section` ("" = top level), for did-you-mean.
std::vector<std::string_view> names_below(std::string_view section);

// "integer", "number", "true/false", "text", "list of numbers", "data path" …
std::string type_name(const Field& field);
// "≥ 1", "0 … 1", "one of fp32, bf16, fp8", "" when free.
std::string range_text(const Field& field);
// The default as YAML writes it ("null", "0.3", "\"\"").
std::string default_text(const Field& field);
// A field's value in `job` as canonical YAML writes it, on one line.
std::string value_text(const Field& field, const JobSpec& job);

}  // namespace dsv3::spec
