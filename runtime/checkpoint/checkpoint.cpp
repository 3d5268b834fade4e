// Opening, checking, reading and retiring checkpoints; see checkpoint.h.
#include "runtime/checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/safetensors.h"

namespace dsv3::checkpoint {
namespace {

Status unusable(const std::string& path, const std::string& what) {
  return Status(Code::kCheckpointUnusable,
                fmt::format("'{}' is not a usable checkpoint: {}", path, what));
}

// A shard says whose it is: one of another step would have the right size and tensors.
std::string shard_fault(const SafetensorsFile& file, const Manifest& manifest) {
  for (const auto& [key, wanted] : shard_metadata(manifest)) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) return fmt::format("does not say its {}", key);
    if (found->second != wanted)
      return fmt::format("is of {} '{}', not '{}'", key, found->second, wanted);
  }
  return "";
}

Result<SafetensorsFile> open_shard(const std::string& path, const Manifest& manifest,
                                   const Shard& shard) {
  auto file = SafetensorsFile::open(path + "/" + shard.file);
  if (!file.ok()) return unusable(path, file.status().message());
  const auto bytes = file->file_bytes();
  if (static_cast<int64_t>(bytes.size()) != shard.bytes) {
    return unusable(
        path, fmt::format("{} has {} bytes, expected {}", shard.file, bytes.size(), shard.bytes));
  }
  if (const std::string fault = shard_fault(*file, manifest); !fault.empty())
    return unusable(path, fmt::format("{} {}", shard.file, fault));
  return file;
}

// What a piece says must be what its shard holds.
std::string piece_fault(const ManifestTensor& tensor, const Piece& piece,
                        const SafetensorsFile& shard) {
  const SafetensorsTensor* entry = shard.find(piece.key);
  if (entry == nullptr) return fmt::format("no '{}' in its shard", piece.key);
  const bool whole = piece.box == whole_box(tensor.info.shape);
  if (entry->tag != safetensors_tag(tensor.info.dtype) ||
      (whole && entry->shape != tensor.info.shape) ||
      piece.offset > entry->num_elements() - piece.box.num_elements()) {
    return fmt::format("'{}' has another dtype or shape in its shard", piece.key);
  }
  return "";
}

// Copies what `piece` has of `box` to where it belongs in the box, row by row.
void copy_common(const Piece& piece, const std::byte* values, const Box& box, std::byte* out,
                 int64_t element_bytes) {
  const Box both = common(piece.box, box);
  if (both.num_elements() == 0) return;
  const auto at = [&](const Box& outer) {
    return ((both.row - outer.row) * outer.cols + both.col - outer.col) * element_bytes;
  };
  const std::byte* from = values + at(piece.box);
  std::byte* to = out + at(box);
  if (both.cols == piece.box.cols && both.cols == box.cols) {
    std::memcpy(to, from, static_cast<size_t>(both.num_elements() * element_bytes));
    return;
  }
  for (int64_t row = 0; row < both.rows; ++row) {
    std::memcpy(to + row * box.cols * element_bytes, from + row * piece.box.cols * element_bytes,
                static_cast<size_t>(both.cols * element_bytes));
  }
}

}  // namespace

struct Checkpoint::Impl {
  std::string path;
  Manifest manifest;
  std::vector<TensorInfo> infos;  // as manifest.tensors, same order
  std::mutex opening;
  std::vector<std::optional<SafetensorsFile>> shards;

