// dsv3ctl configs: the presets as a table, one of them as YAML or as a config.json, and what two
// configurations differ in.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/hf_config_json.h"
#include "configs/spec/presets.h"
#include "configs/spec/render.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Words {
  std::string action = "list";
  ConfigOptions config;  // file: NAME
  std::string other;
  std::string format = "yaml";
};

bool has_layers(const ConfigOptions& config) {
  return !config.overlays.empty() || !config.deepspeed.empty() || !config.set.empty();
}

int list(const Globals& globals) {
  auto presets = spec::list_presets();
  if (!presets.ok()) return fail(globals, presets.status());
  Json rows = Json::array();
  Table table({"NAME", "TOTAL", "ACTIVE", "LAYERS", "WIDTH", "EXPERTS", "CONTEXT", "NEEDS"});
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
    table.add({preset.name, human_count(counts.total), human_count(counts.active),
               std::to_string(model.num_layers), std::to_string(model.d_model),
               fmt::format("{} of {}", model.moe.num_experts_per_token, model.moe.num_experts),
               with_commas(model.max_context_length),
               preset.gpus_min == 0
                   ? "a CPU"
                   : fmt::format("{} x {} GB", preset.gpus_min, preset.gpu_memory_gb)});
  }
  if (globals.json) {
    print_json({{"configs", rows}});
  } else {
    print(table.render(globals.color));
  }
  return 0;
}

int show(const Globals& globals, const std::string& asked) {
  auto presets = spec::list_presets();
  if (!presets.ok()) return fail(globals, presets.status());
  const std::string name = spec::preset_name(asked);
  std::vector<std::string_view> names;
  for (const spec::Preset& preset : *presets) {
    names.push_back(preset.name);
    if (spec::preset_name(preset.name) != name) continue;
    auto text = read_file(preset.file);
    if (!text.ok()) return fail(globals, text.status());
    if (globals.json) {
      print_json({{"name", name}, {"file", preset.file}, {"yaml", *text}});
    } else {
      print(*text);
    }
    return 0;
  }
  const std::string near = did_you_mean(asked, names);
  return fail(globals, Status(Code::kNotFound, fmt::format("there is no preset '{}'", asked),
                              near.empty() ? "see 'dsv3ctl configs list'"
                                           : fmt::format("did you mean '{}'?", near)));
}

// A configuration with its layers. Unlike load_config() it doesn't print what the layers changed: a
// diff says that itself.
Result<spec::Parsed> load_to_compare(const ConfigOptions& config) {
  DSV3_ASSIGN_OR_RETURN(spec::Parsed parsed, load_layers(config));
  DSV3_RETURN_IF_ERROR(spec::to_status(parsed.diagnostics));
  return parsed;
}

// NAME with its layers against OTHER, or against NAME itself without them.
int diff(const Globals& globals, const Words& words) {
  const ConfigOptions& config = words.config;
  if (words.other.empty() && !has_layers(config)) {
    return fail(globals, Status(Code::kInvalid, "configs diff needs two configurations",
                                "for example 'dsv3ctl configs diff 10b 15b', or 'configs diff 10b "
                                "--overlay max-throughput'"));
  }
  ConfigOptions from, to = config;
  from.file = config.file;
  if (!words.other.empty()) to.file = words.other;
  const auto a = load_to_compare(from);
  if (!a.ok()) return fail(globals, a.status());
  const auto b = load_to_compare(to);
  if (!b.ok()) return fail(globals, b.status());
  const auto differences = spec::diff(a->job, b->job);
  if (globals.json) {
    Json rows = Json::array();
    for (const spec::Difference& d : differences)
      rows.push_back({{"key", d.key}, {"from", d.from}, {"to", d.to}});
    print_json({{"from", a->file},
                {"to", b->file},
                {"differences", rows},
                {"overlays", to_json(b->applied)}});
    return 0;
  }
  print_diagnostics(b->diagnostics);
  print(spec::diff_text(differences));
  if (differences.empty()) note("no difference");
  return 0;
}

