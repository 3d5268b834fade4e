// Loading a configuration for a verb; see config_options.h.
#include "coordinator/cli/config_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "configs/spec/gpu_table.h"
#include "configs/spec/validate.h"
#include "coordinator/cli/output.h"

namespace dsv3::cli {

std::vector<Option> config_options(ConfigOptions* target, bool machine) {
  std::vector<Option> options = {
      {"FILE",
       &target->file,
       "YAML file, preset name (15b) or Hugging Face config.json",
       true,
       Completes::kConfig,
       {}},
      {"--overlay",
       &target->overlays,
       "Lay an overlay over FILE: reduce-memory, max-throughput, …, or a YAML file (repeatable)",
       false,
       Completes::kOverlay,
       {},
       {},
       "NAME"},
      {"--deepspeed",
       &target->deepspeed,
       "Lay a DeepSpeed json over FILE, below the overlays",
       false,
       Completes::kNothing,
       {},
       {},
       "FILE"},
      {"--set",
       &target->set,
       "Override one key: --set training.max_steps=50 (repeatable)",
       false,
       Completes::kKey,
       {},
       {},
       "KEY=VALUE"},
  };
  if (machine) {
    options.push_back({"--gpus",
                       &target->gpus,
                       "Number of GPUs (default: those of this machine)",
                       false,
                       Completes::kNothing,
                       {},
                       kGpus});
    options.push_back(
        {"--gpu-memory",
         &target->gpu_memory_gb,
         "Memory of one GPU in GB, as on its label (default: what --gpu has, else 80)",
         false,
         Completes::kNothing,
         {},
         kGpuMemoryGb});
    options.push_back({"--gpu",
                       &target->gpu,
                       "Name of the GPU (h100, a100-80, rtx4090)",
                       false,
                       Completes::kNothing,
                       {}});
  }
  return options;
}

Result<std::string> one_text(std::string_view option, const std::vector<std::string>& given) {
  if (given.empty()) return std::string();
  if (given.size() > 1)
    return Status(Code::kInvalid, fmt::format("{} is given {} times", option, given.size()),
                  "give it once");
  if (given[0].empty())
    return Status(Code::kInvalid, fmt::format("{} is empty", option),
                  "give a value, or leave it out");
  return given[0];
}

Result<std::string> known_gpu(const std::vector<std::string>& given) {
  DSV3_ASSIGN_OR_RETURN(std::string name, one_text("--gpu", given));
  if (name.empty() || spec::gpu_sm_version(name) > 0) return name;
  return Status(Code::kInvalid, fmt::format("--gpu: the GPU '{}' is not known", name),
                spec::known_gpus_hint(name));
}

int label_gb_of(const std::string& gpu) {
  constexpr int kLargest = 512;  // "RTX 3080" says no memory
  if (const int known = spec::gpu_label_gb(gpu); known > 0) return known;
  std::string words = gpu;
  std::replace_if(
      words.begin(), words.end(), [](char c) { return c == '-' || c == '_'; }, ' ');
  for (const std::string& word : split(words, ' ')) {
    int gb = 0;
    const char* end = word.data() + word.size();
    const auto [at, error] = std::from_chars(word.data(), end, gb);
    const std::string_view unit(at, static_cast<size_t>(end - at));
    const bool is_size = unit.empty() || unit == "GB" || unit == "gb" || unit == "G";
    if (error == std::errc() && is_size && gb > 0 && gb <= kLargest) return gb;
  }
  return 0;
}

Status check_gpu_memory(const std::string& gpu, double label_gb) {
  const int known = label_gb_of(gpu);
  if (known == 0 || label_gb == 0 || label_gb == known) return {};
  const bool vowel = std::string_view("aAhHlLnNrR").find(gpu[0]) != std::string_view::npos;
  return Status(Code::kInvalid,
                fmt::format("{} {} has {} GB, --gpu-memory says {:g}", vowel ? "an" : "a", gpu,
                            known, label_gb),
                "leave --gpu-memory out; for a card of another size leave --gpu out");
}

nlohmann::ordered_json to_json(const spec::Diagnostic& diagnostic) {
  return {{"code", diagnostic.code},
          {"where", diagnostic.where},
          {"key", diagnostic.key},
          {"message", diagnostic.message},
          {"hint", diagnostic.hint}};
}

void print_diagnostics(const std::vector<spec::Diagnostic>& diagnostics) {
  for (const spec::Diagnostic& diagnostic : diagnostics)
    note(one_line(spec::to_string(diagnostic)));
}

Result<spec::Parsed> load_layers(const ConfigOptions& options) {
  DSV3_ASSIGN_OR_RETURN(const std::string deepspeed, one_text("--deepspeed", options.deepspeed));
  return spec::load({options.file, options.overlays, deepspeed, options.set});
}

void print_applied(const std::vector<spec::Applied>& applied) {
  for (const spec::Applied& layer : applied) {
    if (layer.changes.empty()) note(one_line(layer.name + ": changes nothing"));
    for (const spec::Difference& d : layer.changes)
      note(one_line(fmt::format("{}: {}: {} -> {}", layer.name, d.key, d.from, d.to)));
  }
}

nlohmann::ordered_json to_json(const std::vector<spec::Applied>& applied) {
  auto layers = nlohmann::ordered_json::array();
  for (const spec::Applied& layer : applied) {
    auto changes = nlohmann::ordered_json::array();
    for (const spec::Difference& d : layer.changes)
      changes.push_back({{"key", d.key}, {"from", d.from}, {"to", d.to}});
    layers.push_back({{"name", layer.name}, {"changes", changes}});
  }
  return layers;
}

LoadedConfig load_config(const Globals& globals, const ConfigOptions& options, bool for_submit) {
  LoadedConfig loaded;
  const auto gpu = one_text("--gpu", options.gpu);
  const Status machine = gpu.ok() ? check_gpu_memory(*gpu, options.gpu_memory_gb) : gpu.status();
  if (!machine.ok()) {
    loaded.exit_code = fail(globals, machine);
    return loaded;
  }
  auto parsed = load_layers(options);
  if (!parsed.ok()) {
    loaded.exit_code = fail(globals, parsed.status());
    return loaded;
  }
  loaded.parsed = std::move(parsed).value();
  if (!globals.json) print_applied(loaded.parsed.applied);
  std::vector<spec::Diagnostic> all = loaded.parsed.diagnostics;
  if (loaded.parsed.ok()) {
    spec::ValidateOptions rules;
    rules.gpus = options.gpus;
    rules.gpu_name = *gpu;
    rules.for_submit = for_submit;
    rules.origins = &loaded.parsed.origins;
    const auto meaning = spec::validate(loaded.parsed.job, rules);
    all.insert(all.end(), meaning.begin(), meaning.end());
  }
  if (spec::has_errors(all)) {
    if (globals.json) {
      loaded.exit_code = fail(globals, spec::to_status(all));
    } else {
      print_diagnostics(all);
      loaded.exit_code = static_cast<int>(Code::kInvalid);
    }
    return loaded;
  }
  loaded.warnings = std::move(all);
  return loaded;
}

}  // namespace dsv3::cli
