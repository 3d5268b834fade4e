// dsv3ctl validate: every error and warning of a configuration at once.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "configs/spec/validate.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

int validate(const Globals& globals, const ConfigOptions& options) {
  const auto gpu = one_text("--gpu", options.gpu);
  if (!gpu.ok()) return fail(globals, gpu.status());
  const Status machine = check_gpu_memory(*gpu, options.gpu_memory_gb);
  if (!machine.ok()) return fail(globals, machine);
  auto parsed = load_layers(options);
  if (!parsed.ok()) return fail(globals, parsed.status());
  std::vector<spec::Diagnostic> all = parsed->diagnostics;
  if (parsed->ok()) {
    spec::ValidateOptions rules;
    rules.gpus = options.gpus;
    rules.gpu_name = *gpu;
    rules.origins = &parsed->origins;
    const auto meaning = spec::validate(parsed->job, rules);
    all.insert(all.end(), meaning.begin(), meaning.end());
  }
  const bool valid = !spec::has_errors(all);
  if (globals.json) {
    auto errors = nlohmann::ordered_json::array();
    auto warnings = nlohmann::ordered_json::array();
    for (const auto& d : all)
      (d.severity == spec::Severity::kError ? errors : warnings).push_back(to_json(d));
    print_json({{"valid", valid},
                {"errors", errors},
                {"warnings", warnings},
                {"overlays", to_json(parsed->applied)}});
  } else {
    print_applied(parsed->applied);
    print_diagnostics(all);
    if (valid)
      print(fmt::format(
          "{}: valid{}\n", parsed->file,
          all.empty() ? ""
                      : fmt::format(", {} warning{}", all.size(), all.size() == 1 ? "" : "s")));
  }
  return static_cast<int>(valid ? Code::kOk : Code::kInvalid);
}

}  // namespace

Verb make_validate() {
  auto options = std::make_shared<ConfigOptions>();
  Verb verb;
  verb.name = "validate";
  verb.group = "Plan";
  verb.summary = "Check a configuration: every error and warning at once";
  verb.help =
      "Examples:\n"
      "  dsv3ctl validate configs/demo.yaml\n"
      "  dsv3ctl validate 10b --gpus 8 --gpu h100\n"
      "  dsv3ctl validate 10b --set model.moe.n_group=7 --json\n"
      "  dsv3ctl validate 10b --overlay max-throughput --gpu h100\n"
      "  dsv3ctl validate 671b --deepspeed deepspeed_config.json\n"
      "Then 'dsv3ctl plan FILE': does it fit?\n"
      "Exit code 0 when it is valid (warnings allowed), 2 when it is not.";
  verb.options = config_options(options.get(), true);
  verb.run = [options](const Globals& globals) { return validate(globals, *options); };
  return verb;
}

}  // namespace dsv3::cli
