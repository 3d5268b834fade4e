// CheckpointWriter: when and how a run's checkpoints are written: in the background while training
// goes on (checkpoint.async), or while it stands still.
//
// Laws: a checkpoint holds the state of the step at which it was due. At most one is being written;
// the next one waits for it and is never skipped silently. A periodic one that cannot be written
// (a full disk) is a warning and a note, and the next is tried at its time; the last one is an
// error, for the run's end would be lost. Every rank of a job has a writer and calls the same at
// the same point; each writes its part (group_saver.h), rank 0 speaks of it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/status.h"
#include "runtime/checkpoint/background.h"
#include "runtime/train/checkpointing.h"
#include "runtime/train/group_saver.h"
#include "runtime/train/session.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

// Speaks to the observer from the calling thread only. Session, options and observer outlive it.
// The destructor waits for what is being written.
class CheckpointWriter {
 public:
  // Takes the memory for background writing ("checkpoint/staging") when the spec asks for periodic
  // checkpoints in the background and no rank's state is too large (cluster/plan/memory.h).
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
  // Waits for what is being written and tells the observer; for a run that ends with an error, so
  // it asks nothing of the other ranks: a checkpoint of several that is not being published yet
  // is given up.
  void settle();

 private:
  struct Pending {
    int64_t step = -1;
    int64_t due_ns = 0;
    double pause_s = 0;
  };

  bool enabled() const { return !options_.checkpoint_dir.empty(); }
  void take_staging();
  bool busy() const { return group_ ? group_->busy() : background_.busy(); }
  checkpoint::PartsTarget target() const;
  // The state as it is now, in staging_.
  Result<checkpoint::Image> snapshot() const;
  // The state as it is now, read from the device while it is written.
  checkpoint::SaveRequest streamed() const;
  checkpoint::SaveOutcome save_now();
  // Every rank calls it, one whose image has failed too: the others must hear of it.
  void start_group(Result<checkpoint::Image> image);
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
  std::span<std::byte> staging_;            // host; the arena's; empty: no background
  checkpoint::BackgroundSaver background_;  // of a rank alone
  std::optional<GroupSaver> group_;         // of one of several
};

}  // namespace dsv3::train
