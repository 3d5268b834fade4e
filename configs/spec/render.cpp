// Canonical YAML, explanations and the README, all by walking the field table.
#include "configs/spec/render.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/text.h"
#include "configs/spec/field_table.h"

namespace dsv3::spec {
namespace {

std::string_view leaf(std::string_view key) {
  return key.substr(key.rfind('.') + 1);
}
std::string_view parent(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? std::string_view{} : key.substr(0, dot);
}
int depth(std::string_view path) {
  return static_cast<int>(std::count(path.begin(), path.end(), '.'));
}

void section_yaml(const Section& section, const JobSpec& job, std::string& out) {
  const std::string indent(2 * static_cast<size_t>(depth(section.path)), ' ');
  out += fmt::format("{}{}:\n", indent, leaf(section.path));
  for (const Field& f : field_table()) {
    if (parent(f.key) != section.path) continue;
    // A key that may be absent without being null is left out when it is.
    if (f.key == "model.num_key_value_heads" && !job.model.num_key_value_heads) continue;
    out += fmt::format("{}  {}: {}\n", indent, leaf(f.key), value_text(f, job));
  }
}

// The other spellings, most useful first.
std::string alias_list(const Field& f) {
  std::string out;
  const auto add = [&](std::string_view name) {
    if (name != leaf(f.key)) out += (out.empty() ? "" : ", ") + std::string(name);
  };
  for (const std::string_view name : f.bare) {
    // Those of the columns are not said again.
    std::string flag = "--" + std::string(name);
    std::replace(flag.begin(), flag.end(), '_', '-');
    if (name != f.hf_name && flag != f.megatron_name && name != f.deepspeed_name) add(name);
  }
  for (const Alias& a : f.aliases) {
    if (a.path != f.hf_name && a.path != f.deepspeed_name) add(a.path);
  }
  return out;
}

std::string explain_field(const Field& f, std::string_view asked) {
  std::string out = fmt::format("{}\n  {}\n  type:    {}\n", f.key, f.doc, type_name(f));
  if (const std::string range = range_text(f); !range.empty())
    out += fmt::format("  range:   {}\n", range);
  if (!f.unit.empty()) out += fmt::format("  unit:    {}\n", f.unit);
  out += fmt::format("  default: {}\n", default_text(f));
  if (!f.hf_default.empty()) out += fmt::format("  absent in a config.json: {}\n", f.hf_default);
  std::string names;
  const auto named = [&](const char* whose, std::string_view name) {
    if (!name.empty()) names += fmt::format("{}{} {}", names.empty() ? "" : ", ", whose, name);
  };
  named("Hugging Face", f.hf_name);
  named("Megatron", f.megatron_name);
  named("DeepSpeed", f.deepspeed_name);
  if (!names.empty()) out += fmt::format("  names:   {}\n", names);
  if (const std::string aliases = alias_list(f); !aliases.empty())
    out += fmt::format("  also:    {}\n", aliases);
  if (asked != f.key) out += fmt::format("  ('{}' is another spelling of it)\n", asked);
  return out;
}

std::string explain_section(std::string_view path) {
  std::string out;
  for (const Section& s : section_table()) {
    if (s.path == path) out += fmt::format("{}: {}\n", s.path, s.doc);
    if (parent(s.path) == path)
      out += fmt::format("  {:<28} (section) {}\n", std::string(leaf(s.path)) + ":", s.doc);
  }
  for (const Field& f : field_table()) {
    if (parent(f.key) == path) out += fmt::format("  {:<28} {}\n", leaf(f.key), f.doc);
  }
  return out;
}

constexpr const char* kReadmeHead =
    R"(<!-- Generated from configs/spec/fields_*.cpp. To renew it:
     DSV3_UPDATE_README=1 build/dev/test-bin/unit_spec --gtest_filter='ConfigsReadme.*'   -->
# Configurations

Each `*.yaml` here is a preset: `dsv3ctl configs` lists them, `dsv3ctl configs show 15b` prints one, and wherever a command
takes a FILE the bare name of a preset will do, as will a path or a Hugging Face `config.json`. To make your own, copy one,
or change a preset in passing: `dsv3ctl submit small --set training.max_steps=100`.

- Every key is checked. An unknown key, a wrong type, a value out of range or a key given twice is an error with
  `file:line:column`, and all errors of a file are shown at once. `dsv3ctl explain KEY` says what a key means.
- Sizes count what their name says: `global_batch_size` is in sequences, not tokens.
- A tensor, pipeline, expert or data parallel size that is left out or -1 is the planner's choice.
- YAML anchors, aliases, tags and merge keys are refused; numbers are decimal (`010` is refused, `1e-4` is fine, `8K` in lengths
  is 8192).
- Other spellings (`hidden_size`, `d_latent`, `--moe-router-topk` as `moe_router_topk`) are accepted where their programs put them:
  at the top level, in the key's section, and for model keys directly under `model`. In a `config.json` absent keys take the
  defaults of transformers' DeepseekV3Config, where `model_type`, `architectures` or a `kv_lora_rank` says that it is DeepSeek's
  architecture; any other family's file is refused (UNSUPPORTED_MODEL). A name with a remark behind it means something else there: it is
  accepted only where the last column has it, with our meaning.
- `micro_batch_size`, `context_parallel_size` and `expert_tensor_parallel_size` are 1 when left out and the planner's choice at -1,
  `pipeline_schedule` at `auto`. `zero_stage` and `recompute` are the least the planner takes.
- Presets go by other names too: `deepseek_v3_15b`, `deepseek_v3_15b.yaml`, `deepseek_v3_base` (671b), `deepseek_v3_small`;
  capital letters don't matter.
- A file that dsv3ctl wrote holds every key and opens with a comment that says so: no warning is given of those that change nothing.

Three things can be laid over a configuration, in this order, and each prints what it changes:

