// dsv3ctl plan: does a job fit N GPUs, in which layout, with what memory ledger; nothing is
// started.
#include "cluster/plan/plan.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cluster/inventory/inventory.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

std::string plan_text(const plan::Plan& plan) {
  std::string out = fmt::format("layout       {}\n", plan::to_string(plan.layout));
  out += fmt::format("fits         {}\n", plan.feasible ? "yes" : "no: " + plan.reason);
  if (!plan.feasible && plan.gpus_needed) {
    out += fmt::format("would need   {} x {} GB GPUs\n", *plan.gpus_needed, plan.gpu_label_gb);
  }
  out += fmt::format("runs today   {}\n", plan.runnable ? "yes" : "no");
  for (const std::string& reason : plan.not_runnable)
    out += fmt::format("             {}\n", reason);
  out += fmt::format("memory       {} of {} on rank {}\n",
                     human_bytes(plan.predicted.peak_memory_bytes), human_bytes(plan.memory_bytes),
                     plan.worst_rank);
  for (const plan::LedgerLine& line : plan.ledger) {
    if (line.bytes > 0) out += fmt::format("  {:<34}{:>12}\n", line.name, human_bytes(line.bytes));
  }
  return out;
}

}  // namespace

Verb make_plan() {
  auto options = std::make_shared<ConfigOptions>();
  Verb verb;
  verb.name = "plan";
  verb.group = "Plan";
  verb.summary = "Does it fit: layout, memory by term, what it would need";
  verb.help =
      "Without --gpus it plans for this machine.\n"
      "Examples:\n"
      "  dsv3ctl plan demo\n"
      "  dsv3ctl plan 10b --gpus 8 --gpu-memory 80\n"
      "Exit code 0 when it fits, 6 when it does not (the plan is printed all the same).";
  verb.options = config_options(options.get(), true);
  verb.run = [options](const Globals& globals) {
    const LoadedConfig loaded = load_config(globals, *options, false);
    if (!loaded.ok()) return loaded.exit_code;
    if (!globals.json) print_diagnostics(loaded.warnings);
    const plan::ClusterSpec cluster =
        options->gpus > 0
            ? plan::cluster_of_gpus(options->gpus,
                                    options->gpu_memory_gb > 0 ? options->gpu_memory_gb : 80,
                                    options->gpu)
            : inventory::local_cluster();
    const plan::Plan plan = plan::plan(loaded.parsed.job, cluster);
    if (globals.json) {
      print(plan::plan_json(plan) + "\n");
    } else {
      print(plan_text(plan));
    }
    return static_cast<int>(plan.feasible ? Code::kOk : Code::kDoesNotFit);
  };
  return verb;
}

}  // namespace dsv3::cli
