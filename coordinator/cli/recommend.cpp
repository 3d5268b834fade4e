// dsv3ctl recommend: which preset for these GPUs, what the selector's table says, and whether it
// fits.
#include "cluster/plan/recommend.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "configs/spec/presets.h"
#include "coordinator/cli/config_options.h"
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

int recommend(const Globals& globals, const plan::Hardware& hardware) {
  auto presets = spec::list_presets();
  if (!presets.ok()) return fail(globals, presets.status());
  std::vector<plan::NamedJob> named;
  for (const spec::Preset& preset : *presets) named.push_back({preset.name, preset.job});
  const plan::Recommendation said = plan::recommend(hardware, named);
  const Code code = said.config.empty() ? Code::kDoesNotFit : Code::kOk;
  if (globals.json) {
    print_json(to_json(said));
    return static_cast<int>(code);
  }
  print(fmt::format("{}\n{}\n",
                    paint(said.config.empty() ? "none" : said.config, Color::kBold, globals.color),
                    said.reason));
  for (const plan::Choice& choice : said.rejected)
    print(fmt::format("too large    {}\n", choice.reason));
  for (const plan::Choice& choice : said.alternatives)
    print(fmt::format("smaller      {}\n", choice.reason));
  if (!said.config.empty()) {
    print(fmt::format("next         dsv3ctl plan {} --gpus {} --gpu-memory {:g}\n", said.config,
                      said.plan ? said.plan->gpus : hardware.gpus, hardware.gpu_memory_gb));
  }
  return static_cast<int>(code);
}

}  // namespace

Verb make_recommend() {
  auto hardware = std::make_shared<plan::Hardware>();
  Verb verb;
  verb.name = "recommend";
  verb.group = "Plan";
  verb.summary = "Which preset for these GPUs, and whether it fits";
  verb.help =
      "Says what the selector's table says, then what the memory model says of it.\n"
      "Examples:\n"
      "  dsv3ctl recommend --gpus 8 --gpu-memory 80\n"
      "  dsv3ctl recommend --gpus 32 --gpu-memory 80 --json\n"
      "Exit code 6 when nothing fits.";
  verb.options = {
      {"--gpus", &hardware->gpus, "Number of GPUs", true, Completes::kNothing, {}, kGpus},
      {"--gpu-memory",
       &hardware->gpu_memory_gb,
       "Memory of one GPU in GB, as on its label",
       true,
       Completes::kNothing,
       {},
       kGpuMemoryGb},
      {"--gpu",
       &hardware->gpu_name,
       "Name of the GPU (h100, a100-80)",
       false,
       Completes::kNothing,
       {}}};
  verb.run = [hardware](const Globals& globals) { return recommend(globals, *hardware); };
  return verb;
}

}  // namespace dsv3::cli
