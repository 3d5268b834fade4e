// dsv3ctl migrate FROM TO: what changes between two configurations and why, and the configuration
// for the machines at hand.
//
// Law: the file that it writes reads back, validates, and fits the cluster that it was written for;
// a file that is there stays as it is without --force.
#include "cluster/plan/migrate.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "configs/spec/render.h"
#include "configs/spec/validate.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/fleet.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/hostfile_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kColumn = 15;
constexpr double kUsualGb = 80;

struct Words {
  std::string from;
  ConfigOptions to;
  HostfileOptions hostfile;
  std::vector<std::string> out;
  bool force = false;
};

struct Machines {
  plan::ClusterSpec cluster;
  std::string name;  // "8 x 80 GB", "this machine"
};

// Those of --gpus or --hostfile, else the machines at hand.
Result<Machines> machines_of(const Globals& globals, const Words& words) {
  DSV3_ASSIGN_OR_RETURN(const std::string gpu, known_gpu(words.to.gpu));
  DSV3_RETURN_IF_ERROR(check_gpu_memory(gpu, words.to.gpu_memory_gb));
  const int named = label_gb_of(gpu);
  const double gb = words.to.gpu_memory_gb > 0 ? words.to.gpu_memory_gb
                    : named > 0                ? named
                                               : kUsualGb;
  DSV3_ASSIGN_OR_RETURN(const auto hosts, read_cluster(words.hostfile, words.to.gpus, gb, gpu));
  if (!hosts && words.to.gpus == 0) {
    if (!gpu.empty() || words.to.gpu_memory_gb > 0)
      return Status(Code::kInvalid,
                    std::string(gpu.empty() ? "--gpu-memory" : "--gpu") +
                        " needs --gpus N or --hostfile FILE",
                    "say how many there are, or leave all out for the machines at hand");
    Fleet fleet = find_fleet(globals);
    return Machines{std::move(fleet.cluster), std::move(fleet.from)};
  }
  Machines machines{hosts ? *hosts : plan::cluster_of_gpus(words.to.gpus, gb, gpu), ""};
  machines.name =
      fmt::format("{} x {:g} GB{}", plan::count_devices(machines.cluster, plan::DeviceKind::kCuda),
                  gb, gpu.empty() ? "" : " (" + gpu + ")");
  return machines;
}

// The file: what it is, what changed, then every key.
std::string yaml_of(const plan::Migration& migration, const Words& words,
                    const Machines& machines) {
  std::string text = fmt::format("# {} from {}, for {}; written by dsv3ctl migrate.\n",
                                 words.to.file, words.from, machines.name);
  text += fmt::format("# Layout: {}; {} of {} on the fullest rank.\n",
                      plan::to_string(migration.plan.layout),
                      human_bytes(migration.plan.predicted.peak_memory_bytes),
                      human_bytes(migration.plan.memory_bytes));
  text += "# What changed, and why:\n";
  for (const plan::Change& c : migration.changes)
    text += one_line(fmt::format("#   {}: {} -> {} ({})", c.key, c.from, c.to, c.why)) + "\n";
  for (const plan::Advice& a : migration.advice)
    text += one_line(fmt::format("# {}: {}", a.topic, a.text)) + "\n";
  return text + "\n" + spec::to_yaml(migration.job);
}

// What is written must be what was planned, also for who reads it next.
Status check_reads_back(const std::string& text, const plan::Migration& migration,
                        const Machines& machines) {
  const spec::Parsed parsed = spec::parse_yaml(text, "the migrated configuration");
  if (!parsed.ok()) return spec::to_status(parsed.diagnostics);
  const auto found = spec::validate(parsed.job);
  if (spec::has_errors(found)) return spec::to_status(found);
  const plan::Plan again = plan::plan(parsed.job, machines.cluster);
  if (again.feasible && again.layout == migration.plan.layout) return {};
  return Status(Code::kFailed, "the migrated configuration does not plan as it was settled: " +
                                   (again.feasible ? plan::to_string(again.layout) : again.reason));
}

Status write_out(const std::string& path, const std::string& text, bool force) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    return Status(Code::kInvalid, fmt::format("--out {} is a folder", path),
                  "give the name of a file in it");
  const std::string folder = std::filesystem::path(path).parent_path().string();
  if (!folder.empty() && !path_exists(folder))
    return Status(Code::kNotFound, fmt::format("--out {}: there is no folder {}", path, folder),
                  "make it first");
  if (path_exists(path) && !force)
    return Status(Code::kConflict, fmt::format("{} is there already", path),
                  "choose another --out, or replace it with --force");
  return write_file(path, text);
}

