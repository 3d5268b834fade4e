// Reading a configuration: YAML text, a Hugging Face config.json, or a preset's name, with what is
// laid over it (a DeepSpeed json, overlays, --set) → JobSpec and every fault at once.
//
// Law: no input makes this abort, throw or stop at the first fault; what is not understood is
// refused, never ignored (exception: fields of a config.json that don't concern training, which are
// listed in hf_config.cpp). Faults of form (unknown key, type, range, duplicate) are found here;
// faults of meaning in validate.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "configs/spec/diagnostic.h"
#include "configs/spec/diff.h"
#include "configs/spec/job_spec.h"

namespace dsv3::spec {

inline constexpr size_t kFileBytesMax = 4u << 20;
inline constexpr int kNestingMax = 32;

// kJson: a config.json, or our own keys where it has a "model" section.
enum class Format { kYaml, kJson, kDeepSpeed };

// A text laid over a configuration: its keys win over what is below.
struct LayerText {
  std::string name;  // "max-throughput", for people
  std::string file;  // for messages
  std::string text;
  Format format = Format::kYaml;
};
struct Layers {
  std::vector<LayerText> texts;  // in order, the last wins
  std::vector<std::string> set;  // "a.b=c", over all of them
};

// What one layer changed of the configuration below it (later layers and --set left out).
struct Applied {
  std::string name;
  std::vector<Difference> changes;
};

struct Parsed {
  JobSpec job;                          // what could be understood; defaults elsewhere
  std::vector<Diagnostic> diagnostics;  // faults of form: what YAML itself forbids, then by place
  Origins origins;                      // where each given key stands, for messages of later stages
  std::string file;                     // path that was read ("15b" → ".../configs/15b.yaml")
  std::vector<Applied> applied;         // one entry a layer, in order

  bool ok() const { return !has_errors(diagnostics); }
};

// Parses one YAML mapping. `file_name` is only for messages. `overrides` are "a.b=c" (as after
// --set) and win over the file; any accepted spelling of a key works in both.
Parsed parse_yaml(std::string_view text, const std::string& file_name,
                  const std::vector<std::string>& overrides = {});

// Parses a Hugging Face config.json (old and new style keys); absent keys take the defaults of
// transformers' DeepseekV3Config. A JSON file with a "model" section is taken as our own keys
// instead.
Parsed parse_json(std::string_view text, const std::string& file_name,
                  const std::vector<std::string>& overrides = {});

// parse_yaml() and parse_json() with layers; `format` is that of `text`.
Parsed parse(std::string_view text, const std::string& file_name, Format format,
             const Layers& over);

// What a command is given.
struct LoadRequest {
  std::string file;                   // see load()
  std::vector<std::string> overlays;  // names of configs/overlays, or YAML files
  std::string deepspeed;              // a DeepSpeed json, "": none; below the overlays
  std::vector<std::string> set;
};

// Reads FILE as every command takes it: a YAML file, a config.json (by its .json suffix), or the
// name of a preset ("15b", also "15B", "deepseek_v3_15b" and "deepseek_v3_15b.yaml"). kNotFound
// when there is no such file, preset or overlay (the hint lists them); kFailed when it can't be
// read. A file with faults is a value: look at ok().
Result<Parsed> load(const LoadRequest& request);
Result<Parsed> load(const std::string& file_or_preset,
                    const std::vector<std::string>& overrides = {});

// load() and validate() together for callers that only want a usable job: kInvalid (to_status) on
// any error.
Result<JobSpec> load_valid(const std::string& file_or_preset,
                           const std::vector<std::string>& overrides = {});

}  // namespace dsv3::spec
