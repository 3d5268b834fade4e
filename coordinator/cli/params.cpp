// dsv3ctl params: exact parameter counts by part, active counts in each convention, and FLOPs per
// token.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "configs/spec/counts.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

Json counts_json(const spec::ParamCounts& counts, const spec::FlopsPerToken& flops) {
  Json parts;
  for (int p = 0; p < spec::kNumParts; ++p)
    parts[spec::part_name(static_cast<spec::Part>(p))] = counts.by_part[static_cast<size_t>(p)];
  return {{"total", counts.total},
          {"active", counts.active},
          {"active_with_embedding", counts.active_with_embedding},
          {"active_non_embedding", counts.active_non_embedding},
          {"by_part", parts},
          {"router_bias_buffer", counts.router_bias_buffer},
          {"flops_per_token",
           {{"sequence", flops.sequence},
            {"total", flops.total},
            {"total_with_mtp", flops.total_with_mtp},
            {"attention", flops.attention},
            {"non_causal", flops.non_causal},
            {"megatron_convention", flops.megatron_convention}}}};
}

std::string counts_text(const spec::ParamCounts& counts, const spec::FlopsPerToken& flops) {
  std::string out;
  const auto line = [&](std::string_view name, int64_t value, std::string_view remark) {
    out += fmt::format("{:<24}{:>20}  {}\n", name, with_commas(value), remark);
  };
  line("total", counts.total, "(without MTP)");
  line("active per token", counts.active, "DeepSeek's: no embedding table");
  line("  with the table", counts.active_with_embedding, "Mistral's");
  line("  without both", counts.active_non_embedding, "neither embedding nor head");
  out += "by part\n";
  for (int p = 0; p < spec::kNumParts; ++p) {
    const int64_t count = counts.by_part[static_cast<size_t>(p)];
    if (count == 0) continue;
    const auto part = static_cast<spec::Part>(p);
    line(fmt::format("  {}", spec::part_name(part)), count,
         part == spec::Part::kMtp ? "not in the total"
                                  : fmt::format("{:.1f} %", 100.0 * static_cast<double>(count) /
                                                                static_cast<double>(counts.total)));
  }
  if (counts.router_bias_buffer > 0)
    line("router bias (buffer)", counts.router_bias_buffer, "not trained by the optimizer");
  out += fmt::format("training FLOPs per token at sequence {}\n", flops.sequence);
  out += fmt::format("  causal                {:>18.3f} GF  attention core {:.1f} %\n",
                     flops.total / 1e9, 100 * flops.attention / flops.total);
  out += fmt::format("  not causal            {:>18.3f} GF\n", flops.non_causal / 1e9);
  out += fmt::format("  Megatron's convention {:>18.3f} GF\n", flops.megatron_convention / 1e9);
  return out;
}

}  // namespace

Verb make_params() {
  struct Options {
    ConfigOptions config;
    int64_t sequence = 0;
  };
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "params";
  verb.group = "Plan";
  verb.summary = "Exact parameter counts by part, active counts, FLOPs per token";
  verb.help =
      "Examples:\n"
      "  dsv3ctl params 671b\n"
      "  dsv3ctl params model/config.json --sequence 8192 --json";
  verb.options = config_options(&options->config, false);
  verb.options.push_back({"--sequence",
                          &options->sequence,
                          "Tokens of a sequence for the FLOPs (default 4096)",
                          false,
                          Completes::kNothing,
                          {},
                          Range{1, 1 << 30}});
  verb.run = [options](const Globals& globals) {
    const LoadedConfig loaded = load_config(globals, options->config, false);
    if (!loaded.ok()) return loaded.exit_code;
    const spec::ModelSpec& model = loaded.parsed.job.model;
    const spec::ParamCounts counts = spec::count_params(model);
    const spec::FlopsPerToken flops =
        spec::flops_per_token(model, options->sequence > 0 ? options->sequence : 4096);
    if (globals.json) {
      print_json(counts_json(counts, flops));
    } else {
      print(counts_text(counts, flops));
    }
    return 0;
  };
  return verb;
}

}  // namespace dsv3::cli
