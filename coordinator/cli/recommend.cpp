// dsv3ctl recommend: which preset for these GPUs, what the selector's table says, and whether it
// fits.
#include "cluster/plan/recommend.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "configs/spec/presets.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/hostfile_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

Json to_json(const plan::Recommendation& said) {
  Json alternatives = Json::array(), rejected = Json::array();
  for (const plan::Choice& c : said.alternatives) {
    alternatives.push_back({{"config", c.config}, {"fits", c.fits}, {"reason", c.reason}});
  }
  for (const plan::Choice& c : said.rejected)
    rejected.push_back({{"config", c.config}, {"reason", c.reason}});
  Json out = {{"config", text_or_null(said.config)},
              {"table_choice", text_or_null(said.table_choice)},
              {"reason", said.reason},
              {"fits", said.plan.has_value()},
              {"layout", nullptr},
              {"predicted", nullptr},
              {"alternatives", alternatives},
              {"rejected", rejected}};
  if (said.plan) {
    const Json plan = Json::parse(plan::plan_json(*said.plan));
    out["layout"] = plan["layout"];
    out["predicted"] = plan["predicted"];
  }
  if (said.config.empty()) out["error"] = "NO_CONFIG_FITS";
  return out;
}

constexpr int kColumn = 13;

struct Words {
  plan::Hardware hardware;
  std::vector<std::string> gpu;
  HostfileOptions hostfile;
};

// As given, else what a card of that name has.
Result<double> memory_gb(const plan::Hardware& hardware) {
  if (hardware.gpu_memory_gb > 0) return hardware.gpu_memory_gb;
  const int named = label_gb_of(hardware.gpu_name);
  if (named > 0) return static_cast<double>(named);
  if (hardware.gpu_name.empty())
    return Status(Code::kInvalid, "--gpu-memory or --gpu is required",
                  "for example 'dsv3ctl recommend --gpus 8 --gpu-memory 80'");
  return Status(Code::kInvalid, fmt::format("--gpu {} needs --gpu-memory GB", hardware.gpu_name),
                "it is sold with more than one size of memory");
}

// The GPUs of --hostfile or --gpus, by name and memory.
Result<plan::Hardware> settle(const Words& words) {
  plan::Hardware hardware = words.hardware;
  DSV3_ASSIGN_OR_RETURN(hardware.gpu_name, known_gpu(words.gpu));
  if (hardware.gpus == 0 && words.hostfile.file.empty() && words.hostfile.include.empty() &&
      words.hostfile.exclude.empty())
    return Status(Code::kInvalid, "--gpus or --hostfile is required",
                  "for example 'dsv3ctl recommend --gpus 8 --gpu-memory 80'");
  DSV3_ASSIGN_OR_RETURN(hardware.gpu_memory_gb, memory_gb(hardware));
  DSV3_ASSIGN_OR_RETURN(
      const auto cluster,
      read_cluster(words.hostfile, hardware.gpus, hardware.gpu_memory_gb, hardware.gpu_name));
  if (cluster) {
    hardware.gpus = plan::count_devices(*cluster, plan::DeviceKind::kCuda);
    hardware.gpus_per_node = static_cast<int64_t>(cluster->nodes[0].devices.size());
  }
  return hardware;
}

// The plan of what is recommended, of the same GPUs; "" where nothing is.
std::string next_command(const Words& words, int64_t gpus, const plan::Recommendation& said) {
  if (said.config.empty()) return {};
  std::string out = "dsv3ctl plan " + said.config;
  if (words.hostfile.file.empty()) {
    out += fmt::format(" --gpus {}", said.plan ? said.plan->gpus : gpus);
  } else {
    out += " " + hostfile_words(words.hostfile);
  }
  for (const std::string& name : words.gpu) out += " --gpu " + shell_word(name);
  if (words.hardware.gpu_memory_gb > 0)
    out += fmt::format(" --gpu-memory {:g}", words.hardware.gpu_memory_gb);
  return out;
}

int recommend(const Globals& globals, const Words& words) {
  const auto hardware = settle(words);
  if (!hardware.ok()) return fail(globals, hardware.status());
  auto presets = spec::list_presets();
  if (!presets.ok()) return fail(globals, presets.status());
  std::vector<plan::NamedJob> named;
  for (const spec::Preset& preset : *presets) named.push_back({preset.name, preset.job});
  const plan::Recommendation said = plan::recommend(*hardware, named);
  const Code code = said.config.empty() ? Code::kDoesNotFit : Code::kOk;
  const std::string next = next_command(words, hardware->gpus, said);
  if (globals.json) {
    Json out = to_json(said);
    out["next"] = text_or_null(next);
    print_json(out);
    return static_cast<int>(code);
  }
  const auto line = [](std::string_view name, const std::string& text) {
    print(fmt::format("{:<{}}{}\n", name, kColumn, wrap(text, kColumn, help_columns() - kColumn)));
  };
  print(paint(said.config.empty() ? "none" : said.config, Color::kBold, globals.color) + "\n");
  print(wrap(said.reason, 0) + "\n");
  for (const plan::Choice& choice : said.rejected) line("too large", choice.reason);
  for (const plan::Choice& choice : said.alternatives) line("smaller", choice.reason);
  // Unbroken: a command that is copied stays one line.
  if (!next.empty()) print(fmt::format("{:<{}}{}\n", "next", kColumn, next));
  return static_cast<int>(code);
}

}  // namespace

Verb make_recommend() {
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "recommend";
  verb.group = "Plan";
  verb.summary = "Which preset for these GPUs, and whether it fits";
  verb.help =
      "Says what the selector's table says, then what the memory model says of it.\n"
      "Examples:\n"
      "  dsv3ctl recommend --gpus 8 --gpu-memory 80\n"
      "  dsv3ctl recommend --gpus 32 --gpu h100 --json\n"
      "  dsv3ctl recommend --hostfile hosts --gpu-memory 80\n"
      "Exit code 6 when nothing fits.";
  verb.options = {
      {"--gpus", &words->hardware.gpus, "Number of GPUs", false, Completes::kNothing, {}, kGpus},
      {"--gpu-memory",
       &words->hardware.gpu_memory_gb,
       "Memory of one GPU in GB, as on its label (default: what --gpu has)",
       false,
       Completes::kNothing,
       {},
       kGpuMemoryGb},
      {"--gpu", &words->gpu, "Name of the GPU (h100, a100-80)", false, Completes::kNothing, {}}};
  for (Option& option : hostfile_options(&words->hostfile))
    verb.options.push_back(std::move(option));
  verb.one_of = "--gpus N|--hostfile FILE";
  verb.run = [words](const Globals& globals) { return recommend(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