Json to_json(const plan::Migration& migration, const Words& words, const Machines& machines,
             const std::string& path) {
  Json changes = Json::array(), advice = Json::array();
  for (const plan::Change& c : migration.changes)
    changes.push_back({{"key", c.key}, {"from", c.from}, {"to", c.to}, {"why", c.why}});
  for (const plan::Advice& a : migration.advice)
    advice.push_back({{"topic", a.topic}, {"text", a.text}});
  const Json plan = Json::parse(plan::plan_json(migration.plan));
  return {{"from", words.from},
          {"to", words.to.file},
          {"cluster", machines.name},
          {"feasible", migration.plan.feasible},
          {"reason", migration.plan.reason},
          {"same", migration.same},
          {"changes", changes},
          {"advice", advice},
          {"checkpoints_carry_over", migration.checkpoints_carry_over},
          {"layout", plan["layout"]},
          {"predicted", plan["predicted"]},
          {"gpus_needed", plan["gpus_needed"]},
          {"file", path.empty() ? Json(nullptr) : Json(path)}};
}

void print_text(const plan::Migration& migration, const Words& words, const Machines& machines,
                const std::string& path) {
  print(fmt::format("{} -> {}, for {}\n", words.from, words.to.file, machines.name));
  if (migration.same) {
    print(std::string("nothing changes: both are the same configuration") +
          (migration.changes.empty() ? "\n" : "; settled for these machines:\n"));
  }
  for (const plan::Change& c : migration.changes) {
    print(wrap(one_line(fmt::format("{}: {} -> {}", c.key, c.from, c.to)), 4) + "\n    " +
          wrap(c.why, 4, help_columns() - 4) + "\n");
  }
  for (const plan::Advice& a : migration.advice)
    print(fmt::format("{:<{}}{}\n", a.topic, kColumn,
                      wrap(a.text, kColumn, help_columns() - kColumn)));
  if (!path.empty())
    print(fmt::format("{:<{}}dsv3ctl plan {}\n", "next", kColumn, shell_word(path)));
}

int migrate(const Globals& globals, const Words& words) {
  const auto out = one_text("--out", words.out);
  if (!out.ok()) return fail(globals, out.status());
  const LoadedConfig from = load_config(globals, {.file = words.from}, false);
  if (!from.ok()) return from.exit_code;
  const auto machines = machines_of(globals, words);
  if (!machines.ok()) return fail(globals, machines.status());
  ConfigOptions target = words.to;
  target.gpus = plan::count_devices(machines->cluster, plan::DeviceKind::kCuda);
  const LoadedConfig to = load_config(globals, target, false);
  if (!to.ok()) return to.exit_code;
  const plan::Migration migration =
      plan::migrate(from.parsed.job, to.parsed.job, machines->cluster);
  if (!migration.plan.feasible && !out->empty()) {
    return fail(globals, plan::refusal(migration.plan, to.parsed.job, machines->cluster));
  }
  if (!out->empty()) {
    const std::string text = yaml_of(migration, words, *machines);
    Status status = check_reads_back(text, migration, *machines);
    if (status.ok()) status = write_out(*out, text, words.force);
    if (!status.ok()) return fail(globals, status);
  }
  if (globals.json) {
    print_json(to_json(migration, words, *machines, *out));
  } else {
    print_text(migration, words, *machines, *out);
  }
  return static_cast<int>(migration.plan.feasible ? Code::kOk : Code::kDoesNotFit);
}

std::vector<Option> options_of(Words* words) {
  std::vector<Option> options = {
      {"FROM", &words->from, "What is trained now: a preset or a file", true, Completes::kConfig},
  };
  for (Option& option : config_options(&words->to, true)) {
    if (option.name == "FILE") option.name = "TO";
    if (option.name == "TO") option.help = "What is to be trained: a preset or a file";
    options.push_back(std::move(option));
  }
  for (Option& option : hostfile_options(&words->hostfile)) options.push_back(std::move(option));
  options.push_back({"--out", &words->out, "Write the configuration for these machines here"});
  options.back().value = "FILE";
  options.push_back({"--force", &words->force, "Replace the file of --out"});
  return options;
}

}  // namespace

Verb make_migrate() {
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "migrate";
  verb.group = "Plan";
  verb.summary = "From one configuration to another: what changes, why, and the file";
  verb.help =
      "Says what differs, what has to be done again (data, checkpoints), and what the target "
      "needs; without --gpus for the machines at hand.\n"
      "Examples:\n"
      "  dsv3ctl migrate 1b 5b\n"
      "  dsv3ctl migrate 1b 5b --gpus 8 --gpu a100-40 --out 5b-here.yaml\n"
      "  dsv3ctl migrate mine.yaml 10b --gpus 16 --gpu h100 --json\n"
      "Exit code 6 when the target does not fit (what would is said), 7 when FILE is there "
      "already.";
  verb.options = options_of(words.get());
  verb.run = [words](const Globals& globals) { return migrate(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
