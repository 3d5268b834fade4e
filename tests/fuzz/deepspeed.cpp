// Fuzzes a DeepSpeed json, laid over a small configuration as with --deepspeed.
//
// Law (parse.h, render.h): what is valid reads back from its canonical YAML as the same job, and
// the layer says what it changed.
#include "base/check.h"
#include "configs/spec/parse.h"
#include "configs/spec/render.h"
#include "configs/spec/validate.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {
namespace {

constexpr std::string_view kBelow = R"(
model: {vocab_size: 512, num_layers: 2, d_model: 64, num_heads: 2, dense_intermediate_size: 128,
  max_context_length: 64, mla: {kv_lora_rank: 16}, moe: {num_experts: 8, num_experts_per_token: 2,
  expert_intermediate_size: 32}}
parallel: {tensor_parallel_size: 1, pipeline_parallel_size: 1, expert_parallel_size: 1,
  data_parallel_size: 2}
training: {max_steps: 10, global_batch_size: 4, seq_length: 64}
data: {path: text}
)";

}  // namespace

Verdict try_deepspeed(std::string_view bytes) {
  const spec::LayerText layer{"ds_config.json", "ds_config.json", std::string(bytes),
                              spec::Format::kDeepSpeed};
  const spec::Parsed parsed = spec::parse(kBelow, "below.yaml", spec::Format::kYaml, {{layer}, {}});
  for (const spec::Diagnostic& fault : parsed.diagnostics) (void)spec::to_string(fault);
  if (!parsed.ok()) return Verdict::kRefused;
  const auto faults = spec::validate(parsed.job, {.origins = &parsed.origins});
  if (spec::has_errors(faults)) return Verdict::kRefused;
  DSV3_CHECK(parsed.applied.size() == 1);
  const spec::Parsed again = spec::parse_yaml(spec::to_yaml(parsed.job), "again.yaml");
  DSV3_CHECK(again.ok(), spec::to_status(again.diagnostics).to_string());
  DSV3_CHECK(again.job == parsed.job, "the canonical YAML is another job");
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
