// Laying out and writing images; see image.h.
#include "runtime/checkpoint/image.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "base/hash.h"
#include "runtime/checkpoint/direct_file.h"
#include "runtime/checkpoint/layout.h"
#include "runtime/checkpoint/publish.h"

namespace dsv3::checkpoint {
namespace {

// A shard's header and its tensors with their offsets.
struct LaidShard {
  std::string header;
  std::vector<SafetensorsTensor> entries;

  int64_t bytes() const {
    const int64_t data_bytes = entries.empty() ? 0 : entries.back().end_byte;
    return static_cast<int64_t>(header.size()) + data_bytes;
  }
};

Result<std::vector<LaidShard>> lay_shards(const SaveLayout& layout) {
  std::vector<LaidShard> shards;
  for (const ShardLayout& plan : layout.shards) {
    LaidShard shard{"", plan.entries};
    DSV3_ASSIGN_OR_RETURN(shard.header,
                          lay_out_safetensors(plan.file, shard.entries, layout.metadata));
    shards.push_back(std::move(shard));
  }
  return shards;
}

}  // namespace

Result<int64_t> image_bytes_max(const SaveRequest& request) {
  SaveRequest longest;
  longest.dir = request.dir;
  longest.job = request.job;
  longest.attempt = 1;
  longest.step = std::numeric_limits<int64_t>::max();  // its digits stand in the headers
  longest.tensors = request.tensors;
  longest.shard_bytes_max = request.shard_bytes_max;
  longest.rank = request.rank;
  longest.world = request.world;
  DSV3_ASSIGN_OR_RETURN(const SaveLayout layout, lay_out(longest));
  DSV3_ASSIGN_OR_RETURN(const std::vector<LaidShard> shards, lay_shards(layout));
  int64_t bytes = kBlockBytes;  // to align its beginning
  for (const LaidShard& shard : shards) bytes += rounded_to_blocks(shard.bytes());
  return bytes;
}

Result<Image> make_image(const SaveRequest& request, std::span<std::byte> memory) {
  DSV3_ASSIGN_OR_RETURN(SaveLayout layout, lay_out(request));
  DSV3_ASSIGN_OR_RETURN(const std::vector<LaidShard> shards, lay_shards(layout));
  Image image{request.dir, std::move(layout.manifest), request.probe};
  image.targets.resize(request.tensors.size());
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  int64_t at = rounded_to_blocks(static_cast<int64_t>(address % kBlockBytes)) -
               static_cast<int64_t>(address % kBlockBytes);
  for (size_t i = 0; i < shards.size(); ++i) {
    const LaidShard& shard = shards[i];
    const int64_t end = at + rounded_to_blocks(shard.bytes());
    if (end > static_cast<int64_t>(memory.size())) {
      return Status(Code::kInvalid,
                    fmt::format("{} bytes of memory are too few for a checkpoint", memory.size()));
    }
    const auto file = memory.subspan(static_cast<size_t>(at), static_cast<size_t>(shard.bytes()));
    std::memcpy(file.data(), shard.header.data(), shard.header.size());
    for (const SafetensorsTensor& entry : shard.entries) {
      image.targets[layout.shards[i].piece_of.at(entry.name)] =
          file.subspan(shard.header.size() + static_cast<size_t>(entry.begin_byte),
                       static_cast<size_t>(entry.end_byte - entry.begin_byte));
    }
    image.shards.push_back(file);
    at = end;
  }
  return image;
}

Status write_shards(const Image& image, const std::string& folder, Manifest& manifest) {
  for (size_t i = 0; i < image.shards.size(); ++i) {
    DSV3_RETURN_IF_ERROR(probe_point(image.probe, "shard"));
    Checksum running;
    DSV3_RETURN_IF_ERROR(write_direct(
        folder + "/" + manifest.shards[i].file, image.shards[i],
        [&running](std::span<const std::byte> piece) { running.update(piece); },
        [&image] { return probe_point(image.probe, "flush"); }));
    manifest.shards[i].bytes = static_cast<int64_t>(image.shards[i].size());
    manifest.shards[i].checksum = running.hex();
  }
  return {};
}

Result<SavedCheckpoint> save(const Image& image) {
  return write_and_publish(image.dir, image.manifest, image.probe,
                           [&image](const std::string& folder, Manifest& manifest) {
                             return write_shards(image, folder, manifest);
                           });
}

}  // namespace dsv3::checkpoint
