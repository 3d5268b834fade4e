// A session's state as a checkpoint of logical tensors, and back.
//
// Law: tensors carry Hugging Face's names and shapes (one per expert), f32 as the master is;
// moments are "exp_avg.NAME" and "exp_avg_sq.NAME" in their own dtype; the routers' biases are
// buffers. What is restored is bitwise what was saved. Choosing a checkpoint (one rank, which may
// rename folders) is apart from restoring one (every rank, which changes nothing on the disk).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/train/session.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

// One tensor of the state: where it lies on the device.
struct StateTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  void* data = nullptr;    // device; the session's
  bool optimizer = false;  // a moment

  int64_t bytes() const;
};
// All of the state, in an order that follows from the model alone.
std::vector<StateTensor> state_tensors(const Session& session);

// The request that saves the session as it is now. Its tensors stand in the order of
// state_tensors(), their data not given.
checkpoint::SaveRequest save_request(const Session& session, const TrainOptions& options);

// One rank only: claims options.checkpoint_dir for this attempt (kConflict: a later one has begun)
// and chooses what the run goes on from: the folder's newest checkpoint that is whole, this job's
// and fits the session (when options.resume; those that are not are set aside, named in the log and
// to observer.on_note()), else spec.checkpoint.load (a checkpoint's folder, or the newest valid one
// in a folder of them), else nothing: "" is a fresh start. kCheckpointUnusable, naming file or
// tensor, when checkpoints are there and none of them can be used.
Result<std::string> choose_checkpoint(const Session& session, const TrainOptions& options,
                                      TrainObserver& observer);

// Every rank: puts the checkpoint's state into the session. Checksums are not looked at again: the
// rank that chose it has. kCheckpointUnusable when it does not fit the model, naming the tensor.
Status restore_from(Session& session, const std::string& path);

}  // namespace dsv3::train
