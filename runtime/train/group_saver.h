// GroupSaver: one checkpoint written by all ranks of a job, each its own part, published when every
// part is there.
//
// Laws: (1) collectives run in the calling threads alone, between steps, in the same order on every
// rank; the threads behind only write to the disk. (2) Nothing is published before every rank has
// flushed its files. (3) Where any rank fails the save has failed on all of them, with the same
// status, which names the rank; the older checkpoints stay. (4) At most one save is under way. The
// stages: rank 0 makes the folder · all write · rank 0 gathers the parts' texts, writes the
// manifest, publishes and retires old checkpoints · all hear of it. (runtime/checkpoint/part.h)
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/status.h"
#include "runtime/checkpoint/background.h"
#include "runtime/checkpoint/part.h"
#include "runtime/comm/communicator.h"

namespace dsv3::train {

class GroupSaver {
 public:
  // Writes this rank's part into the folder; gives its text (checkpoint::write_part).
  using WritePart = std::function<Result<std::string>(const std::string& folder)>;

  // Every rank of the job; outlives this.
  explicit GroupSaver(comm::Communicator& world) : world_(world) {}

  // Every rank calls each of these at the same point. Throw Failure when a rank is lost.

  // Begins to write in the background. Requires !busy().
  void start(const checkpoint::PartsTarget& target, int64_t keep_last, WritePart write);
  // Whether there is an outcome to come, or to be taken: the same on every rank.
  bool busy() const { return stage_ != Stage::kIdle; }
  // The outcome if it is there (the same on every rank, but for done_ns); else nullopt, having
  // moved the save on where it can be. Takes one small collective.
  std::optional<checkpoint::SaveOutcome> poll();
  // Waits for it; nullopt when nothing is under way.
  std::optional<checkpoint::SaveOutcome> wait();
  // The same from beginning to end, in this thread. Requires !busy().
  checkpoint::SaveOutcome save(const checkpoint::PartsTarget& target, int64_t keep_last,
                               const WritePart& write);

  // Without the other ranks (they may be gone): waits for what this one is writing. What is not
  // being published by then is not; its folder goes with a later save. Rank 0's outcome of what
  // was.
  std::optional<checkpoint::SaveOutcome> abandon();

 private:
  enum class Stage { kIdle, kWriting, kPublishing, kDone };

  bool leads() const { return world_.rank() == 0; }
  // The folder that rank 0 has made, or its failure.
  Result<std::string> open();
  // After all have written: their texts, on rank 0, or the failure of one of them.
  Result<std::vector<std::string>> gather(const Result<std::string>& part);
  checkpoint::SaveOutcome publish(const std::vector<std::string>& parts) const;
  // Rank 0's outcome, on every rank.
  checkpoint::SaveOutcome share(const std::optional<checkpoint::SaveOutcome>& outcome);
  // Takes the next step of a save whose threads are done.
  void advance();
  checkpoint::SaveOutcome take();

  comm::Communicator& world_;
  checkpoint::PartsTarget target_;
  int64_t keep_last_ = 1;
  std::string folder_;
  Stage stage_ = Stage::kIdle;
  std::optional<checkpoint::SaveOutcome> outcome_;  // in kDone
  checkpoint::Background<Result<std::string>> writing_;
  checkpoint::Background<checkpoint::SaveOutcome> publishing_;  // rank 0's
};

}  // namespace dsv3::train
