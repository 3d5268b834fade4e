// What every verb that reads a configuration takes: FILE, what is laid over it (--deepspeed,
// --overlay, --set), and the machine it is asked about.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "configs/spec/parse.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {

// What --gpus and --gpu-memory accept; 16,384 GPUs trained the largest known dense model.
inline constexpr Range kGpus{1, 65536};
inline constexpr Range kGpuMemoryGb{0.001, 1e6};

struct ConfigOptions {
  std::string file;                    // YAML file, preset name or Hugging Face config.json
  std::vector<std::string> overlays;   // names or files, the last wins
  std::vector<std::string> deepspeed;  // a DeepSpeed json, at most one
  std::vector<std::string> set;        // "a.b=c", over both
  int64_t gpus = 0;
  double gpu_memory_gb = 0;
  std::vector<std::string> gpu;  // what --gpu was given: one_text(), known_gpu()
};

// The options FILE, --overlay, --deepspeed and --set; with `machine`, --gpus, --gpu-memory and
// --gpu too. `target` must outlive the verb.
std::vector<Option> config_options(ConfigOptions* target, bool machine);

// The word given for an option, "" where there is none; kInvalid where it is empty or given twice.
Result<std::string> one_text(std::string_view option, const std::vector<std::string>& given);
// As one_text() of --gpu; kInvalid, with the nearest name, for a GPU that is not known.
Result<std::string> known_gpu(const std::vector<std::string>& given);
// Memory of a GPU of that name in GB: the table's, else what the name says itself ("a100-80"); 0
// where neither does.
int label_gb_of(const std::string& gpu);
// --gpu and --gpu-memory together: kInvalid where a card of that name has another size. Ok where
// either says nothing ("" and 0).
Status check_gpu_memory(const std::string& gpu, double label_gb);

// The configuration that the options name, with its layers. kInvalid where --deepspeed is given
// twice; else as spec::load().
Result<spec::Parsed> load_layers(const ConfigOptions& options);
// What the layers changed, a line each on stderr: "overlay max-throughput: training.dtype: bf16 ->
// fp8".
void print_applied(const std::vector<spec::Applied>& applied);
// The same as [{"name", "changes": [{"key", "from", "to"}]}].
nlohmann::ordered_json to_json(const std::vector<spec::Applied>& applied);

// One DIAG object of CLI.md.
nlohmann::ordered_json to_json(const spec::Diagnostic& diagnostic);
// Prints every diagnostic as a line on stderr.
void print_diagnostics(const std::vector<spec::Diagnostic>& diagnostics);

// A configuration that parsed and validated, with its warnings. On failure every error has been
// printed (as lines, or as the error object with --json) and `exit_code` says how to end.
struct LoadedConfig {
  spec::Parsed parsed;
  std::vector<spec::Diagnostic> warnings;
  int exit_code = 0;
  bool ok() const { return exit_code == 0; }
};
LoadedConfig load_config(const Globals& globals, const ConfigOptions& options, bool for_submit);

}  // namespace dsv3::cli
