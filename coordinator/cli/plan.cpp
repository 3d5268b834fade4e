// dsv3ctl plan: does a job fit N GPUs, in which layout, with what memory, how fast, for how much;
// nothing is started. This file reads the words; the views print (plan_views.h).
#include "cluster/plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cluster/inventory/calibration_file.h"
#include "cluster/inventory/inventory.h"
#include "cluster/plan/compare.h"
#include "coordinator/cli/amounts.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/hostfile_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/plan_views.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

struct PlanWords {
  ConfigOptions config;
  HostfileOptions hostfile;
  std::vector<std::string> gpus;  // "8", "2048..16384"
  bool explain = false;
  std::vector<std::string> compare;
  bool sweep = false;
  bool csv = false;
  std::vector<std::string> tokens;
  std::optional<double> price;
  std::vector<std::string> calibration;
  std::optional<double> mtbf_hours;
  std::optional<double> restart_s;
  std::optional<double> checkpoint_s;
  std::optional<double> storage_gbps;
};

// ---- --gpus

struct GpuRange {
  int64_t from = 0;
  int64_t to = 0;
};

Result<int64_t> parse_gpus(const std::string& text, const std::string& whole) {
  int64_t gpus = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, gpus);
  const bool is_number = at == end && !text.empty();
  if (!is_number)
    return Status(Code::kInvalid, fmt::format("--gpus takes a number, not '{}'", whole),
                  "see 'dsv3ctl plan --help'");
  if (error != std::errc() || static_cast<double>(gpus) < kGpus.min ||
      static_cast<double>(gpus) > kGpus.max)
    return Status(
        Code::kInvalid,
        fmt::format("--gpus: {} is not a number from {:.0f} to {:.0f}", text, kGpus.min, kGpus.max),
        "see 'dsv3ctl plan --help'");
  return gpus;
}

// {0, 0} without the option.
Result<GpuRange> gpu_range(const PlanWords& words) {
  DSV3_ASSIGN_OR_RETURN(const std::string text, one_text("--gpus", words.gpus));
  if (text.empty()) return GpuRange{};
  const size_t dots = text.find("..");
  if (dots == std::string::npos) {
    DSV3_ASSIGN_OR_RETURN(const int64_t gpus, parse_gpus(text, text));
    return GpuRange{gpus, gpus};
  }
  GpuRange range;
  DSV3_ASSIGN_OR_RETURN(range.from, parse_gpus(text.substr(0, dots), text));
  DSV3_ASSIGN_OR_RETURN(range.to, parse_gpus(text.substr(dots + 2), text));
  if (range.from > range.to)
    return Status(Code::kInvalid, fmt::format("--gpus {} runs backwards", text),
                  fmt::format("write {}..{}", range.to, range.from));
  if (!words.sweep && range.from != range.to)
    return Status(Code::kInvalid, fmt::format("--gpus {} is a range", text),
                  "add --sweep to plan for each number of it, or give one number");
  return range;
}

// ---- the machine

// As given, else what a card of that name has, else the usual 80.
double memory_gb(const ConfigOptions& options, const std::string& gpu) {
  if (options.gpu_memory_gb > 0) return options.gpu_memory_gb;
  const int named = label_gb_of(gpu);
  return named > 0 ? named : 80;
}

// --gpu and --gpu-memory describe the GPUs that --gpus or --hostfile counts.
Status check_machine(const ConfigOptions& options, const std::string& gpu, bool has_hosts) {
  if (options.gpus > 0 || has_hosts || (gpu.empty() && options.gpu_memory_gb == 0)) return {};
  return Status(
      Code::kInvalid,
      std::string(gpu.empty() ? "--gpu-memory" : "--gpu") + " needs --gpus N or --hostfile FILE",
      "say how many there are, or leave all out to plan for this machine");
}

// What failures cost is asked by a sweep only.
Status check_failures(const PlanWords& words) {
  const std::pair<const char*, const std::optional<double>*> given[] = {
      {"--mtbf", &words.mtbf_hours},
      {"--restart", &words.restart_s},
      {"--checkpoint", &words.checkpoint_s},
      {"--storage", &words.storage_gbps}};
  for (const auto& [option, value] : given) {
    if (!value->has_value()) continue;
    if (!words.sweep)
      return Status(Code::kInvalid, fmt::format("{} needs --sweep", option),
                    "failures are told of by a sweep: add --sweep, or leave it out");
    if (!(**value > 0))
      return Status(Code::kInvalid, fmt::format("{} takes a number above 0", option),
                    "leave it out for the usual one");
  }
  return {};
}

