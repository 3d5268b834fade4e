// dsv3ctl rehearse: the layout that is planned for many GPUs, run on this machine's cores with the
// same parallel code: trains, saves, goes on in another layout, and is held against one process.
//
// Law: it says what it proved and what it could not keep; without --keep it leaves nothing behind.
#include "cluster/plan/rehearse.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "cluster/inventory/inventory.h"
#include "cluster/plan/plan.h"
#include "configs/spec/counts.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/interrupt.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/rehearsal_gang.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

// A loss may differ from one process's by rounding alone.
constexpr double kRelativeMax = 1e-5;
constexpr int64_t kSecond = 1'000'000'000;

struct Options {
  ConfigOptions config;
  int64_t ranks_max = 16;
  int64_t steps = 3;
  int64_t timeout_s = 600;
  bool keep = false;
};

struct TimedRun {
  std::string what;  // "one process", "PP4 EP4 …"
  plan::Layout layout;
  int64_t first_step = 0, last_step = 0;
  double seconds = 0;
};

struct Report {
  const plan::Rehearsal& made;
  int64_t gpus = 0;
  std::string name;
  std::vector<TimedRun> runs;
  Losses expected, found;
  double seconds = 0;
  std::string kept;  // the folder, "" when it is gone

  // The largest |found − expected| / |expected|; infinity where a loss is missing or not finite.
  double largest() const {
    double most = 0;
    for (const auto& [step, loss] : expected) {
      const auto at = found.find(step);
      const double part = at == found.end() ? HUGE_VAL : relative(loss, at->second);
      most = std::max(most, std::isfinite(part) ? part : HUGE_VAL);
    }
    return most;
  }
  static double relative(double expected, double found) {
    return std::abs(found - expected) / std::max(std::abs(expected), 1e-30);
  }
  bool proved() const { return !expected.empty() && largest() <= kRelativeMax; }
};

// ---- what is planned

Result<plan::Plan> planned(const Options& options, const spec::JobSpec& job) {
  DSV3_ASSIGN_OR_RETURN(const std::string gpu, known_gpu(options.config.gpu));
  const int named = label_gb_of(gpu);
  const double label_gb = options.config.gpu_memory_gb > 0 ? options.config.gpu_memory_gb
                          : named > 0                      ? named
                                                           : 80;
  const plan::ClusterSpec cluster = options.config.gpus > 0
                                        ? plan::cluster_of_gpus(options.config.gpus, label_gb, gpu)
                                        : inventory::local_cluster();
  plan::Plan made = plan::plan(job, cluster);
  if (made.feasible) return made;
  const std::string would = plan::would_hold(made);
  return Status(Code::kDoesNotFit, made.reason,
                would.empty() ? "see 'dsv3ctl plan'" : fmt::format("{} would hold it", would));
}

// ---- the runs