  // Opened if it is not; lives as long as the checkpoint.
  Result<const SafetensorsFile*> shard(int64_t index) {
    const std::lock_guard lock(opening);
    std::optional<SafetensorsFile>& file = shards[static_cast<size_t>(index)];
    if (!file) {
      const Shard& shard = manifest.shards[static_cast<size_t>(index)];
      DSV3_ASSIGN_OR_RETURN(file, open_shard(path, manifest, shard));
    }
    return &*file;
  }
  // Where the piece's values begin in its shard.
  Result<const std::byte*> values(const ManifestTensor& tensor, const Piece& piece) {
    DSV3_ASSIGN_OR_RETURN(const SafetensorsFile* file, shard(piece.shard));
    if (const std::string fault = piece_fault(tensor, piece, *file); !fault.empty())
      return unusable(path, fmt::format("tensor '{}': {}", tensor.info.name, fault));
    const auto skipped = static_cast<size_t>(piece.offset) * dtype_bytes(tensor.info.dtype);
    return file->bytes(*file->find(piece.key)).data() + skipped;
  }
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Result<std::unique_ptr<Checkpoint::Impl>> Checkpoint::read_impl(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  DSV3_ASSIGN_OR_RETURN(impl->manifest, read_manifest(path));
  impl->shards.resize(impl->manifest.shards.size());
  for (const ManifestTensor& tensor : impl->manifest.tensors) impl->infos.push_back(tensor.info);
  return impl;
}

Result<Checkpoint> Checkpoint::open(const std::string& path, bool verify) {
  DSV3_ASSIGN_OR_RETURN(std::unique_ptr<Impl> impl, read_impl(path));
  for (size_t i = 0; i < impl->shards.size(); ++i)
    DSV3_RETURN_IF_ERROR(impl->shard(static_cast<int64_t>(i)).status());
  for (const ManifestTensor& tensor : impl->manifest.tensors) {
    for (const Piece& piece : tensor.pieces)
      DSV3_RETURN_IF_ERROR(impl->values(tensor, piece).status());
  }
  Checkpoint checkpoint(std::move(impl));
  if (verify) DSV3_RETURN_IF_ERROR(checkpoint.verify());
  return checkpoint;
}

Result<Checkpoint> Checkpoint::open_for_reading(const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(std::unique_ptr<Impl> impl, read_impl(path));
  return Checkpoint(std::move(impl));
}

Status Checkpoint::verify() const {
  for (size_t i = 0; i < impl_->shards.size(); ++i) {
    DSV3_ASSIGN_OR_RETURN(const SafetensorsFile* file, impl_->shard(static_cast<int64_t>(i)));
    const std::span<const std::byte> bytes = file->file_bytes();
    const Shard& shard = impl_->manifest.shards[i];
    // All of it is wanted at once: a disk gives that faster than page by page.
    if (!bytes.empty())
      ::madvise(const_cast<std::byte*>(bytes.data()), bytes.size(), MADV_WILLNEED);
    if (checksum(bytes) != shard.checksum)
      return unusable(impl_->path, fmt::format("{} is damaged (checksum)", shard.file));
  }
  return {};
}

const std::string& Checkpoint::path() const {
  return impl_->path;
}
const std::string& Checkpoint::job() const {
  return impl_->manifest.job;
}
int64_t Checkpoint::attempt() const {
  return impl_->manifest.attempt;
}
int64_t Checkpoint::step() const {
  return impl_->manifest.step;
}
const std::string& Checkpoint::spec_yaml() const {
  return impl_->manifest.spec_yaml;
}
const TrainingState& Checkpoint::state() const {
  return impl_->manifest.state;
}
const std::vector<TensorInfo>& Checkpoint::tensors() const {
  return impl_->infos;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto at = std::lower_bound(
      impl_->infos.begin(), impl_->infos.end(), name,
      [](const TensorInfo& info, std::string_view wanted) { return info.name < wanted; });
  return at != impl_->infos.end() && at->name == name ? &*at : nullptr;
}

Status Checkpoint::read(std::string_view name, const Box& box, int64_t begin, int64_t end,
                        std::span<std::byte> out) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) {
    return Status(Code::kNotFound,
                  fmt::format("checkpoint '{}' has no tensor '{}'", impl_->path, name));
  }
  const auto element_bytes = static_cast<int64_t>(dtype_bytes(info->dtype));
  const Box whole = whole_box(info->shape);
  if (common(box, whole) != box || begin < 0 || end < begin || end > box.num_elements() ||
      static_cast<int64_t>(out.size()) != (end - begin) * element_bytes) {
    return Status(Code::kInvalid,
                  fmt::format("tensor '{}' is {} × {} of {} bytes; cannot read [{}, {}) of {} × {} "
                              "at {}, {} into {} bytes",
                              name, whole.rows, whole.cols, element_bytes, begin, end, box.rows,
                              box.cols, box.row, box.col, out.size()));
  }
  const ManifestTensor& tensor =
      impl_->manifest.tensors[static_cast<size_t>(info - impl_->infos.data())];
  std::byte* to = out.data();
  for (const Box& part : boxes_of(box, begin, end)) {
    for (const Piece& piece : tensor.pieces) {
      if (piece.box.row >= part.row + part.rows) break;  // they are sorted by row
      if (common(piece.box, part).num_elements() == 0) continue;
      DSV3_ASSIGN_OR_RETURN(const std::byte* values, impl_->values(tensor, piece));
      copy_common(piece, values, part, to, element_bytes);
    }
    to += part.num_elements() * element_bytes;
  }
  return {};
}

