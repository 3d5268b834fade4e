// Writing a checkpoint piece by piece, and what every way of writing one shares: written aside,
// flushed, published. The laws are in checkpoint.h.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "base/leftovers.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/checkpoint/layout.h"
#include "runtime/checkpoint/publish.h"
#include "runtime/checkpoint/safetensors.h"

namespace dsv3::checkpoint {
namespace {

constexpr int64_t kFillBytes = int64_t{8} << 20;  // what a `fill` is asked for at once, at most

Status write_piece(SafetensorsWriter& writer, const TensorRef& piece) {
  const int64_t bytes = bytes_of(piece);
  if (piece.data != nullptr || bytes == 0) {
    return writer.append({static_cast<const std::byte*>(piece.data), static_cast<size_t>(bytes)});
  }
  const auto element_bytes = static_cast<int64_t>(dtype_bytes(piece.dtype));
  const int64_t end = end_of(piece);
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(bytes, kFillBytes)));
  for (int64_t begin = piece.begin; begin < end;) {
    const int64_t count = std::min(end - begin, kFillBytes / element_bytes);
    const auto part = std::span(buffer).first(static_cast<size_t>(count * element_bytes));
    DSV3_RETURN_IF_ERROR(piece.fill(begin, part));
    DSV3_RETURN_IF_ERROR(writer.append(part));
    begin += count;
  }
  return {};
}

Status write_shard(const std::string& folder, const SaveRequest& request, const SaveLayout& layout,
                   size_t index, Shard* shard) {
  const ShardLayout& plan = layout.shards[index];
  DSV3_RETURN_IF_ERROR(probe_point(request.probe, "shard"));
  DSV3_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(folder + "/" + plan.file,
                                                               plan.entries, layout.metadata));
  for (const SafetensorsTensor& entry : writer.order()) {
    DSV3_RETURN_IF_ERROR(write_piece(writer, request.tensors[plan.piece_of.at(entry.name)]));
  }
  DSV3_RETURN_IF_ERROR(probe_point(request.probe, "flush"));
  DSV3_RETURN_IF_ERROR(writer.finish());
  shard->bytes = writer.size_bytes();
  shard->checksum = writer.checksum();
  return {};
}

// The last files of a checkpoint whose shards are written, all flushed; gives the bytes of it all.
Result<int64_t> seal(const std::string& folder, const Manifest& manifest, const SaveProbe& probe) {
  int64_t bytes = 0;
  for (const Shard& shard : manifest.shards) bytes += shard.bytes;
  const std::string text = print_manifest(manifest);
  DSV3_RETURN_IF_ERROR(probe_point(probe, "manifest"));
  DSV3_RETURN_IF_ERROR(write_file(fmt::format("{}/{}", folder, kManifestFile), text));
  const std::string seal = checksum(std::as_bytes(std::span<const char>(text))) + "\n";
  DSV3_RETURN_IF_ERROR(probe_point(probe, "complete"));
  DSV3_RETURN_IF_ERROR(write_file(fmt::format("{}/{}", folder, kCompleteFile), seal));
  DSV3_RETURN_IF_ERROR(sync_path(folder));
  return bytes + static_cast<int64_t>(text.size() + seal.size());
}

// The checkpoint that this attempt saved at this step before, if it still opens.
bool saved_before(const Manifest& manifest, const std::string& path) {
  const auto checkpoint = Checkpoint::open(path, true);
  return checkpoint.ok() && checkpoint->job() == manifest.job &&
         checkpoint->attempt() == manifest.attempt && checkpoint->step() == manifest.step;
}

std::string temporary_folder(const std::string& dir, int64_t attempt, int64_t step) {
  return fmt::format("{}/{}", dir, temporary_folder_name(step, attempt));
}

}  // namespace

Status probe_point(const SaveProbe& probe, std::string_view point) {
  return probe ? probe(point) : Status();
}

