// See part.h.
#include "runtime/checkpoint/part.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "base/file.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/checkpoint/layout.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/publish.h"

namespace dsv3::checkpoint {
namespace {

Result<std::string> written(const std::string& folder, const Manifest& manifest) {
  DSV3_RETURN_IF_ERROR(sync_path(folder));  // the names of this rank's files
  return print_manifest(manifest);
}

Status mismatch(size_t rank, const std::string& what) {
  return Status(Code::kInvalid, fmt::format("cannot save: rank {}: {}", rank, what));
}

// Adds a rank's shards and pieces to the whole.
Status add_part(size_t rank, Manifest part, std::map<std::string, ManifestTensor>& tensors,
                Manifest* whole) {
  const auto first = static_cast<int64_t>(whole->shards.size());
  for (Shard& shard : part.shards) whole->shards.push_back(std::move(shard));
  for (ManifestTensor& tensor : part.tensors) {
    ManifestTensor& all = tensors[tensor.info.name];
    if (all.pieces.empty()) all.info = tensor.info;
    if (all.info.dtype != tensor.info.dtype || all.info.shape != tensor.info.shape) {
      return mismatch(rank, fmt::format("tensor '{}' has another dtype or shape than before it",
                                        tensor.info.name));
    }
    for (Piece& piece : tensor.pieces) {
      piece.shard += first;
      all.pieces.push_back(std::move(piece));
    }
  }
  return {};
}

Result<Manifest> merge(std::span<const std::string> parts) {
  Manifest whole;
  std::map<std::string, ManifestTensor> tensors;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    DSV3_ASSIGN_OR_RETURN(
        Manifest part,
        parse_manifest(parts[rank], fmt::format("part of rank {}", rank), Extent::kPart));
    if (rank == 0) {
      whole.job = part.job;
      whole.attempt = part.attempt;
      whole.step = part.step;
      whole.spec_yaml = std::move(part.spec_yaml);
      whole.state = std::move(part.state);
    } else if (part.job != whole.job || part.attempt != whole.attempt || part.step != whole.step) {
      return mismatch(rank, fmt::format("it wrote step {} of attempt {} of '{}'", part.step,
                                        part.attempt, part.job));
    }
    DSV3_RETURN_IF_ERROR(add_part(rank, std::move(part), tensors, &whole));
  }
  for (auto& [name, tensor] : tensors) {
    if (const std::string fault = settle_pieces(tensor); !fault.empty())
      return Status(Code::kInvalid, fmt::format("cannot save tensor '{}': {}", name, fault));
    whole.tensors.push_back(std::move(tensor));
  }
  return whole;
}

}  // namespace

Result<std::string> open_parts(const PartsTarget& target) {
  DSV3_RETURN_IF_ERROR(make_dirs(target.dir));
  DSV3_RETURN_IF_ERROR(check_not_fenced(target.dir, target.attempt));
  return make_temporary_folder(target.dir, target.attempt, target.step);
}

Result<std::string> write_part(const std::string& folder, const SaveRequest& request) {
  DSV3_ASSIGN_OR_RETURN(SaveLayout layout, lay_out(request));
  DSV3_RETURN_IF_ERROR(check_sources(request));
  DSV3_RETURN_IF_ERROR(write_shards(request, layout, folder, layout.manifest));
  return written(folder, layout.manifest);
}

Result<std::string> write_part(const std::string& folder, const Image& image) {
  Manifest manifest = image.manifest;
  DSV3_RETURN_IF_ERROR(write_shards(image, folder, manifest));
  return written(folder, manifest);
}

Result<SavedCheckpoint> publish_parts(const PartsTarget& target, const std::string& folder,
                                      std::span<const std::string> parts) {
  const Result<Manifest> manifest = merge(parts);
  if (!manifest.ok()) {
    drop_parts(folder);
    return manifest.status();
  }
  return seal_and_publish(target.dir, folder, *manifest, target.probe);
}

void drop_parts(const std::string& folder) {
  static_cast<void>(remove_folder(folder).ok());
}

}  // namespace dsv3::checkpoint