// "1 rank", "3 ranks".
std::string counted(int64_t n, const char* noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

Status run_one(const RehearsalFolder& folder, const RehearsalFolder::Run& run,
               const std::string& what, Report* report, Losses* losses) {
  note(fmt::format("{}: steps {} to {} on {}", what, run.saved_step + 1, run.steps_max,
                   counted(run.layout.world_size(), "rank")));
  const int64_t begin_ns = system_clock().steady_ns();
  auto found = folder.train(run);
  if (!found.ok()) {
    return Status(found.status().code(), fmt::format("{}: {}", what, found.status().message()),
                  found.status().hint());
  }
  losses->insert(found->begin(), found->end());
  const double seconds = static_cast<double>(system_clock().steady_ns() - begin_ns) / kSecond;
  report->runs.push_back({what, run.layout, run.saved_step + 1, run.steps_max, seconds});
  return {};
}

Status run_all(const RehearsalFolder& folder, const Options& options, Report* report) {
  const plan::Rehearsal& made = report->made;
  spec::JobSpec job = made.job;
  DSV3_ASSIGN_OR_RETURN(const std::string text, folder.prepare_text());
  job.data.path = {{text, 1.0}};
  const int64_t half = options.steps, whole = 2 * options.steps;
  DSV3_RETURN_IF_ERROR(run_one(folder, {"layouts", job, made.first, half, 0},
                               plan::to_string(made.first), report, &report->found));
  DSV3_RETURN_IF_ERROR(run_one(folder, {"layouts", job, made.second, whole, half},
                               "resumed as " + plan::to_string(made.second), report,
                               &report->found));
  return run_one(folder, {"alone", job, made.alone, whole, 0}, "one process", report,
                 &report->expected);
}

// ---- the answer

Json report_json(const Report& report) {
  const plan::Rehearsal& made = report.made;
  const auto layout = [](const plan::Layout& l) { return Json::parse(plan::layout_json(l)); };
  Json runs = Json::array();
  for (const TimedRun& run : report.runs) {
    runs.push_back({{"what", run.what},
                    {"ranks", run.layout.world_size()},
                    {"first_step", run.first_step},
                    {"last_step", run.last_step},
                    {"seconds", run.seconds}});
  }
  Json steps = Json::array();
  for (const auto& [step, loss] : report.expected) {
    const auto at = report.found.find(step);
    const bool known = at != report.found.end();
    steps.push_back(
        {{"step", step},
         {"loss", known ? Json(at->second) : Json(nullptr)},
         {"one_process", loss},
         {"relative", known ? Json(Report::relative(loss, at->second)) : Json(nullptr)}});
  }
  return {{"proved", report.proved()},
          {"config", report.name},
          {"gpus", report.gpus},
          {"planned", layout(made.planned)},
          {"rehearsed", layout(made.first)},
          {"resumed", layout(made.second)},
          {"ranks", made.first.world_size()},
          {"folded", made.folded},
          {"changed", made.changed},
          {"params_total", spec::count_params(made.job.model).total},
          {"runs", runs},
          {"steps", steps},
          {"largest_relative", report.largest()},
          {"relative_max", kRelativeMax},
          {"seconds", report.seconds},
          {"folder", report.kept.empty() ? Json(nullptr) : Json(report.kept)}};
}

std::string steps_text(const Globals& globals, const Report& report) {
  Table table({"STEP", "LOSS", "ONE PROCESS", "RELATIVE", "LAYOUT"});
  for (const auto& [step, loss] : report.expected) {
    const auto at = report.found.find(step);
    if (at == report.found.end()) continue;
    const bool resumed = step >= report.runs[1].first_step;
    table.add({std::to_string(step), fmt::format("{:.7f}", at->second), fmt::format("{:.7f}", loss),
               fmt::format("{:.1e}", Report::relative(loss, at->second)),
               plan::to_string(resumed ? report.made.second : report.made.first)});
  }
  return table.render(globals.color);
}

std::string report_text(const Globals& globals, const Report& report) {
  const plan::Rehearsal& made = report.made;
  std::string text =
      fmt::format("{} on {}: {}\nrehearsed here on {}: {}\n", report.name,
                  report.gpus > 0 ? fmt::format("{} GPUs", with_commas(report.gpus))
                                  : std::string("this machine"),
                  plan::to_string(made.planned), counted(made.first.world_size(), "rank"),
                  plan::to_string(made.first));
  for (const std::string& line : made.folded) text += "  " + line + "\n";
  for (const std::string& line : made.changed) text += "  " + line + "\n";
  text +=
      fmt::format("  the model has {} parameters: {} layers, {} heads, {} experts\n\n",
                  human_count(spec::count_params(made.job.model).total), made.job.model.num_layers,
                  made.job.model.num_heads, made.job.model.moe.num_experts);
  text += steps_text(globals, report) + "\n";
  const int64_t half = report.runs[0].last_step, whole = report.runs[1].last_step;
  if (report.proved()) {
    text += fmt::format(
        "proved: {} on {}, a checkpoint, {} more on {} of another layout;\nevery loss is that of "
        "one process, to {:.1e} (rounding; {:.0e} is allowed)\n",
        counted(half, "step"), counted(made.first.world_size(), "rank"), whole - half,
        counted(made.second.world_size(), "rank"), report.largest(), kRelativeMax);
  } else {
    text +=
        fmt::format("not proved: losses differ from one process's by {:.1e}, {:.0e} is allowed\n",
                    report.largest(), kRelativeMax);
  }
  text += fmt::format("took {}\n", human_duration(report.seconds));
  for (const TimedRun& run : report.runs)
    text += fmt::format("  {:>5}  {}\n", human_duration(run.seconds), run.what);
  if (!report.kept.empty()) text += "kept in " + report.kept + "\n";
  return text;
}

int rehearse(const Globals& globals, const Options& options) {
  LoadedConfig loaded = load_config(globals, options.config, false);
  if (!loaded.ok()) return loaded.exit_code;
  if (!globals.json) print_diagnostics(loaded.warnings);
  const spec::JobSpec& job = loaded.parsed.job;
  const Result<plan::Plan> plan = planned(options, job);
  if (!plan.ok()) return fail(globals, plan.status());
  const auto made = plan::make_rehearsal(job, plan->layout, {options.ranks_max, options.steps});
  if (!made.ok()) return fail(globals, made.status());
  catch_interrupts();
  catch_hang_up();
  const int64_t begin_ns = system_clock().steady_ns();
  const auto folder = RehearsalFolder::create(options.keep, begin_ns + options.timeout_s * kSecond);
  if (!folder.ok()) return fail(globals, folder.status());
  Report report{*made};
  report.gpus = plan->gpus;
  report.name = job.model.name;
  if (options.keep) report.kept = folder->path();
  const Status status = run_all(*folder, options, &report);
  if (!status.ok()) {
    if (options.keep) note("kept in " + folder->path());
    return fail(globals, status);
  }
  report.seconds = static_cast<double>(system_clock().steady_ns() - begin_ns) / kSecond;
  if (globals.json) {
    print_json(report_json(report));
  } else {
    print(report_text(globals, report));
  }
  return static_cast<int>(report.proved() ? Code::kOk : Code::kFailed);
}

}  // namespace

