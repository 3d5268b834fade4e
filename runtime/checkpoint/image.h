// Image: a checkpoint's shard files as bytes in memory, so that training can go on while they are
// written.
//
// Law: an image holds everything that its writing needs; once `targets` are filled, nothing of the
// run is looked at again, and what is published is the state of that moment, byte for byte what
// save(SaveRequest) would have written then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/manifest.h"

namespace dsv3::checkpoint {

struct Image {
  std::string dir;
  Manifest manifest;  // whole but for the shards' sizes and checksums
  SaveProbe probe;
  std::vector<std::span<std::byte>> shards;   // the files, in the manifest's order; headers written
  std::vector<std::span<std::byte>> targets;  // where the i-th tensor of the request belongs
};

// Bytes of memory that images of these tensors need, at any step. kInvalid as lay_out().
Result<int64_t> image_bytes_max(const SaveRequest& request);

// Lays out the request's files in `memory` (image_bytes_max() or more, any alignment; borrowed
// until the image is written) and writes their headers. The tensors' data and fill are not looked
// at: the caller copies them to targets. kInvalid as lay_out(), or when the memory is too small.
Result<Image> make_image(const SaveRequest& request, std::span<std::byte> memory);

// Writes and publishes the image, past the page cache. Errors as of save(SaveRequest). The image
// may be used again.
Result<SavedCheckpoint> save(const Image& image);

}  // namespace dsv3::checkpoint
