// dsv3ctl plan: does a job fit N GPUs, in which layout, with what memory ledger; nothing is
// started.
#include "cluster/plan/plan.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cluster/inventory/inventory.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/hostfile_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

constexpr int kColumn = 13;

std::string line(std::string_view name, const std::string& text) {
  return fmt::format("{:<{}}{}\n", name, kColumn, wrap(text, kColumn, help_columns() - kColumn));
}

std::string memory_text(const plan::Plan& plan) {
  const std::string peak = human_bytes(plan.predicted.peak_memory_bytes);
  if (plan.memory_bytes == 0) return peak + " on one GPU, and there is none";
  const std::string there = human_bytes(plan.memory_bytes);
  if (plan.ranks_per_device > 1)
    return fmt::format("{} on rank {}, {} ranks share {}", peak, plan.worst_rank,
                       plan.ranks_per_device, there);
  return fmt::format("{} of {} on rank {}", peak, there, plan.worst_rank);
}

std::string plan_text(const plan::Plan& plan) {
  std::string out = line("layout", plan::to_string(plan.layout));
  out += line("fits", plan.feasible ? "yes" : "no: " + plan.reason);
  if (const std::string holder = plan::would_hold(plan); !holder.empty())
    out += line("would need", holder);
  out += line("runs today", plan.runnable ? "yes" : "no");
  for (const std::string& reason : plan.not_runnable) out += line("", "- " + reason);
  out += line("memory", memory_text(plan));
  for (const plan::LedgerLine& entry : plan.ledger) {
    if (entry.bytes > 0)
      out += fmt::format("  {:<34}{:>12}\n", entry.name, human_bytes(entry.bytes));
  }
  return out;
}

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

}  // namespace

Verb make_plan() {
  auto options = std::make_shared<ConfigOptions>();
  auto hostfile = std::make_shared<HostfileOptions>();
  Verb verb;
  verb.name = "plan";
  verb.group = "Plan";
  verb.summary = "Does it fit: layout, memory by term, what it would need";
  verb.help =
      "Without --gpus it plans for this machine.\n"
      "Examples:\n"
      "  dsv3ctl plan demo\n"
      "  dsv3ctl plan 10b --gpus 8 --gpu-memory 80\n"
      "  dsv3ctl plan 10b --hostfile hosts --exclude worker-2 --gpu-memory 80\n"
      "Then 'dsv3ctl submit FILE' trains it here.\n"
      "Exit code 0 when it fits, 6 when it does not (the plan is printed all the same).";
  verb.options = config_options(options.get(), true);
  for (Option& option : hostfile_options(hostfile.get())) verb.options.push_back(std::move(option));
  verb.run = [options, hostfile](const Globals& globals) {
    const auto gpu = known_gpu(options->gpu);
    if (!gpu.ok()) return fail(globals, gpu.status());
    const double label_gb = memory_gb(*options, *gpu);
    const auto hosts = read_cluster(*hostfile, options->gpus, label_gb, *gpu);
    if (!hosts.ok()) return fail(globals, hosts.status());
    if (Status status = check_machine(*options, *gpu, hosts->has_value()); !status.ok())
      return fail(globals, status);
    if (*hosts) options->gpus = plan::count_devices(**hosts, plan::DeviceKind::kCuda);
    const LoadedConfig loaded = load_config(globals, *options, false);
    if (!loaded.ok()) return loaded.exit_code;
    if (!globals.json) print_diagnostics(loaded.warnings);
    const plan::ClusterSpec cluster = *hosts ? **hosts
                                      : options->gpus > 0
                                          ? plan::cluster_of_gpus(options->gpus, label_gb, *gpu)
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