Result<std::string> make_temporary_folder(const std::string& dir, int64_t attempt, int64_t step) {
  DSV3_RETURN_IF_ERROR(make_dirs(dir));
  remove_leftovers(dir, attempt);
  std::string temporary = temporary_folder(dir, attempt, step);
  DSV3_RETURN_IF_ERROR(make_dirs(temporary));
  return temporary;
}

Result<SavedCheckpoint> seal_and_publish(const std::string& dir, const std::string& temporary,
                                         const Manifest& manifest, const SaveProbe& probe) {
  SavedCheckpoint saved;
  saved.path = fmt::format("{}/{}", dir, step_folder_name(manifest.step));
  const auto write_and_rename = [&]() -> Status {
    DSV3_ASSIGN_OR_RETURN(saved.bytes, seal(temporary, manifest, probe));
    DSV3_RETURN_IF_ERROR(probe_point(probe, "publish"));
    DSV3_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::acquire(dir));
    DSV3_RETURN_IF_ERROR(check_fence(dir, manifest.job, manifest.attempt));
    DSV3_RETURN_IF_ERROR(publish(dir, temporary, manifest.step));
    DSV3_RETURN_IF_ERROR(probe_point(probe, "latest"));
    return write_file(fmt::format("{}/{}", dir, kLatestFile), fmt::format("{}\n", manifest.step));
  };
  const Status status = write_and_rename();
  // After a failure this is the unfinished folder, after a replacement the old one, else nothing.
  const Status removed = remove_folder(temporary);
  DSV3_RETURN_IF_ERROR(status);
  DSV3_RETURN_IF_ERROR(removed);
  return saved;
}

Result<SavedCheckpoint> write_and_publish(const std::string& dir, Manifest manifest,
                                          const SaveProbe& probe, const WriteShards& write_shards) {
  DSV3_RETURN_IF_ERROR(make_dirs(dir));
  SavedCheckpoint saved;
  saved.path = fmt::format("{}/{}", dir, step_folder_name(manifest.step));
  // Looked at twice: now, to spare a stale attempt the writing, and under the lock, where it
  // counts.
  DSV3_RETURN_IF_ERROR(check_fence(dir, manifest.job, manifest.attempt));
  if (saved_before(manifest, saved.path)) {
    saved.existed = true;
    return saved;
  }
  // Before it is there: a signal that removes what is unfinished must not be overtaken.
  const Leftover leftover(temporary_folder(dir, manifest.attempt, manifest.step));
  DSV3_ASSIGN_OR_RETURN(const std::string temporary,
                        make_temporary_folder(dir, manifest.attempt, manifest.step));
  if (const Status status = write_shards(temporary, manifest); !status.ok()) {
    DSV3_RETURN_IF_ERROR(remove_folder(temporary));
    return status;
  }
  return seal_and_publish(dir, temporary, manifest, probe);
}

Status write_shards(const SaveRequest& request, const SaveLayout& layout, const std::string& folder,
                    Manifest& manifest) {
  for (size_t i = 0; i < layout.shards.size(); ++i)
    DSV3_RETURN_IF_ERROR(write_shard(folder, request, layout, i, &manifest.shards[i]));
  return {};
}

Status check_sources(const SaveRequest& request) {
  for (const TensorRef& tensor : request.tensors) {
    if (tensor.data == nullptr && !tensor.fill && bytes_of(tensor) > 0) {
      return Status(Code::kInvalid,
                    fmt::format("cannot save: tensor '{}' has neither data nor a way to get it",
                                tensor.name));
    }
  }
  return {};
}

Result<SavedCheckpoint> save(const SaveRequest& request) {
  DSV3_ASSIGN_OR_RETURN(const SaveLayout layout, lay_out(request));
  DSV3_RETURN_IF_ERROR(check_sources(request));
  return write_and_publish(request.dir, layout.manifest, request.probe,
                           [&](const std::string& folder, Manifest& manifest) {
                             return write_shards(request, layout, folder, manifest);
                           });
}

}  // namespace dsv3::checkpoint
