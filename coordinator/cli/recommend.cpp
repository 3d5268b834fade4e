// dsv3ctl recommend: which preset for these GPUs, what the selector's table says, whether it fits,
// and what it costs.
#include "cluster/plan/recommend.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "configs/spec/presets.h"
#include "coordinator/cli/amounts.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/fleet.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/hostfile_options.h"
#include "coordinator/cli/interrupt.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/recommend_dialog.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kColumn = 13;
constexpr Range kUsdPerHour{0.0001, 10000};

struct Words {
  plan::Hardware hardware;
  std::vector<std::string> gpu;
  HostfileOptions hostfile;
  std::string use_case;
  std::vector<std::string> budget, tokens;
  std::optional<double> price;
};

// What is answered: the GPUs, or the CPUs of `fleet` where hardware.gpus is 0.
struct Question {
  plan::Hardware hardware;
  plan::Wishes wishes;
  plan::ClusterSpec fleet;
  std::string from;  // "" when the words gave the GPUs
};

bool has_hosts(const Words& words) {
  return !words.hostfile.file.empty() || !words.hostfile.include.empty() ||
         !words.hostfile.exclude.empty();
}

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

Result<plan::Wishes> wishes_of(const Words& words) {
  plan::Wishes wishes;
  wishes.use_case = words.use_case;
  wishes.usd_per_gpu_hour = words.price;
  DSV3_ASSIGN_OR_RETURN(const std::string budget, one_text("--budget", words.budget));
  if (!budget.empty()) DSV3_RETURN_IF_ERROR(parse_budget("--budget", budget, &wishes));
  DSV3_ASSIGN_OR_RETURN(const std::string tokens, one_text("--tokens", words.tokens));
  if (!tokens.empty()) {
    DSV3_ASSIGN_OR_RETURN(wishes.tokens, parse_tokens("--tokens", tokens));
  }
  return wishes;
}

// The GPUs of --hostfile or --gpus, by name and memory.
Result<plan::Hardware> given_hardware(const Words& words) {
  plan::Hardware hardware = words.hardware;
  DSV3_ASSIGN_OR_RETURN(hardware.gpu_name, known_gpu(words.gpu));
  DSV3_RETURN_IF_ERROR(check_gpu_memory(hardware.gpu_name, hardware.gpu_memory_gb));
  if (hardware.gpus == 0 && !has_hosts(words))
    return Status(
        Code::kInvalid,
        std::string(words.gpu.empty() ? "--gpu-memory" : "--gpu") + " needs --gpus or --hostfile",
        "say how many there are, or leave all out to look at the machines at hand");
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

bool names_hardware(const Words& words) {
  return words.hardware.gpus > 0 || words.hardware.gpu_memory_gb > 0 || !words.gpu.empty() ||
         has_hosts(words);
}

// A person, who gave no words: asked on stderr, so that stdout has the answer alone.
bool may_ask(const Globals& globals, const Words& words) {
  const bool wordless = !names_hardware(words) && words.use_case.empty() && words.budget.empty() &&
                        words.tokens.empty() && !words.price;
  return wordless && !globals.json && ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
}

std::optional<std::string> read_line(const std::string& prompt) {
  std::cerr << prompt << std::flush;
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  return line;
}

// nullopt: the person ended the questions.
Result<std::optional<Question>> settle(const Globals& globals, const Words& words) {
  Question question;
  DSV3_ASSIGN_OR_RETURN(question.wishes, wishes_of(words));
  if (names_hardware(words)) {
    DSV3_ASSIGN_OR_RETURN(question.hardware, given_hardware(words));
    return std::optional(std::move(question));
  }
  Fleet fleet = find_fleet(globals);
  question.hardware = plan::hardware_of(fleet.cluster);
  question.fleet = std::move(fleet.cluster);
  question.from = std::move(fleet.from);
  if (!may_ask(globals, words)) return std::optional(std::move(question));
  say_when_interrupted("\n");
  const auto answers = ask_for_hardware(
      read_line, [](const std::string& line) { note(line); }, question.hardware);
  if (!answers) {
    note("");
    return std::optional<Question>();
  }
  question.hardware = answers->hardware;
  question.wishes = answers->wishes;
  question.from.clear();
  return std::optional(std::move(question));
}

// The plan of what is recommended, of the same GPUs; "" where nothing is.
std::string next_command(const Words& words, const Question& question,
                         const plan::Recommendation& said) {
  if (said.config.empty()) return {};
  if (question.hardware.gpus == 0) return "dsv3ctl submit " + said.config + " --wait";
  std::string out = "dsv3ctl plan " + said.config;
  const int64_t used = said.plan ? said.plan->gpus : question.hardware.gpus;
  if (words.hostfile.file.empty() || used < question.hardware.gpus) {
    out += fmt::format(" --gpus {}", used);
  } else {
    out += " " + hostfile_words(words.hostfile);
  }
  const std::string& name = question.hardware.gpu_name;
  if (!name.empty()) out += " --gpu " + shell_word(name);
  const bool by_name = !name.empty() && words.hardware.gpu_memory_gb == 0 &&
                       label_gb_of(name) == question.hardware.gpu_memory_gb;
  if (!by_name) out += fmt::format(" --gpu-memory {:g}", question.hardware.gpu_memory_gb);
  return out;
}

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

Json hardware_json(const Question& question) {
  const plan::Hardware& hardware = question.hardware;
  return {{"gpus", hardware.gpus},
          {"gpu_memory_gb", hardware.gpus > 0 ? Json(hardware.gpu_memory_gb) : Json(nullptr)},
          {"gpu", text_or_null(hardware.gpu_name)},
          {"from", text_or_null(question.from)}};
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
              {"table",
               {{"by_hardware", text_or_null(said.table.by_hardware)},
                {"by_use_case", said.table.by_use_case},
                {"by_budget", said.table.by_budget}}},
              {"reason", said.reason},
              {"fits", said.plan.has_value()},
              {"layout", nullptr},
              {"predicted", nullptr},
              {"tokens", said.tokens > 0 ? Json(said.tokens) : Json(nullptr)},
              {"gpus_used", said.plan ? Json(said.plan->gpus) : Json(nullptr)},
              {"larger", text_or_null(said.larger)},
              {"larger_reason", text_or_null(said.larger_reason)},
              {"gpus_needed_for_larger",
               said.gpus_needed_for_larger ? Json(*said.gpus_needed_for_larger) : Json(nullptr)},
              {"alternatives", alternatives},
              {"rejected", rejected}};
  if (said.plan) {
    const Json plan = Json::parse(plan::plan_json(*said.plan));
    out["layout"] = plan["layout"];
    out["predicted"] = plan["predicted"];
    out["timed_by"] = plan["timed_by"];
    out["why"] = text_or_null(said.plan->why);
    out["runnable"] = said.plan->runnable;
  }
  if (said.config.empty()) out["error"] = "NO_CONFIG_FITS";
  return out;
}

