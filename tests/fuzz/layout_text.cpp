// Fuzzes a layout as people write it after --compare.
//
// Law (compare.h): what is accepted has sizes that multiply to the ranks, and its text is the
// same layout.
#include "base/check.h"
#include "cluster/plan/compare.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_layout_text(std::string_view bytes) {
  spec::JobSpec job;
  job.training.global_batch_size = 64;
  const auto layout = plan::parse_layout(std::string(bytes), job, 64);
  if (!layout.ok()) return Verdict::kRefused;
  DSV3_CHECK(layout->world_size() == 64);
  const std::string text = plan::to_string(*layout);
  const auto again = plan::parse_layout(text, job, 64);
  DSV3_CHECK(again.ok(), again.status().to_string());
  DSV3_CHECK(plan::to_string(*again) == text, text);
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
