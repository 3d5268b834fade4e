// CheckpointWriter: when and how a run's checkpoints are written: in the background while training
// goes on (checkpoint.async), or while it stands still.
//
// Laws: a checkpoint holds the state of the step at which it was due. At most one is being written;
// the next one waits for it and is never skipped silently. A periodic one that cannot be written
// (a full disk) is a warning and a note, and the next is tried at its time; the last one is an
// error, for the run's end would be lost. One rank of a job has a writer.
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "runtime/checkpoint/background.h"
#include "runtime/train/checkpointing.h"
#include "runtime/train/session.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

// Speaks to the observer from the calling thread only. Session, options and observer outlive it.
// The destructor waits for what is being written.
class CheckpointWriter {
 public:
  // Takes the memory for background writing ("checkpoint/staging") when the spec asks for periodic
  // checkpoints in the background and the state is not too large (cluster/plan/memory.h).
  // saved_step: the step whose state is in options.checkpoint_dir already; −1: none. Throws
  // Failure(kOutOfMemory).
  CheckpointWriter(Session& session, const TrainOptions& options, TrainObserver& observer,
                   int64_t saved_step);

  // Saves the state as it is now, unless it is saved; for a periodic or a requested checkpoint.
  // Waits for the one before. kConflict when a later attempt has begun, kDevice; what the disk
  // refuses is told and leaves training going.
  Status save();
  // Tells the observer about a background write that has ended; between steps. Errors as save().
  Status collect();
  // The last one: waits for what is being written, then saves the state as it is now unless that
  // has been done; any failure is an error.
  Status finish();
  // Waits for what is being written and tells the observer; for a run that ends with an error.
  void settle();

 private:
  struct Pending {
    int64_t step = -1;
    int64_t due_ns = 0;
    double pause_s = 0;
  };

  bool enabled() const { return !options_.checkpoint_dir.empty(); }
  void take_staging();
  Result<checkpoint::Image> snapshot() const;
  checkpoint::SaveOutcome save_now() const;
  // Reports the outcome of the pending save; its status when it failed.
  Status conclude(const checkpoint::SaveOutcome& outcome);
  // Ok for what a later checkpoint may make good, after telling it.
  Status tolerate(const Status& failed);
  Status wait_for_last();

  Session& session_;
  const TrainOptions& options_;
  TrainObserver& observer_;
  int64_t saved_step_;
  Pending pending_;
  bool said_slow_ = false;
  std::span<std::byte> staging_;  // host; the arena's; empty: no background
  checkpoint::BackgroundSaver background_;
};

}  // namespace dsv3::train
