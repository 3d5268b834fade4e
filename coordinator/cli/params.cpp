// dsv3ctl params: exact parameter counts by part, what of them is active, every tensor, and FLOPs
// per token.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/field_value.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kSequenceDefault = 4096;
constexpr int64_t kSequenceMax = 1 << 30;

Json parts_json(const std::array<int64_t, spec::kNumParts>& counts) {
  Json parts;
  for (int p = 0; p < spec::kNumParts; ++p)
    parts[spec::part_name(static_cast<spec::Part>(p))] = counts[static_cast<size_t>(p)];
  return parts;
}

Json counts_json(const spec::ModelSpec& model, const spec::ParamCounts& counts,
                 const spec::FlopsPerToken& flops) {
  return {{"total", counts.total},
          {"active", counts.active},
          {"active_with_embedding", counts.active_with_embedding},
          {"active_non_embedding", counts.active_non_embedding},
          {"by_part", parts_json(counts.by_part)},
          {"active_by_part", parts_json(counts.active_by_part)},
          {"router_bias_buffer", counts.router_bias_buffer},
          {"per_routed_expert", counts.per_routed_expert},
          {"attention_per_layer", counts.attention_per_layer},
          {"kv_cache_bytes_per_token_per_layer", spec::kv_cache_bytes_per_token_per_layer(model)},
          {"tokens_wanted", static_cast<int64_t>(spec::kTokensPerActive) * counts.active},
          {"flops_per_token",
           {{"sequence", flops.sequence},
            {"total", flops.total},
            {"total_with_mtp", flops.total_with_mtp},
            {"attention", flops.attention},
            {"non_causal", flops.non_causal},
            {"megatron_convention", flops.megatron_convention}}}};
}

std::string without_trailing_blanks(const std::string& text) {
  std::string out;
  for (const std::string& line : split(text, '\n'))
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  out.pop_back();
  return out;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out;
  for (const int64_t n : shape) out += (out.empty() ? "" : "x") + std::to_string(n);
  return out;
}

// Trained tensors with equal experts folded, then the routers' biases.
std::vector<spec::TensorFamily> all_families(const spec::ModelSpec& model) {
  std::vector<spec::TensorFamily> families = spec::model_tensor_families(model);
  for (spec::TensorInfo& buffer : spec::model_buffers(model))
    families.push_back({std::move(buffer), 1});
  return families;
}

bool is_buffer(const spec::TensorInfo& tensor) {
  return tensor.init == spec::InitRule::kZeros;
}

Json tensors_json(const spec::ModelSpec& model) {
  Json rows = Json::array();
  for (const auto& [tensor, copies] : all_families(model)) {
    rows.push_back({{"name", tensor.name},
                    {"shape", tensor.shape},
                    {"elements", tensor.num_elements()},
                    {"copies", copies},
                    {"part", spec::part_name(tensor.part)},
                    {"mtp", tensor.in_mtp},
                    {"buffer", is_buffer(tensor)}});
  }
  return rows;
}

// Names are whole, so that they can be searched for: the part of each is only in the JSON.
std::string tensors_text(const Globals& globals, const spec::ModelSpec& model) {
  Table table({"TENSOR", "SHAPE", "ELEMENTS"});
  for (const auto& [tensor, copies] : all_families(model)) {
    const std::string each = human_count(tensor.num_elements());
    table.add({tensor.name, shape_text(tensor.shape),
               is_buffer(tensor) ? each + " (buffer)"
               : copies == 1     ? each
                                 : fmt::format("{} x {}", copies, each)});
  }
  return without_trailing_blanks(table.render(globals.color)) + "\n";
}

double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

// A part of the total, and what of it a token uses.
std::string parts_text(const spec::ParamCounts& counts) {
  std::string out =
      fmt::format("{:<24}{:>20}{:>8}{:>20}{:>8}\n", "by part", "parameters", "", "active", "");
  for (int p = 0; p < spec::kNumParts; ++p) {
    const auto part = static_cast<spec::Part>(p);
    const int64_t count = counts.part(part);
    if (count == 0) continue;
    const std::string name = fmt::format("  {}", spec::part_name(part));
    if (part == spec::Part::kMtp) {
      out += fmt::format("{:<24}{:>20}  not in the totals\n", name, with_commas(count));
      continue;
    }
    out += fmt::format("{:<24}{:>20}{:>6.1f} %", name, with_commas(count),
                       percent(count, counts.total));
    const int64_t active = counts.active_part(part);
    const bool look_up =
        part == spec::Part::kEmbedding && counts.active != counts.active_with_embedding;
    if (look_up) {
      out += "  a look-up\n";
    } else {
      out += fmt::format("{:>20}{:>6.1f} %\n", with_commas(active), percent(active, counts.active));
    }
  }
  if (counts.router_bias_buffer > 0)
    out += fmt::format("{:<24}{:>20}  a buffer, no parameter\n", "router bias",
                       with_commas(counts.router_bias_buffer));
  return out;
}

