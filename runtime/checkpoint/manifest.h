// manifest.json: what a checkpoint folder holds. Read and written here only; the keys are in
// FORMAT.md.
//
// Laws: a manifest is outside input. parse_manifest() accepts it only when every tensor's boxes
// tile the tensor and every box lies in a shard of the list, whose names are plain file names.
// Versions of the format before this one are read; only this one is written.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "runtime/checkpoint/box.h"
#include "runtime/checkpoint/checkpoint.h"

namespace dsv3::checkpoint {

inline constexpr std::string_view kManifestFormat = "dsv3ctl checkpoint";
inline constexpr int kManifestVersion = 2;
inline constexpr int kManifestVersionMin = 1;  // that is read: flat ranges in place of boxes
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

// A box of a tensor lies, row by row, in shards[shard] under the name `key`, from that entry's
// element `offset` on.
struct Piece {
  Box box;
  int64_t shard = 0;
  std::string key;
  int64_t offset = 0;
};

struct ManifestTensor {
  TensorInfo info;
  std::vector<Piece> pieces;  // by row, then column
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

// What every shard's header says of the checkpoint that it belongs to.
std::map<std::string, std::string> shard_metadata(const Manifest& manifest);

// Sorts the pieces; why they do not tile the tensor exactly, "" when they do.
std::string settle_pieces(ManifestTensor& tensor);
// Sorts the tensors by name; why they can't stand together (one twice), or "".
std::string settle_tensors(std::vector<ManifestTensor>& tensors);

// What a listing needs of a manifest.
struct ManifestHead {
  std::string job;
  int64_t attempt = 0;
  int64_t step = 0;
};

// JSON in UTF-8 (what is not is replaced), a tensor a line.
std::string print_manifest(const Manifest& manifest);
// What must be there: everything, or the part that one of several ranks wrote (part.h).
enum class Extent { kWhole, kPart };
// kCheckpointUnusable, naming `path` and the fault.
Result<Manifest> parse_manifest(std::string_view text, const std::string& path,
                                Extent extent = Extent::kWhole);
// Reads PATH/manifest.json after comparing it with PATH/complete. kNotFound when PATH is absent,
// else kCheckpointUnusable.
Result<Manifest> read_manifest(const std::string& path);
// The same checks of the seal, but only the head is parsed, wherever it stands: a listing is made
// several times a save. Errors as read_manifest().
Result<ManifestHead> read_manifest_head(const std::string& path);

}  // namespace dsv3::checkpoint