// Which words go together.
Status check_words(const PlanWords& words, bool json) {
  const bool compares = !words.compare.empty();
  if (compares && words.compare.size() != 2)
    return Status(
        Code::kInvalid,
        fmt::format("--compare is given {}", words.compare.size() == 1
                                                 ? "once"
                                                 : fmt::format("{} times", words.compare.size())),
        "give it twice: --compare 'TP2 PP4' --compare 'TP1 PP8'");
  if (words.explain + words.sweep + compares > 1)
    return Status(Code::kInvalid, "--explain, --compare and --sweep are three questions",
                  "ask one at a time");
  if (words.sweep && words.gpus.empty())
    return Status(Code::kInvalid, "--sweep needs --gpus",
                  "for example 'dsv3ctl plan 671b --sweep --gpus 256..2048 --gpu h100'");
  if (words.csv && !words.sweep)
    return Status(Code::kInvalid, "--csv needs --sweep", "--json prints a single plan");
  if (words.csv && json)
    return Status(Code::kInvalid, "--csv and --json are two formats", "give one of them");
  if (words.price && !(*words.price >= 0))
    return Status(Code::kInvalid, "--price takes dollars per GPU hour, from 0");
  return check_failures(words);
}

// ---- the device that times are predicted for

// --calibration, else what `dsv3ctl calibrate` left in the state directory for the CPUs of this
// machine; absent where there is neither. A calibration of CPUs says nothing of GPUs.
Result<std::optional<plan::DeviceModel>> calibrated_device(const Globals& globals,
                                                           const PlanWords& words,
                                                           const PlanQuestion& question) {
  const std::string& dtype = question.job.training.dtype;
  const bool on_gpus =
      plan::wanted_device(question.job, question.cluster) == plan::DeviceKind::kCuda;
  const bool this_machine = words.config.gpus == 0 && !on_gpus;
  DSV3_ASSIGN_OR_RETURN(std::string path, one_text("--calibration", words.calibration));
  const bool asked = !path.empty();
  if (!asked && !this_machine) return std::optional<plan::DeviceModel>();
  if (!asked)
    return inventory::calibrated_device(inventory::calibration_path(globals.state_dir), dtype);
  DSV3_ASSIGN_OR_RETURN(auto device, inventory::calibrated_device(path, dtype));
  if (!device) return Status(Code::kNotFound, "there is no " + path, "see 'dsv3ctl calibrate'");
  if (on_gpus && device->cores > 0)
    return Status(Code::kInvalid,
                  fmt::format("--calibration: {} is of CPUs ({}), the job is planned on GPUs", path,
                              device->name),
                  "leave it out: what is known of GPUs is in a table");
  return device;
}

// ---- the answers

// Everything that a view is told, and what it points at.
struct Settled {
  PlanQuestion question;
  std::optional<plan::DeviceModel> device;
  GpuRange gpus;
  double label_gb = 80;
  std::string gpu;
};

int answer(const Globals& globals, const PlanWords& words, const Settled& settled) {
  const PlanQuestion& question = settled.question;
  if (words.sweep) {
    SweepQuestion sweep{.job = question.job,
                        .gpus_from = settled.gpus.from,
                        .gpus_to = settled.gpus.to,
                        .label_gb = settled.label_gb,
                        .gpu = settled.gpu,
                        .options = question.options,
                        .csv = words.csv};
    sweep.mtbf_hours = words.mtbf_hours;
    sweep.restart_s = words.restart_s;
    sweep.checkpoint_s = words.checkpoint_s;
    sweep.storage_gbps = words.storage_gbps;
    return show_sweep(globals, sweep);
  }
  if (words.explain) return show_explain(globals, question);
  if (!words.compare.empty()) return show_compare(globals, question, words.compare);
  const plan::Plan plan = plan::plan(question.job, question.cluster, question.options);
  const PlanNotes notes = notes_of(question, plan);
  if (globals.json) {
    print(noted_json(plan, notes).dump() + "\n");  // one line, however many ranks
  } else {
    print(plan_text(plan, false, notes));
  }
  return static_cast<int>(plan.feasible ? Code::kOk : Code::kDoesNotFit);
}

// The words that need no configuration, and the cluster that they describe.
Status settle_machine(PlanWords* words, bool json, Settled* settled) {
  DSV3_RETURN_IF_ERROR(check_words(*words, json));
  DSV3_ASSIGN_OR_RETURN(settled->gpus, gpu_range(*words));
  ConfigOptions& options = words->config;
  options.gpus = settled->gpus.from;
  DSV3_ASSIGN_OR_RETURN(settled->gpu, known_gpu(options.gpu));
  DSV3_RETURN_IF_ERROR(check_gpu_memory(settled->gpu, options.gpu_memory_gb));
  settled->label_gb = memory_gb(options, settled->gpu);
  DSV3_ASSIGN_OR_RETURN(const auto hosts, read_cluster(words->hostfile, options.gpus,
                                                       settled->label_gb, settled->gpu));
  DSV3_RETURN_IF_ERROR(check_machine(options, settled->gpu, hosts.has_value()));
  plan::ClusterSpec& cluster = settled->question.cluster;
  if (hosts) {
    cluster = *hosts;
    options.gpus = plan::count_devices(cluster, plan::DeviceKind::kCuda);
  } else {
    cluster = options.gpus > 0
                  ? plan::cluster_of_gpus(options.gpus, settled->label_gb, settled->gpu)
                  : inventory::local_cluster();
  }
  if (!words->tokens.empty()) {
    DSV3_ASSIGN_OR_RETURN(const std::string tokens, one_text("--tokens", words->tokens));
    DSV3_ASSIGN_OR_RETURN(settled->question.options.tokens, parse_tokens("--tokens", tokens));
  }
  settled->question.options.usd_per_gpu_hour = words->price;
  return {};
}

