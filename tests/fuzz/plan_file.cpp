// Fuzzes a plan.json, as a worker and `--compare` read it.
//
// Law (plan.h): what is accepted is written and read back as the same bytes, and its layout as text
// can be printed.
#include "base/check.h"
#include "cluster/plan/plan.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_plan_file(std::string_view bytes) {
  const auto plan = plan::parse_plan(std::string(bytes));
  if (!plan.ok()) return Verdict::kRefused;
  (void)plan::to_string(plan->layout);
  (void)plan::settled({}, *plan);
  const std::string text = plan::plan_json(*plan);
  const auto again = plan::parse_plan(text);
  DSV3_CHECK(again.ok(), again.status().to_string());
  DSV3_CHECK(plan::plan_json(*again) == text);
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