// "31 days, $1,234,567 for 14.80T tokens (MFU 38.1 %)"; "" when nothing of it is known.
std::string prediction_text(const plan::Recommendation& said) {
  if (!said.plan || !said.plan->predicted.days) return {};
  const plan::Predicted& p = said.plan->predicted;
  std::string out = fmt::format("{} on {} GPUs for {} tokens", human_duration(*p.days * 86400),
                                said.plan->gpus, human_count(said.tokens));
  if (p.cost_usd) out += fmt::format(", ${}", with_commas(std::llround(*p.cost_usd)));
  if (p.tokens_per_s && p.mfu)
    out += fmt::format(" ({} tokens/s, MFU {:.1f} %)",
                       with_commas(static_cast<int64_t>(*p.tokens_per_s)), 100 * *p.mfu);
  const auto& by = said.plan->timed_by;
  if (by && by->assumed) out += fmt::format("; as on {}: --gpu names another", by->name);
  return out;
}

void print_text(const Globals& globals, const Question& question, const plan::Recommendation& said,
                const std::string& next) {
  const auto line = [](std::string_view name, const std::string& text) {
    if (text.empty()) return;
    print(fmt::format("{:<{}}{}\n", name, kColumn, wrap(text, kColumn, help_columns() - kColumn)));
  };
  print(paint(said.config.empty() ? "none" : said.config, Color::kBold, globals.color) + "\n");
  print(wrap(said.reason, 0) + "\n");
  if (!question.from.empty() && question.hardware.gpus > 0) {
    line("looked at", fmt::format("{}: {} x {} ({:g} GB)", question.from, question.hardware.gpus,
                                  question.hardware.gpu_name, question.hardware.gpu_memory_gb));
  }
  line("predicted", prediction_text(said));
  if (said.plan && question.hardware.gpus > 0 && !said.plan->why.empty())
    line("layout", said.plan->why);
  for (const plan::Choice& choice : said.rejected) {
    const bool told = said.reason.find(choice.reason) != std::string::npos;
    if (!told && choice.reason != said.larger_reason) line("not", choice.reason);
  }
  line("larger", said.larger_reason);
  for (const plan::Choice& choice : said.alternatives) line("smaller", choice.reason);
  // Unbroken: a command that is copied stays one line.
  if (!next.empty()) print(fmt::format("{:<{}}{}\n", "next", kColumn, next));
}