Verb make_rehearse() {
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "rehearse";
  verb.group = "Plan";
  verb.summary = "Run a layout for many GPUs on this machine's cores, small";
  verb.help =
      "Plans FILE as 'dsv3ctl plan' does, makes the model small and keeps its structure and every "
      "axis of the layout, then trains it here as processes: some steps, a checkpoint, as many "
      "from it in another layout, and all of them in one process. The losses must be equal. What "
      "does not fit into --ranks-max is folded (data ranks first), and said.\n"
      "Examples:\n"
      "  dsv3ctl rehearse 671b --gpus 2048\n"
      "  dsv3ctl rehearse 10b --gpus 8 --set parallel.tensor_parallel_size=2 --steps 5\n"
      "Exit code 0 when proved, 1 when losses differ or a rank failed, 6 when there is no plan.";
  verb.options = config_options(&options->config, true);
  verb.options.push_back({"--ranks-max",
                          &options->ranks_max,
                          "Processes at a time (default 16)",
                          false,
                          Completes::kNothing,
                          {},
                          Range{2, 256}});
  verb.options.push_back({"--steps",
                          &options->steps,
                          "Steps before the checkpoint, and after it (default 3)",
                          false,
                          Completes::kNothing,
                          {},
                          Range{1, 1000}});
  verb.options.push_back({"--timeout",
                          &options->timeout_s,
                          "Seconds that all of it may take (default 600)",
                          false,
                          Completes::kNothing,
                          {},
                          Range{1, 86400}});
  verb.options.push_back({"--keep",
                          &options->keep,
                          "Keep the folder with logs, plans and checkpoints",
                          false,
                          Completes::kNothing,
                          {}});
  verb.run = [options](const Globals& globals) {
    const int code = rehearse(globals, *options);
    end_if_hung_up();
    return code;
  };
  return verb;
}

}  // namespace dsv3::cli
