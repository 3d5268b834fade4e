// Checkpoints: the logical, global tensors of a training run at one step, whatever layout wrote
// them.
//
// Laws: (1) a checkpoint folder is whole or it is not there: written aside (.tmp-…), every file and
// the folder flushed, then renamed; a full disk leaves the older ones as they were. (2) What is
// read is bitwise what was saved, or an error: the manifest has every shard's size and checksum,
// and the file `complete` has the manifest's. (3) A stale attempt cannot publish: a folder that has
// seen a higher attempt refuses a lower one. The format, and what is where: FORMAT.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "runtime/checkpoint/box.h"

namespace dsv3::checkpoint {

// Names of what belongs to parameter `name`: the parameter itself (master, f32) keeps its Hugging
// Face name.
inline std::string exp_avg_name(std::string_view name) {
  return "exp_avg." + std::string(name);
}
inline std::string exp_avg_sq_name(std::string_view name) {
  return "exp_avg_sq." + std::string(name);
}

// One tensor, or a piece of one, to be saved. Either `data`, or `fill` (called with growing,
// disjoint ranges).
struct TensorRef {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // of the whole, logical tensor
  const void* data = nullptr;  // the piece, contiguous, row-major; borrowed until save() returns
  // Writes the elements [begin, begin + out.size() / element size) of the box into `out`.
  std::function<Status(int64_t begin, std::span<std::byte> out)> fill;
  // The piece: flat element range of the box; end −1 means its end.
  int64_t begin = 0;
  int64_t end = -1;
  std::optional<Box> box;  // of the whole tensor; none: all of it
};

// Everything beside the tensors that a run needs to go on where it was.
struct TrainingState {
  int64_t next_sample_idx =
      0;  // position in the data: the next global sample (data/sample_reader.h)
  int64_t seed = 0;
  int64_t lr_step = 0;  // steps the learning-rate schedule has taken
  int64_t tokens_seen = 0;
  std::string compute_dtype;                               // fp32 | bf16 | fp8
  std::vector<std::pair<std::string, std::string>> extra;  // whatever else; strings, order kept
};

// Called by the writing thread before each step of a save, with its name: "shard" (a file's bytes),
// "flush", "manifest", "complete", "publish", "latest"; a Status that is not ok ends the save there
// as if the disk had said it. For tests that slow a write, fail it or end the process in it.
using SaveProbe = std::function<Status(std::string_view point)>;

struct SaveRequest {
  std::string dir;  // the job's folder of checkpoints; created
  std::string job;
  int64_t attempt = 1;
  int64_t step = 0;
  std::string spec_yaml;  // the resolved config, as text
  TrainingState state;
  std::vector<TensorRef> tensors;
  int64_t shard_bytes_max = int64_t{2} << 30;  // a larger single tensor has a shard of its own
  SaveProbe probe;                             // may be empty
  // Of several ranks that write one checkpoint (part.h) this one writes these tensors, in files of
  // its own.
  int64_t rank = 0;
  int64_t world = 1;
};

struct SavedCheckpoint {
  std::string path;
  int64_t bytes = 0;
  bool existed = false;  // this attempt had saved this step before
};

// Writes and publishes DIR/step-00000123. kConflict for a stale attempt or another job's folder,
// kInvalid for tensors that overlap, leave gaps or repeat, kFailed (naming the path) for a disk
// that is full or not writable. Idempotent for the same attempt and step.
Result<SavedCheckpoint> save(const SaveRequest& request);

// Tells DIR that `attempt` has begun, so that lower ones can no longer publish. kConflict when a
// higher one has. `submission` is what no other job has, whatever its id ("" is taken for any):
// kConflict where another has claimed DIR.
Status claim(const std::string& dir, int64_t attempt, const std::string& submission = "");

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  int64_t num_elements() const;
};

// An open checkpoint: shards memory-mapped, all of them but for open_for_reading(). Move-only;
// const calls are thread-safe.
class Checkpoint {
 public:
  // Opens DIR/step-… . With `verify` every shard's checksum is computed; always its size, header
  // (job and step stand in it), and that each piece lies in its shard. kNotFound when absent;
  // kCheckpointUnusable, naming file and fault, otherwise.
  static Result<Checkpoint> open(const std::string& path, bool verify = true);
  // For a rank that reads its share of what another has verified: a shard is opened, and what is
  // read of it checked, when it is first read; of those that hold nothing of it no file is touched.
  static Result<Checkpoint> open_for_reading(const std::string& path);
  // Computes every shard's checksum; kCheckpointUnusable, naming the shard that is damaged.
  Status verify() const;
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::string& path() const;
  const std::string& job() const;
  int64_t attempt() const;
  int64_t step() const;
  const std::string& spec_yaml() const;
  const TrainingState& state() const;
  // Sorted by name.
  const std::vector<TensorInfo>& tensors() const;
  // nullptr where there is no such tensor; lives as long as the checkpoint.
  const TensorInfo* find(std::string_view name) const;
  // Copies the elements [begin, end), counted row by row, of a box of the tensor, whatever pieces
  // it was saved in; out holds exactly them. kNotFound, kInvalid for what is not there.
  Status read(std::string_view name, const Box& box, int64_t begin, int64_t end,
              std::span<std::byte> out) const;
  // Copies the elements [element_begin, element_begin + count) of the flat tensor; out holds
  // exactly them.
  Status read(std::string_view name, std::span<std::byte> out, int64_t element_begin,
              int64_t element_count) const;
  // The whole tensor.
  Status read(std::string_view name, std::span<std::byte> out) const;
  // The whole tensor where it lies, unaligned, as long as the checkpoint lives; empty when there is
  // no such tensor or it is in several pieces.
  std::span<const std::byte> bytes(std::string_view name) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  static Result<std::unique_ptr<Impl>> read_impl(const std::string& path);
  std::unique_ptr<Impl> impl_;
};

struct NewestValid {
  std::string path;
  int64_t step = 0;
  int64_t attempt = 0;
  std::vector<std::pair<std::string, std::string>>
      skipped;  // newer folders that cannot be used, and why
};

// The newest checkpoint in DIR that opens with all checksums right; kNotFound when there is none at
// all, kCheckpointUnusable, with what is wrong with each, when none can be used.
Result<NewestValid> newest_valid(const std::string& dir);
// The checkpoint folder that `path` (of checkpoint.load, or a command line) means: itself, unread,
// if it is a step's folder, else the newest valid one in it, with the newer ones that are not.
Result<NewestValid> find_loadable(const std::string& path);
// The same, its path alone.
Result<std::string> find_checkpoint(const std::string& path);
// Deletes all but the newest n (≥ 1) checkpoints, never the newest valid one, nor unreadable ones.
// `known_valid` (what save() returned) spares reading it all again. Gives the paths deleted.
Result<std::vector<std::string>> keep_last(const std::string& dir, int64_t n,
                                           const std::string& known_valid = {});

}  // namespace dsv3::checkpoint