int write_as(const Globals& globals, const Words& words) {
  const LoadedConfig loaded = load_config(globals, words.config, false);
  if (!loaded.ok()) return loaded.exit_code;
  const spec::JobSpec& job = loaded.parsed.job;
  std::string text = spec::to_yaml(job);
  std::vector<std::string> notes;
  if (words.format == "hf") {
    const DType dtype = job.training.dtype == "fp32" ? DType::kF32 : DType::kBf16;
    auto json = spec::hf_config_json(job.model, dtype, &notes);
    if (!json.ok()) return fail(globals, json.status());
    text = std::move(json).value();
  }
  if (globals.json) {
    print_json({{"format", words.format}, {"text", text}, {"notes", notes}});
  } else {
    print(text);
    for (const std::string& said : notes) note(one_line(said));
  }
  return 0;
}

int run_configs(const Globals& globals, const Words& words) {
  const std::string& name = words.config.file;
  const auto too_many = [&](const std::string& word) {
    return fail(globals,
                Status(Code::kInvalid,
                       fmt::format("configs {} takes no '{}'", words.action, one_line(word)),
                       words.action == "list" ? "'dsv3ctl configs show NAME' shows one"
                                              : "'dsv3ctl configs diff A B' compares two"));
  };
  const bool is_list = words.action == "list", is_diff = words.action == "diff";
  if (is_list && !name.empty()) return too_many(name);
  if (!is_diff && !words.other.empty()) return too_many(words.other);
  if ((is_list || words.action == "show") && has_layers(words.config)) {
    return fail(globals, Status(Code::kInvalid,
                                fmt::format("configs {} takes files as they stand: no --overlay, "
                                            "--deepspeed or --set",
                                            words.action),
                                "'dsv3ctl configs export NAME' writes what they make of it"));
  }
  if (is_list) return list(globals);
  if (name.empty())
    return fail(globals, Status(Code::kInvalid,
                                fmt::format("configs {} needs a preset's name", words.action),
                                "see 'dsv3ctl configs list'"));
  if (words.action == "show") return show(globals, name);
  if (is_diff) return diff(globals, words);
  return write_as(globals, words);
}

}  // namespace

Verb make_configs() {
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "configs";
  verb.group = "Plan";
  verb.summary = "The presets: list, show NAME, diff A B, export NAME";
  verb.help =
      "show prints the file with its comments. diff prints the keys in which two configurations "
      "differ; the layers given lie over the second, or over NAME where there is one only. export "
      "writes every key as YAML, or the model as a Hugging Face config.json.\n"
      "Examples:\n"
      "  dsv3ctl configs list\n"
      "  dsv3ctl configs show 15b > mine.yaml\n"
      "  dsv3ctl configs diff 10b 15b\n"
      "  dsv3ctl configs diff 10b --overlay max-throughput\n"
      "  dsv3ctl configs export 10b --format hf > config.json\n"
      "Then 'dsv3ctl validate mine.yaml', 'dsv3ctl plan mine.yaml'.";
  verb.options = {
      {"ACTION",
       &words->action,
       "list, show, diff or export",
       false,
       Completes::kNothing,
       {"list", "show", "diff", "export"}},
      {"NAME",
       &words->config.file,
       "Preset, YAML file or config.json",
       false,
       Completes::kConfig,
       {}},
      {"OTHER", &words->other, "What NAME is compared with", false, Completes::kConfig, {}},
      {"--format",
       &words->format,
       "Of export: yaml (every key) or hf (config.json)",
       false,
       Completes::kNothing,
       {"yaml", "hf"}}};
  for (Option& option : config_options(&words->config, false)) {
    if (option.name != "FILE") verb.options.push_back(std::move(option));
  }
  verb.run = [words](const Globals& globals) { return run_configs(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
