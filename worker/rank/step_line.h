// The lines that a rank prints: banner, one a step, validation, checkpoint. Pure text.
//
// Law: a line lets its reader recompute the claim: MFU is printed with its peak and its convention,
// memory in GiB or MiB.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/train/trainer.h"

namespace dsv3::rank {

// Turns reports into lines; remembers what they need from earlier ones (the peak's dtype, the pace
// for the ETA).
class StepLines {
 public:
  // "training 15.3M parameters on cpu (2 threads), bf16, 200 steps from step 0 …", one string with
  // line breaks.
  std::string start(const train::TrainStart& start);
  // "step 120/200 loss 4.5678 aux 0.0001 gnorm 0.83 lr 1.2e-3 10,345 tok/s mfu 41.2% (of measured
  // f32 GEMM peak, causal) mem 512.0 MiB eta 1m 20s"
  std::string step(const train::StepReport& report);
  std::string validation(const train::ValidationReport& report) const;
  static std::string checkpoint(const train::CheckpointReport& report);

 private:
  train::TrainStart start_;
  double pace_s_ = 0;  // smoothed seconds a step
};

// A step as `dsv3ctl metrics --json` prints it, without schema_version: logging.jsonl's line.
// Losses have enough digits to be read back exactly; what is not finite is null.
std::string metrics_line(int64_t attempt, const train::StepReport& report);

}  // namespace dsv3::rank
