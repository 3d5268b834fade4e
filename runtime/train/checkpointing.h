// A session's state as a checkpoint of logical tensors, and back.
//
// Laws: tensors carry Hugging Face's names and shapes (one per expert), f32 as the master is;
// moments are "exp_avg.NAME" and "exp_avg_sq.NAME" in their own dtype; the routers' biases are
// buffers. What is restored is bitwise what was saved, whatever layout saved it (state_pieces.h):
// each rank writes what it represents and reads what it holds, through a buffer of fixed size.
// Choosing a checkpoint (one rank, which may rename folders) is apart from restoring one (every
// rank, which changes nothing on the disk).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/train/session.h"
#include "runtime/train/state_pieces.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

// This rank's state.
StateBuffers state_buffers(const Session& session);

// The request that saves the session as it is now, this rank's part where there are others. Its
// tensors stand in the order of pieces_to_save(), which is given too; their data is not.
struct StateRequest {
  checkpoint::SaveRequest request;
  std::vector<StateTensor> pieces;
};
StateRequest save_request(const Session& session, const TrainOptions& options);

// Reads what the pieces hold from a checkpoint; `put` gets it bit by bit, in order: the piece, from
// which of its elements on, and the bytes (at most 8 MiB at once, gone when put returns). What the
// checkpoint lacks is left out where it may be: a moment, in one of imported weights (step 0).
// kCheckpointUnusable, naming the tensor.
using PutBytes =
    std::function<void(const StateTensor& piece, int64_t at, std::span<const std::byte> bytes)>;
Status read_state(const checkpoint::Checkpoint& saved, const std::vector<StateTensor>& pieces,
                  const PutBytes& put);

// One rank only: claims options.checkpoint_dir for this attempt (kConflict: a later one has begun)
// and chooses what the run goes on from: the folder's newest checkpoint that is whole, this job's
// and fits the session (when options.resume; those that are not are set aside, named in the log and
// to observer.on_note()), else spec.checkpoint.load (a checkpoint's folder, or the newest valid one
// in a folder of them), else nothing: "" is a fresh start. kCheckpointUnusable, naming file or
// tensor, when checkpoints are there and none of them can be used.
Result<std::string> choose_checkpoint(const Session& session, const TrainOptions& options,
                                      TrainObserver& observer);

// Every rank: puts its part of the checkpoint's state into the session. Checksums are not looked at
// again: the rank that chose it has. kCheckpointUnusable when it does not fit the model, naming the
// tensor.
Status restore_from(Session& session, const std::string& path);

}  // namespace dsv3::train
