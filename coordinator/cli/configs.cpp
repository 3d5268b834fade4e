// dsv3ctl configs: the presets, as a table or one of them as YAML.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/presets.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

int list(const Globals& globals) {
  auto presets = spec::list_presets();
  if (!presets.ok()) return fail(globals, presets.status());
  Json rows = Json::array();
  Table table(
      {"NAME", "TOTAL", "ACTIVE", "LAYERS", "WIDTH", "EXPERTS", "TOP-K", "CONTEXT", "NEEDS"});
  for (const spec::Preset& preset : *presets) {
    const spec::ModelSpec& model = preset.job.model;
    const spec::ParamCounts counts = spec::count_params(model);
    rows.push_back({{"name", preset.name},
                    {"file", preset.file},
                    {"params_total", counts.total},
                    {"params_active", counts.active},
                    {"layers", model.num_layers},
                    {"d_model", model.d_model},
                    {"experts", model.moe.num_experts},
                    {"top_k", model.moe.num_experts_per_token},
                    {"context", model.max_context_length},
                    {"gpus_min", preset.gpus_min},
                    {"gpu_memory_gb", preset.gpu_memory_gb},
                    {"use_case", preset.use_case}});
    table.add(
        {preset.name, human_count(counts.total), human_count(counts.active),
         std::to_string(model.num_layers), std::to_string(model.d_model),
         std::to_string(model.moe.num_experts), std::to_string(model.moe.num_experts_per_token),
         with_commas(model.max_context_length),
         preset.gpus_min == 0 ? "a CPU"
                              : fmt::format("{} x {} GB", preset.gpus_min, preset.gpu_memory_gb)});
  }
  if (globals.json) {
    print_json({{"configs", rows}});
  } else {
    print(table.render(globals.color));
  }
  return 0;
}

int show(const Globals& globals, const std::string& name) {
  auto presets = spec::list_presets();
  if (!presets.ok()) return fail(globals, presets.status());
  std::vector<std::string_view> names;
  for (const spec::Preset& preset : *presets) {
    names.push_back(preset.name);
    if (preset.name != name) continue;
    auto text = read_file(preset.file);
    if (!text.ok()) return fail(globals, text.status());
    if (globals.json) {
      print_json({{"name", name}, {"file", preset.file}, {"yaml", *text}});
    } else {
      print(*text);
    }
    return 0;
  }
  const std::string near = did_you_mean(name, names);
  return fail(globals, Status(Code::kNotFound, fmt::format("there is no preset '{}'", name),
                              near.empty() ? "see 'dsv3ctl configs list'"
                                           : fmt::format("did you mean '{}'?", near)));
}

}  // namespace

Verb make_configs() {
  struct Options {
    std::string action = "list";
    std::string name;
  };
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "configs";
  verb.group = "Plan";
  verb.summary = "The presets: list, or show NAME";
  verb.help =
      "Examples:\n"
      "  dsv3ctl configs list\n"
      "  dsv3ctl configs show 15b > mine.yaml\n"
      "Then 'dsv3ctl validate mine.yaml', 'dsv3ctl plan mine.yaml'.";
  verb.options = {
      {"ACTION", &options->action, "list or show", false, Completes::kNothing, {"list", "show"}},
      {"NAME", &options->name, "Preset to show", false, Completes::kConfig, {}}};
  verb.run = [options](const Globals& globals) {
    if (options->action == "list") return list(globals);
    if (options->name.empty())
      return fail(globals, Status(Code::kInvalid, "configs show needs a preset's name",
                                  "see 'dsv3ctl configs list'"));
    return show(globals, options->name);
  };
  return verb;
}

}  // namespace dsv3::cli
