// Fuzzes a job's YAML: parsing, overrides, validation, counts, and writing it out again.
//
// Law (render.h): what is valid reads back from its canonical YAML as the same job.
#include <string>
#include <vector>

#include "base/check.h"
#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/parse.h"
#include "configs/spec/render.h"
#include "configs/spec/validate.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_yaml_spec(std::string_view bytes) {
  constexpr std::string_view kSet = "#set ";
  std::vector<std::string> overrides;
  for (const std::string& line : split(bytes, '\n')) {
    if (line.starts_with(kSet) && overrides.size() < 8) overrides.push_back(line.substr(5));
  }
  const spec::Parsed parsed = spec::parse_yaml(bytes, "job.yaml", overrides);
  for (const spec::Diagnostic& fault : parsed.diagnostics) (void)spec::to_string(fault);
  if (!parsed.ok()) {
    DSV3_CHECK(!spec::to_status(parsed.diagnostics).ok());
    return Verdict::kRefused;
  }
  const auto faults =
      spec::validate(parsed.job, {.gpus = 8, .gpu_name = "h100", .origins = &parsed.origins});
  for (const spec::Diagnostic& fault : faults) (void)spec::to_string(fault);
  if (spec::has_errors(spec::validate(parsed.job, {.for_submit = true}))) return Verdict::kRefused;
  DSV3_CHECK(spec::count_params(parsed.job.model).total >= 0);
  (void)spec::flops_per_token(parsed.job.model, parsed.job.training.seq_length);
  const spec::Parsed again = spec::parse_yaml(spec::to_yaml(parsed.job), "again.yaml");
  DSV3_CHECK(again.ok(), spec::to_status(again.diagnostics).to_string());
  DSV3_CHECK(again.job == parsed.job, "the canonical YAML is another job");
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