int run_plan(const Globals& globals, PlanWords* words) {
  Settled settled;
  if (Status status = settle_machine(words, globals.json, &settled); !status.ok())
    return fail(globals, status);
  LoadedConfig loaded = load_config(globals, words->config, false);
  if (!loaded.ok()) return loaded.exit_code;
  if (!globals.json) print_diagnostics(loaded.warnings);
  PlanQuestion& question = settled.question;
  question.job = std::move(loaded.parsed.job);
  auto device = calibrated_device(globals, *words, question);
  if (!device.ok()) return fail(globals, device.status());
  settled.device = std::move(device).value();
  if (settled.device) question.options.device = &*settled.device;
  return answer(globals, *words, settled);
}

// ---- the verb

std::vector<Option> plan_options(PlanWords* words) {
  std::vector<Option> options = config_options(&words->config, true);
  for (Option& option : options) {
    if (option.name != "--gpus") continue;
    option.target = &words->gpus;  // text: a number, or a range
    option.range.reset();
    option.help += "; with --sweep also a range: 256..2048";
    option.value = "N|A..B";
  }
  for (Option& option : hostfile_options(&words->hostfile)) options.push_back(std::move(option));
  const auto add = [&options](const char* name, Target target, const char* value, const char* help,
                              std::optional<Range> range = std::nullopt) {
    options.push_back({name, target, help, false, Completes::kNothing, {}, range, value});
  };
  constexpr Range kAnything{0, kAnyCount};
  add("--explain", &words->explain, "",
      "What the figures are made of: memory by stage, part and tensor, time by term, and why each "
      "other layout was not taken");
  add("--compare", &words->compare, "LAYOUT",
      "A layout, given twice: both side by side (like 'TP2 PP4 EP8' or 'tp=2 pp=4')");
  add("--tokens", &words->tokens, "N",
      "Tokens to train on, for days and cost: 14.8T, 300B (default: the configuration's steps)");
  add("--price", &words->price, "USD", "Dollars per GPU hour (default: a usual price of the card)",
      kAnything);
  add("--calibration", &words->calibration, "FILE",
      "What 'dsv3ctl calibrate' measured (default for this machine: calibration.json in the state "
      "directory)");
  add("--sweep", &words->sweep, "", "One line for each number of GPUs");
  add("--csv", &words->csv, "", "With --sweep: comma-separated values");
  add("--mtbf", &words->mtbf_hours, "HOURS", "With --sweep: hours between failures of one node",
      kAnything);
  add("--restart", &words->restart_s, "SECONDS",
      "With --sweep: seconds from a failure to the next step", kAnything);
  add("--checkpoint", &words->checkpoint_s, "SECONDS",
      "With --sweep: seconds that a checkpoint stops training", kAnything);
  add("--storage", &words->storage_gbps, "GB/S", "With --sweep: GB a second that storage takes",
      kAnything);
  return options;
}

}  // namespace

Verb make_plan() {
  auto words = std::make_shared<PlanWords>();
  Verb verb;
  verb.name = "plan";
  verb.group = "Plan";
  verb.summary = "Does it fit, how fast: layout, memory and time by term, cost";
  verb.help =
      "Without --gpus it plans for this machine. Sizes that the configuration leaves free are "
      "chosen: the fastest layout that fits.\n"
      "Examples:\n"
      "  dsv3ctl plan demo\n"
      "  dsv3ctl plan 671b --gpus 2048 --gpu h800 --tokens 14.8T\n"
      "  dsv3ctl plan 10b --gpus 8 --gpu-memory 80 --explain\n"
      "  dsv3ctl plan 10b --gpus 8 --compare EP8 --compare TP2,PP2,EP2\n"
      "  dsv3ctl plan 671b --sweep --gpus 256..2048 --gpu h100 --csv\n"
      "  dsv3ctl plan 10b --hostfile hosts --exclude worker-2 --gpu-memory 80\n"
      "Then 'dsv3ctl submit FILE' trains it here.\n"
      "Exit code 0 when it fits, 6 when it does not (the plan is printed all the same).";
  verb.options = plan_options(words.get());
  verb.run = [words](const Globals& globals) { return run_plan(globals, words.get()); };
  return verb;
}

}  // namespace dsv3::cli
