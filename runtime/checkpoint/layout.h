// How a checkpoint's tensors are shared out among shard files: decided before anything is written.
//
// Law: the layout follows from the request's names, shapes and sizes alone, so a checkpoint written
// while training goes on has, byte for byte, the shards that a synchronous one has. The format:
// FORMAT.md.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/safetensors.h"

namespace dsv3::checkpoint {

// One shard file to be written.
struct ShardLayout {
  std::string file;
  std::vector<SafetensorsTensor> entries;  // key, tag and shape; offsets not set yet
  std::map<std::string, size_t> piece_of;  // key → index in the request's tensors
};

struct SaveLayout {
  Manifest manifest;  // whole but for the shards' sizes and checksums
  std::vector<ShardLayout> shards;
  std::map<std::string, std::string> metadata;  // of every shard
};

// The box and its elements [begin, end) that a piece holds, resolved, and its bytes.
Box box_of(const TensorRef& tensor);
int64_t end_of(const TensorRef& tensor);
int64_t bytes_of(const TensorRef& tensor);

// Lays out the request; kInvalid for tensors that overlap, leave gaps or repeat (gaps are seen
// only where one rank writes everything), or for numbers that cannot be. Looks at no data.
Result<SaveLayout> lay_out(const SaveRequest& request);

}  // namespace dsv3::checkpoint
