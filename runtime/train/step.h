// One optimizer step and one validation: what happens between two looks at the clock.
//
// Law: nothing is allocated after the first step, and the host asks the device once a step (the
// losses, norms and counts of StepState).
#pragma once

#include "base/status.h"
#include "runtime/train/session.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

// Runs step session.steps_done + 1 on its samples of the training data and counts it. Fills
// everything of the report but mfu and memory. kLossNotFinite, naming the step and what is not
// finite; the parameters are spoiled then.
Result<StepReport> run_step(Session& session);

// The language-model loss over the first eval_batches · global_batch_size validation samples (or
// all there are), always the same ones. Changes no state but step()'s scratch. tokens is 0, and
// loss not a number, where there is no validation data.
Result<ValidationReport> run_validation(Session& session);

}  // namespace dsv3::train
