// manifest.json: what a checkpoint folder holds. Read and written here only; the keys are in
// FORMAT.md.
//
// Law: a manifest is outside input. parse_manifest() accepts it only when every tensor's ranges
// tile the tensor and every range lies in a shard of the list, whose names are plain file names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "runtime/checkpoint/checkpoint.h"

namespace dsv3::checkpoint {

inline constexpr int kManifestVersion = 1;
inline constexpr std::string_view kManifestFile = "manifest.json";
// Holds the manifest's checksum and a newline; the last file written into a folder.
inline constexpr std::string_view kCompleteFile = "complete";
// Beside the folders, as Megatron has it: the step of the checkpoint published last.
inline constexpr std::string_view kLatestFile = "latest_checkpointed_iteration.txt";

struct Shard {
  std::string file;
  int64_t bytes = 0;
  std::string checksum;  // base/hash.h
};

// The flat elements [begin, end) of a tensor lie in shards[shard] under the name `key`.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t shard = 0;
  std::string key;
};

struct ManifestTensor {
  TensorInfo info;
  std::vector<Range> ranges;  // growing
};

struct Manifest {
  std::string job;
  int64_t attempt = 0;
  int64_t step = 0;
  std::string spec_yaml;
  TrainingState state;
  std::vector<Shard> shards;
  std::vector<ManifestTensor> tensors;  // sorted by name
};

// "name" for a whole tensor, "name[begin:end]" for a piece.
std::string range_key(const TensorInfo& info, int64_t begin, int64_t end);
// The shape under which a range lies in its shard: the tensor's, or [end − begin] for a piece.
std::vector<int64_t> range_shape(const TensorInfo& info, int64_t begin, int64_t end);
// Why the ranges (any order; sorted here) do not tile the tensor exactly; "" when they do.
std::string tiling_fault(ManifestTensor& tensor);

// What a listing needs of a manifest.
struct ManifestHead {
  std::string job;
  int64_t attempt = 0;
  int64_t step = 0;
};

std::string print_manifest(const Manifest& manifest);
// kCheckpointUnusable, naming `path` and the fault.
Result<Manifest> parse_manifest(std::string_view text, const std::string& path);
// Reads PATH/manifest.json after comparing it with PATH/complete. kNotFound when PATH is absent,
// else kCheckpointUnusable.
Result<Manifest> read_manifest(const std::string& path);
// The same checks of the seal, but only the head is parsed, wherever it stands: a listing is made
// several times a save. Errors as read_manifest().
Result<ManifestHead> read_manifest_head(const std::string& path);

}  // namespace dsv3::checkpoint