Status Checkpoint::read(std::string_view name, std::span<std::byte> out, int64_t element_begin,
                        int64_t element_count) const {
  const TensorInfo* info = find(name);
  const Box whole = info == nullptr ? Box{} : whole_box(info->shape);
  // An end that no int64 holds is one that the tensor doesn't have.
  const bool sane = element_count >= 0 && element_begin <= INT64_MAX - element_count;
  return read(name, whole, element_begin, sane ? element_begin + element_count : -1, out);
}

Status Checkpoint::read(std::string_view name, std::span<std::byte> out) const {
  const TensorInfo* info = find(name);
  return read(name, out, 0, info == nullptr ? 0 : info->num_elements());
}

std::span<const std::byte> Checkpoint::bytes(std::string_view name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) return {};
  const ManifestTensor& tensor =
      impl_->manifest.tensors[static_cast<size_t>(info - impl_->infos.data())];
  if (tensor.pieces.size() != 1) return {};
  const auto values = impl_->values(tensor, tensor.pieces[0]);
  if (!values.ok()) return {};
  return {*values, static_cast<size_t>(info->num_elements()) * dtype_bytes(info->dtype)};
}

Result<NewestValid> newest_valid(const std::string& dir) {
  NewestValid newest;
  std::string reasons;
  for (const Listed& entry : list_checkpoints(dir)) {
    std::string fault = entry.fault;
    if (fault.empty()) {
      const auto checkpoint = Checkpoint::open(entry.path, true);
      if (checkpoint.ok()) {
        newest.path = entry.path;
        newest.step = entry.step;
        newest.attempt = entry.attempt;
        return newest;
      }
      fault = checkpoint.status().message();
    }
    reasons += (reasons.empty() ? ": " : "; ") + fault;
    newest.skipped.emplace_back(entry.path, fault);
  }
  if (reasons.empty()) return Status(Code::kNotFound, fmt::format("no checkpoint in '{}'", dir));
  return Status(Code::kCheckpointUnusable,
                fmt::format("no usable checkpoint in '{}'{}", dir, reasons),
                "repair the disk, or move the folders away to begin afresh");
}

Result<NewestValid> find_loadable(const std::string& path) {
  if (step_of_folder_name(path.substr(path.find_last_of('/') + 1)) < 0 &&
      !path_exists(fmt::format("{}/{}", path, kManifestFile))) {
    return newest_valid(path);
  }
  NewestValid named;
  named.path = path;
  return named;
}

Result<std::string> find_checkpoint(const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const NewestValid found, find_loadable(path));
  return found.path;
}

Result<std::vector<std::string>> keep_last(const std::string& dir, int64_t n,
                                           const std::string& known_valid) {
  std::vector<std::string> deleted;
  const std::vector<Listed> listed = list_checkpoints(dir);
  if (static_cast<int64_t>(listed.size()) <= std::max<int64_t>(n, 1)) return deleted;
  std::string keep = known_valid;
  if (keep.empty()) {
    const auto newest = newest_valid(dir);
    if (!newest.ok()) return deleted;  // nothing is known to be good: delete nothing
    keep = newest->path;
  }
  int64_t kept = 0;
  for (const Listed& entry : listed) {
    // Unreadable folders neither count nor go: the fault may be the disk's, and pass.
    if (!entry.fault.empty()) continue;
    if (kept++ < std::max<int64_t>(n, 1) || entry.path == keep) continue;
    DSV3_RETURN_IF_ERROR(remove_folder(entry.path));
    deleted.push_back(entry.path);
  }
  return deleted;
}

}  // namespace dsv3::checkpoint
