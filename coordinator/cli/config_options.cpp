// Loading a configuration for a verb; see config_options.h.
#include "coordinator/cli/config_options.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
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
      {"--set",
       &target->set,
       "Override one key: --set training.max_steps=50 (repeatable)",
       false,
       Completes::kKey,
       {}},
  };
  if (machine) {
    options.push_back({"--gpus",
                       &target->gpus,
                       "Number of GPUs (default: those of this machine)",
                       false,
                       Completes::kNothing,
                       {},
                       kGpus});
    options.push_back({"--gpu-memory",
                       &target->gpu_memory_gb,
                       "Memory of one GPU in GB, as on its label (default 80)",
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

LoadedConfig load_config(const Globals& globals, const ConfigOptions& options, bool for_submit) {
  LoadedConfig loaded;
  auto parsed = spec::load(options.file, options.set);
  if (!parsed.ok()) {
    loaded.exit_code = fail(globals, parsed.status());
    return loaded;
  }
  loaded.parsed = std::move(parsed).value();
  std::vector<spec::Diagnostic> all = loaded.parsed.diagnostics;
  if (loaded.parsed.ok()) {
    spec::ValidateOptions rules;
    rules.gpus = options.gpus;
    rules.gpu_name = options.gpu;
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
