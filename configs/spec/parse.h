// Reading a configuration: YAML text, a Hugging Face config.json, or a preset's name → JobSpec and
// every fault at once.
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
#include "configs/spec/job_spec.h"

namespace dsv3::spec {

inline constexpr size_t kFileBytesMax = 4u << 20;
inline constexpr int kNestingMax = 32;

struct Parsed {
  JobSpec job;                          // what could be understood; defaults elsewhere
  std::vector<Diagnostic> diagnostics;  // faults of form: what YAML itself forbids, then by place
  Origins origins;                      // where each given key stands, for messages of later stages
  std::string file;                     // path that was read ("15b" → ".../configs/15b.yaml")

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

// Reads FILE as every command takes it: a YAML file, a config.json (by its .json suffix), or the
// bare name of a preset. kNotFound when there is no such file or preset (the hint lists the
// presets); kFailed when it can't be read. A file with faults is a value: look at ok().
Result<Parsed> load(const std::string& file_or_preset,
                    const std::vector<std::string>& overrides = {});

// load() and validate() together for callers that only want a usable job: kInvalid (to_status) on
// any error.
Result<JobSpec> load_valid(const std::string& file_or_preset,
                           const std::vector<std::string>& overrides = {});

}  // namespace dsv3::spec
