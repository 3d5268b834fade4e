// Opening, checking, reading and retiring checkpoints; see checkpoint.h.
#include "runtime/checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
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

Result<SafetensorsFile> open_shard(const std::string& path, const Shard& shard) {
  auto file = SafetensorsFile::open(path + "/" + shard.file);
  if (!file.ok()) return unusable(path, file.status().message());
  const auto bytes = file->file_bytes();
  if (static_cast<int64_t>(bytes.size()) != shard.bytes) {
    return unusable(
        path, fmt::format("{} has {} bytes, expected {}", shard.file, bytes.size(), shard.bytes));
  }
  return file;
}

// What a range says must be what its shard holds.
std::string range_fault(const ManifestTensor& tensor, const Range& range,
                        const SafetensorsFile& shard) {
  const SafetensorsTensor* entry = shard.find(range.key);
  if (entry == nullptr) return fmt::format("no '{}' in its shard", range.key);
  if (entry->tag != safetensors_tag(tensor.info.dtype) ||
      entry->shape != range_shape(tensor.info, range.begin, range.end)) {
    return fmt::format("'{}' has another dtype or shape in its shard", range.key);
  }
  return "";
}

}  // namespace

struct Checkpoint::Impl {
  std::string path;
  Manifest manifest;
  std::vector<SafetensorsFile> shards;
  std::vector<TensorInfo> infos;  // as manifest.tensors, same order
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Result<Checkpoint> Checkpoint::open(const std::string& path, bool verify) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  DSV3_ASSIGN_OR_RETURN(impl->manifest, read_manifest(path));
  for (const Shard& shard : impl->manifest.shards) {
    DSV3_ASSIGN_OR_RETURN(SafetensorsFile file, open_shard(path, shard));
    impl->shards.push_back(std::move(file));
  }
  for (const ManifestTensor& tensor : impl->manifest.tensors) {
    for (const Range& range : tensor.ranges) {
      const std::string fault = range_fault(tensor, range, impl->shards[range.shard]);
      if (!fault.empty())
        return unusable(path, fmt::format("tensor '{}': {}", tensor.info.name, fault));
    }
    impl->infos.push_back(tensor.info);
  }
  Checkpoint checkpoint(std::move(impl));
  if (verify) DSV3_RETURN_IF_ERROR(checkpoint.verify());
  return checkpoint;
}

Status Checkpoint::verify() const {
  for (size_t i = 0; i < impl_->shards.size(); ++i) {
    const std::span<const std::byte> bytes = impl_->shards[i].file_bytes();
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

Status Checkpoint::read(std::string_view name, std::span<std::byte> out, int64_t element_begin,
                        int64_t element_count) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) {
    return Status(Code::kNotFound,
                  fmt::format("checkpoint '{}' has no tensor '{}'", impl_->path, name));
  }
  const auto element_bytes = static_cast<int64_t>(dtype_bytes(info->dtype));
  const int64_t elements = info->num_elements();
  if (element_begin < 0 || element_count < 0 || element_begin > elements ||
      element_count > elements - element_begin ||
      static_cast<int64_t>(out.size()) != element_count * element_bytes) {
    return Status(
        Code::kInvalid,
        fmt::format("tensor '{}' has {} elements of {} bytes; cannot read {} from {} into {} "
                    "bytes",
                    name, elements, element_bytes, element_count, element_begin, out.size()));
  }
  const ManifestTensor& tensor =
      impl_->manifest.tensors[static_cast<size_t>(info - impl_->infos.data())];
  const int64_t element_end = element_begin + element_count;
  for (const Range& range : tensor.ranges) {
    const int64_t begin = std::max(range.begin, element_begin);
    const int64_t end = std::min(range.end, element_end);
    if (begin >= end) continue;
    const SafetensorsFile& shard = impl_->shards[range.shard];
    const auto from = shard.bytes(*shard.find(range.key));
    std::memcpy(out.data() + (begin - element_begin) * element_bytes,
                from.data() + (begin - range.begin) * element_bytes,
                static_cast<size_t>((end - begin) * element_bytes));
  }
  return {};
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
  if (tensor.ranges.size() != 1) return {};
  const SafetensorsFile& shard = impl_->shards[tensor.ranges[0].shard];
  return shard.bytes(*shard.find(tensor.ranges[0].key));
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

Result<std::string> find_checkpoint(const std::string& path) {
  if (step_of_folder_name(path.substr(path.find_last_of('/') + 1)) >= 0 ||
      path_exists(fmt::format("{}/{}", path, kManifestFile))) {
    return path;
  }
  DSV3_ASSIGN_OR_RETURN(const NewestValid newest, newest_valid(path));
  return newest.path;
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
