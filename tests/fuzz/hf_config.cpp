// Fuzzes a Hugging Face config.json as a job's configuration (old, new and foreign keys).
//
// Law (render.h): what is valid reads back from its canonical YAML as the same job.
#include "base/check.h"
#include "configs/spec/counts.h"
#include "configs/spec/parse.h"
#include "configs/spec/render.h"
#include "configs/spec/validate.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_hf_config(std::string_view bytes) {
  const spec::Parsed parsed = spec::parse_json(bytes, "models/tiny/config.json");
  for (const spec::Diagnostic& fault : parsed.diagnostics) (void)spec::to_string(fault);
  if (!parsed.ok()) return Verdict::kRefused;
  const auto faults = spec::validate(parsed.job, {.origins = &parsed.origins});
  if (spec::has_errors(faults)) return Verdict::kRefused;
  DSV3_CHECK(spec::count_params(parsed.job.model).total >= 0);
  const spec::Parsed again = spec::parse_yaml(spec::to_yaml(parsed.job), "again.yaml");
  DSV3_CHECK(again.ok(), spec::to_status(again.diagnostics).to_string());
  DSV3_CHECK(again.job == parsed.job, "the canonical YAML is another job");
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