int recommend(const Globals& globals, const Words& words) {
  const auto settled = settle(globals, words);
  if (!settled.ok()) return fail(globals, settled.status());
  if (!*settled) return 0;
  const Question& question = **settled;
  const plan::Wishes& wishes = question.wishes;
  if (question.hardware.gpus == 0 &&
      (!wishes.use_case.empty() || !wishes.budget.empty() || wishes.budget_usd > 0 ||
       wishes.tokens > 0 || wishes.usd_per_gpu_hour))
    note("what is asked of use case, budget, tokens and price is for GPUs: give --gpus N too");
  auto presets = spec::list_presets();
  if (!presets.ok()) return fail(globals, presets.status());
  std::vector<plan::NamedJob> named;
  for (const spec::Preset& preset : *presets) named.push_back({preset.name, preset.job});
  const plan::Recommendation said =
      question.hardware.gpus > 0
          ? plan::recommend(question.hardware, named, question.wishes)
          : plan::recommend_on_cpus(
                question.fleet.nodes.empty() ? find_fleet(globals).cluster : question.fleet, named);
  const Code code = said.config.empty() ? Code::kDoesNotFit : Code::kOk;
  const std::string next = next_command(words, question, said);
  if (globals.json) {
    Json out = to_json(said);
    out["hardware"] = hardware_json(question);
    out["next"] = text_or_null(next);
    print_json(out);
  } else {
    print_text(globals, question, said, next);
  }
  return static_cast<int>(code);
}

constexpr const char* kHelp =
    "Says what the selector's table says, then what the memory model says of it, how long it takes "
    "and what it costs. Without any option it asks, at a terminal; elsewhere it looks at the "
    "machines of the coordinator, or at this one.\n"
    "Examples:\n"
    "  dsv3ctl recommend\n"
    "  dsv3ctl recommend --gpus 8 --gpu-memory 80\n"
    "  dsv3ctl recommend --gpus 32 --gpu h100 --json\n"
    "  dsv3ctl recommend --gpus 64 --gpu h100 --use-case production\n"
    "  dsv3ctl recommend --gpus 64 --gpu h100 --budget 50K --tokens 300B\n"
    "  dsv3ctl recommend --hostfile hosts --gpu-memory 80\n"
    "The third prints among others:\n"
    "  {\"config\": \"20b\", \"table_choice\": \"671b\", \"fits\": true,\n"
    "   \"reason\": \"the table says 671b for 32 x 80 GB, but 671b does not fit ...\"}\n"
    "Exit code 6 when nothing fits.";

std::vector<Option> options_of(Words* words) {
  std::vector<Option> options = {
      {"--gpus", &words->hardware.gpus, "Number of GPUs", false, Completes::kNothing, {}, kGpus},
      {"--gpu-memory",
       &words->hardware.gpu_memory_gb,
       "Memory of one GPU in GB, as on its label (default: what --gpu has)",
       false,
       Completes::kNothing,
       {},
       kGpuMemoryGb},
      {"--gpu", &words->gpu, "Name of the GPU (h100, h200, a100-40, rtx4090)"},
      {"--use-case", &words->use_case, "No larger than the table has it for this use", false,
       Completes::kNothing, plan::use_cases()},
      {"--budget", &words->budget,
       "No dearer: low, medium, high, very-high, extreme (the table's), or dollars, compared with "
       "the predicted cost (20K)"},
      {"--tokens", &words->tokens,
       "Tokens to train on: 300B, 14.8T (default: the preset's own steps)"},
      {"--price",
       &words->price,
       "Dollars for an hour of one GPU (default: a usual price of --gpu)",
       false,
       Completes::kNothing,
       {},
       kUsdPerHour}};
  options[4].value = "WORD|USD";
  options[5].value = "N";
  options[6].value = "USD";
  for (Option& option : hostfile_options(&words->hostfile)) options.push_back(std::move(option));
  return options;
}

}  // namespace

Verb make_recommend() {
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "recommend";
  verb.group = "Plan";
  verb.summary = "Which preset for these GPUs, whether it fits, what it costs";
  verb.help = kHelp;
  verb.options = options_of(words.get());
  verb.run = [words](const Globals& globals) { return recommend(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