std::string ratios_text(const spec::ModelSpec& model, const spec::ParamCounts& counts) {
  const spec::MoeSpec& moe = model.moe;
  std::string out;
  if (moe.num_experts > 0) {
    const int64_t experts = counts.active_part(spec::Part::kRoutedExperts) +
                            counts.active_part(spec::Part::kSharedExperts);
    out += fmt::format("experts: {} parameters each, {} of {} per token ({:.1f} %)\n",
                       with_commas(counts.per_routed_expert), moe.num_experts_per_token,
                       moe.num_experts, percent(moe.num_experts_per_token, moe.num_experts));
    out += fmt::format("experts' share of the active: {:.1f} %\n", percent(experts, counts.active));
  }
  out += fmt::format("active / total: {:.1f} %\n", percent(counts.active, counts.total));
  out += fmt::format("attention: {} parameters a layer\n", with_commas(counts.attention_per_layer));
  out +=
      fmt::format("latent: 1/{:.2g} of d_model; KV cache {} bytes per token and layer\n",
                  static_cast<double>(model.d_model) / static_cast<double>(model.mla.kv_lora_rank),
                  spec::kv_cache_bytes_per_token_per_layer(model));
  return out;
}

std::string counts_text(const spec::ModelSpec& model, const spec::ParamCounts& counts,
                        const spec::FlopsPerToken& flops) {
  std::string out;
  const auto line = [&](std::string_view name, int64_t value, std::string_view remark) {
    out += fmt::format("{:<24}{:>20}  {}\n", name, with_commas(value), remark);
  };
  line("total", counts.total, "without MTP, as DeepSeek counts");
  line("active per token", counts.active, "the default; DeepSeek's: no table");
  line("  with the table", counts.active_with_embedding, "as Mistral counts");
  line("  without both", counts.active_non_embedding, "neither embedding nor head");
  out += parts_text(counts) + ratios_text(model, counts);
  const double wanted = spec::kTokensPerActive * static_cast<double>(counts.active);
  out += fmt::format("tokens: {} at {:.0f} per active parameter, the rule of thumb\n",
                     human_count(static_cast<int64_t>(wanted)), spec::kTokensPerActive);
  out += fmt::format("training FLOPs per token at sequence {}\n", flops.sequence);
  out += fmt::format("  causal                {:>18.3f} GF  attention core {:.1f} %\n",
                     flops.total / 1e9, 100 * flops.attention / flops.total);
  if (model.mtp_layers > 0)
    out += fmt::format("  causal, with MTP      {:>18.3f} GF\n", flops.total_with_mtp / 1e9);
  out += fmt::format("  not causal            {:>18.3f} GF\n", flops.non_causal / 1e9);
  out += fmt::format("  Megatron's convention {:>18.3f} GF\n", flops.megatron_convention / 1e9);
  return out;
}

// "8192" or "64K".
Result<int64_t> sequence_of(const std::string& word) {
  if (word.empty()) return kSequenceDefault;
  spec::Node node;
  node.text = word;
  std::string why;
  const auto value = spec::parse_integer(node, true, &why);
  if (value && *value >= 1 && *value <= kSequenceMax) return *value;
  return Status(Code::kInvalid,
                fmt::format("--sequence: '{}' is not a number from 1 to {}", word, kSequenceMax),
                why.empty() ? "for example 8192, or 64K" : why);
}

}  // namespace

Verb make_params() {
  struct Options {
    ConfigOptions config;
    std::string sequence;
    bool tensors = false;
  };
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "params";
  verb.group = "Plan";
  verb.summary = "Exact parameter counts by part, active counts, FLOPs per token";
  verb.help =
      "Examples:\n"
      "  dsv3ctl params 671b\n"
      "  dsv3ctl params v2-lite --tensors\n"
      "  dsv3ctl params model/config.json --sequence 64K --json";
  verb.options = config_options(&options->config, false);
  verb.options.push_back({"--sequence", &options->sequence,
                          "Tokens of a sequence for the FLOPs: 8192, 64K (default 4096)"});
  verb.options.push_back({"--tensors", &options->tensors,
                          "Every tensor: name, shape, elements; equal experts in one line"});
  verb.run = [options](const Globals& globals) {
    const LoadedConfig loaded = load_config(globals, options->config, false);
    if (!loaded.ok()) return loaded.exit_code;
    const auto sequence = sequence_of(options->sequence);
    if (!sequence.ok()) return fail(globals, sequence.status());
    const spec::ModelSpec& model = loaded.parsed.job.model;
    const spec::ParamCounts counts = spec::count_params(model);
    const spec::FlopsPerToken flops = spec::flops_per_token(model, *sequence);
    if (globals.json) {
      Json object = counts_json(model, counts, flops);
      if (options->tensors) object["tensors"] = tensors_json(model);
      print_json(object);
    } else {
      if (options->tensors) print(tensors_text(globals, model));
      print(without_trailing_blanks(counts_text(model, counts, flops)));
    }
    return 0;
  };
  return verb;
}

}  // namespace dsv3::cli
