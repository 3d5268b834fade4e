// Fuzzes a calibration file, and predicts with what it holds.
//
// Laws (calibration.h): what is accepted is written and read back as the same bytes; whatever was
// measured, no op takes a time that is negative, infinite or no number.
#include "cluster/plan/calibration.h"

#include <cmath>
#include <memory>

#include "base/check.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_calibration(std::string_view bytes) {
  auto parsed = plan::parse_calibration(std::string(bytes));
  if (!parsed.ok()) return Verdict::kRefused;
  const std::string text = plan::calibration_json(*parsed);
  const auto again = plan::parse_calibration(text);
  DSV3_CHECK(again.ok(), again.status().to_string());
  DSV3_CHECK(plan::calibration_json(*again) == text);
  const auto shared = std::make_shared<const plan::Calibration>(std::move(*parsed));
  spec::JobSpec job;
  job.model = {.vocab_size = 512,
               .num_layers = 2,
               .d_model = 64,
               .num_heads = 2,
               .dense_intermediate_size = 128,
               .max_context_length = 64};
  job.model.mla.kv_lora_rank = 16;
  job.model.moe = {.num_experts = 8, .num_experts_per_token = 2, .expert_intermediate_size = 32};
  job.training.seq_length = 64;
  for (const char* dtype : {"fp32", "bf16"}) {
    job.training.dtype = dtype;
    for (const int64_t ranks : {1, 2, 3}) {
      const auto device = plan::calibrated_device_model(shared, dtype, ranks);
      for (const plan::LayerKind kind : {plan::LayerKind::kDense, plan::LayerKind::kMoe}) {
        const double seconds =
            plan::seconds(device, plan::layer_backward_ops(job, plan::Layout{}, kind));
        DSV3_CHECK(std::isfinite(seconds) && seconds >= 0);
      }
    }
  }
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
