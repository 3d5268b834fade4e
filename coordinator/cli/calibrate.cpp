// dsv3ctl calibrate: measures this machine, so that step times can be predicted. The work is the
// worker's.
#include <fmt/format.h>

#include <memory>

#include "base/file.h"
#include "cluster/inventory/inventory.h"
#include "cluster/plan/calibration.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/run_worker.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

struct Words {
  std::string out;
  std::string ranks;
  bool quick = false;
};

// One rank with all cores, and two that share them, where there are two.
std::string usual_ranks(int cores) {
  return cores >= 2 ? "1,2" : "1";
}

int calibrate(const Globals& globals, const Words& words) {
  const inventory::MachineFacts machine = inventory::probe_machine();
  std::string out = words.out;
  if (out.empty()) {
    if (const Status made = make_dirs(globals.state_dir); !made.ok()) return fail(globals, made);
    out = globals.state_dir + "/" + std::string(plan::kCalibrationFile);
  }
  std::vector<std::string> argv = {
      "--out=" + out,
      "--machine=" + (machine.cpu_name.empty() ? machine.hostname : machine.cpu_name),
      fmt::format("--cores={}", machine.cores),
      "--ranks=" + (words.ranks.empty() ? usual_ranks(machine.cores) : words.ranks)};
  if (words.quick) argv.emplace_back("--quick");
  return run_worker(globals, "calibrate", argv);
}

}  // namespace

Verb make_calibrate() {
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "calibrate";
  verb.group = "Plan";
  verb.summary = "Measure this machine, so that step times can be predicted";
  verb.help =
      "Times the ops of training by their sizes (products, attention, rows, the optimizer) in both "
      "dtypes, and sums between ranks; up to a minute for each number of ranks. 'dsv3ctl plan' "
      "then predicts the step time of jobs on this machine's CPUs. Nothing else should run "
      "meanwhile.\n"
      "Jobs are never measured for it. Measure again after a change of machine or version.\n"
      "Examples:\n"
      "  dsv3ctl calibrate\n"
      "  dsv3ctl calibrate --ranks 1,2,4\n"
      "  dsv3ctl calibrate --quick --out /tmp/rough.json\n"
      "--json: {\"path\", \"machine\", \"date\", \"cores\", \"sets\": [{\"ranks\", \"threads\", "
      "\"peak_bf16_flops_per_s\", \"peak_f32_flops_per_s\", \"copy_bytes_per_s\", \"in_step_f32\", "
      "\"call_f32_s\", "
      "\"in_step_bf16\", \"call_bf16_s\", \"points\"}]}.";
  verb.options = {
      {"--out", &words->out, "File to write (default: calibration.json in the state directory)"},
      {"--ranks", &words->ranks,
       "How many ranks share the machine, several with commas between (default 1,2)"},
      {"--quick", &words->quick, "Fewer sizes: some seconds, rougher"}};
  verb.run = [words](const Globals& globals) { return calibrate(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
