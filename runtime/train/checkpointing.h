// A session's state as a checkpoint of logical tensors, and back.
//
// Law: tensors carry Hugging Face's names and shapes (one per expert), f32 as the master is;
// moments are "exp_avg.NAME" and "exp_avg_sq.NAME" in their own dtype; the routers' biases are
// buffers. What is restored is bitwise what was saved.
#pragma once

#include <string>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/train/session.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

// Publishes the state after session.steps_done steps under options.checkpoint_dir and keeps the
// newest checkpoint.keep_last.
Result<CheckpointReport> save_checkpoint(const Session& session, const TrainOptions& options);

// Claims options.checkpoint_dir for this attempt (kConflict: a later one has begun), then restores
// its newest valid checkpoint (when options.resume), else spec.checkpoint.load (a checkpoint's
// folder, or the newest valid one in a folder of them), else nothing: *path is "" then. A
// checkpoint that does not fit the model is kCheckpointUnusable, naming the tensor.
Status restore_checkpoint(Session& session, const TrainOptions& options, std::string* path);

}  // namespace dsv3::train