    dsv3ctl validate 671b --deepspeed deepspeed_config.json   a DeepSpeed json: batch, optimizer, schedule, ZeRO, precision
    dsv3ctl plan 671b --overlay reduce-memory                 overlays/*.yaml here, or a YAML file of yours; repeatable
    dsv3ctl submit small --set training.max_steps=100         single keys; repeatable

An overlay that raises `d_model`, `num_layers` or `num_experts` is told of (OVERLAY_ENLARGES): it was made for a larger model.
In a DeepSpeed json "auto" leaves what the configuration says; what has no effect here is named with the reason, what would train
something else is refused. Gradient accumulation follows from the batch: one that contradicts it is an error.
`dsv3ctl configs diff A B` shows what sets two configurations apart, `dsv3ctl configs export NAME --format hf` writes a config.json.

The sizes of the presets were chosen so that what the counter computes is near the size in the name; each file says where its
numbers come from. Its line "Fits" counts the GPUs (N x GB) that `dsv3ctl plan` needs at least, with optimizer moments and gradients in
fp32 or, where that takes fewer, in bf16; beyond 32 GPUs in whole nodes of 8.
)";

}  // namespace

std::string to_yaml(const JobSpec& job) {
  std::string out(kWrittenMark);
  for (const Section& section : section_table()) section_yaml(section, job, out);
  return out;
}

Result<std::string> explain(const std::string& key) {
  if (const Resolved r = resolve_key(key); r.field != nullptr) return explain_field(*r.field, key);
  for (const Section& s : section_table()) {
    if (s.path == key) return explain_section(key);
  }
  if (key.empty()) return explain_section("");
  // A last part alone is enough: every field that has it in one of its spellings.
  std::string found;
  std::vector<std::string_view> names;
  for (const Field& f : field_table()) {
    names.push_back(f.key);
    names.push_back(leaf(f.key));
    bool same = leaf(f.key) == key;
    for (const Alias& a : f.aliases) same = same || leaf(a.path) == key;
    if (same) found += (found.empty() ? "" : "\n") + explain_field(f, f.key);
  }
  for (const Section& s : section_table()) {
    names.push_back(s.path);
    if (leaf(s.path) == key) found += explain_section(s.path);
  }
  if (!found.empty()) return found;
  const std::string near = key.size() <= 64 ? did_you_mean(key, names) : "";
  return Status(Code::kNotFound, fmt::format("there is no key {}", key.substr(0, 200)),
                near.empty() ? "dsv3ctl explain lists the sections"
                             : fmt::format("did you mean '{}'?", near));
}

std::string configs_readme() {
  std::string out = kReadmeHead;
  const auto cell = [](std::string text) {
    for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2)
      text.insert(at, "\\");
    return text;
  };
  // "--split (99,1,0)" → `--split` (99,1,0)
  const auto code = [](std::string_view name) {
    if (name.empty()) return std::string();
    const size_t end = std::min(name.find(' '), name.size());
    return fmt::format("`{}`{}", name.substr(0, end), name.substr(end));
  };
  for (const Section& s : section_table()) {
    out += fmt::format(
        "\n## {}\n\n{}\n\n| key | type | range | default | unit | meaning | Hugging Face | "
        "Megatron | "
        "DeepSpeed | also |\n|---|---|---|---|---|---|---|---|---|---|\n",
        s.path, s.doc);
    for (const Field& f : field_table()) {
      if (parent(f.key) != s.path) continue;
      out += fmt::format("| `{}` | {} | {} | `{}` | {} | {} | {} | {} | {} | {} |\n", leaf(f.key),
                         type_name(f), cell(range_text(f)), default_text(f), f.unit,
                         cell(std::string(f.doc)), code(f.hf_name), code(f.megatron_name),
                         code(f.deepspeed_name), cell(alias_list(f)));
    }
  }
  return out;
}

}  // namespace dsv3::spec
