// Writing a checkpoint: pack into shards, write aside, publish. The laws are in checkpoint.h.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/safetensors.h"

namespace dsv3::checkpoint {
namespace {

constexpr int64_t kFillBytes = int64_t{8} << 20;  // what a `fill` is asked for at once, at most

TensorInfo info_of(const TensorRef& tensor) {
  return {tensor.name, tensor.dtype, tensor.shape};
}

int64_t end_of(const TensorRef& tensor) {
  return tensor.end < 0 ? info_of(tensor).num_elements() : tensor.end;
}

int64_t bytes_of(const TensorRef& tensor) {
  return (end_of(tensor) - tensor.begin) * static_cast<int64_t>(dtype_bytes(tensor.dtype));
}

// The tensors of the request as a manifest has them, or kInvalid when their pieces do not make
// whole tensors. `shard_of[i]` is where the request's i-th piece goes.
Result<std::vector<ManifestTensor>> lay_out(const SaveRequest& request,
                                            const std::vector<int64_t>& shard_of) {
  std::map<std::string, ManifestTensor> by_name;
  for (size_t i = 0; i < request.tensors.size(); ++i) {
    const TensorRef& piece = request.tensors[i];
    const TensorInfo info = info_of(piece);
    const int64_t end = end_of(piece);
    ManifestTensor& tensor = by_name[piece.name];
    if (tensor.ranges.empty()) tensor.info = info;
    if (tensor.info.dtype != info.dtype || tensor.info.shape != info.shape) {
      return Status(Code::kInvalid,
                    fmt::format("the pieces of tensor '{}' differ in dtype or shape", piece.name));
    }
    tensor.ranges.push_back({piece.begin, end, shard_of[i], range_key(info, piece.begin, end)});
  }
  std::vector<ManifestTensor> tensors;
  for (auto& [name, tensor] : by_name) {
    if (const std::string fault = tiling_fault(tensor); !fault.empty()) {
      return Status(Code::kInvalid, fmt::format("cannot save tensor '{}': {}", name, fault));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// Fills shards in the order of the names; a piece above the limit has one of its own.
std::vector<std::vector<const TensorRef*>> pack(const SaveRequest& request,
                                                std::vector<int64_t>* shard_of) {
  std::vector<size_t> order(request.tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const TensorRef& left = request.tensors[a];
    const TensorRef& right = request.tensors[b];
    return std::pair(std::string_view(left.name), left.begin) <
           std::pair(std::string_view(right.name), right.begin);
  });
  std::vector<std::vector<const TensorRef*>> shards;
  shard_of->assign(request.tensors.size(), 0);
  int64_t filled_bytes = 0;
  for (const size_t i : order) {
    const int64_t bytes = bytes_of(request.tensors[i]);
    if (shards.empty() ||
        (!shards.back().empty() && filled_bytes + bytes > request.shard_bytes_max)) {
      shards.emplace_back();
      filled_bytes = 0;
    }
    shards.back().push_back(&request.tensors[i]);
    filled_bytes += bytes;
    (*shard_of)[i] = static_cast<int64_t>(shards.size()) - 1;
  }
  return shards;
}

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

Result<Shard> write_shard(const std::string& folder, const std::string& file,
                          const SaveRequest& request, const std::vector<const TensorRef*>& pieces) {
  std::vector<SafetensorsTensor> entries;
  std::map<std::string, const TensorRef*> by_key;
  for (const TensorRef* piece : pieces) {
    const TensorInfo info = info_of(*piece);
    const std::string key = range_key(info, piece->begin, end_of(*piece));
    by_key[key] = piece;
    entries.push_back(
        {key, safetensors_tag(piece->dtype), range_shape(info, piece->begin, end_of(*piece))});
  }
  const std::map<std::string, std::string> metadata = {{"job", request.job},
                                                       {"step", std::to_string(request.step)}};
  DSV3_ASSIGN_OR_RETURN(
      auto writer, SafetensorsWriter::create(folder + "/" + file, std::move(entries), metadata));
  for (const SafetensorsTensor& entry : writer.order()) {
    DSV3_RETURN_IF_ERROR(write_piece(writer, *by_key.at(entry.name)));
  }
  DSV3_RETURN_IF_ERROR(writer.finish());
  return Shard{file, writer.size_bytes(), writer.checksum()};
}

// Writes every file of the checkpoint into `folder` and flushes it; gives the bytes written.
Result<int64_t> write_all(const SaveRequest& request, const std::string& folder) {
  std::vector<int64_t> shard_of;
  const auto shards = pack(request, &shard_of);
  Manifest manifest{request.job, request.attempt, request.step, request.spec_yaml, request.state};
  DSV3_ASSIGN_OR_RETURN(manifest.tensors, lay_out(request, shard_of));
  int64_t bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file = fmt::format("shard-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    DSV3_ASSIGN_OR_RETURN(Shard shard, write_shard(folder, file, request, shards[i]));
    bytes += shard.bytes;
    manifest.shards.push_back(std::move(shard));
  }
  const std::string text = print_manifest(manifest);
  DSV3_RETURN_IF_ERROR(write_file(fmt::format("{}/{}", folder, kManifestFile), text));
  const std::string seal = checksum(std::as_bytes(std::span<const char>(text))) + "\n";
  DSV3_RETURN_IF_ERROR(write_file(fmt::format("{}/{}", folder, kCompleteFile), seal));
  DSV3_RETURN_IF_ERROR(sync_path(folder));
  return bytes + static_cast<int64_t>(text.size() + seal.size());
}

Status check_request(const SaveRequest& request) {
  const auto refuse = [](const std::string& what) {
    return Status(Code::kInvalid, "cannot save: " + what);
  };
  if (request.dir.empty()) return refuse("no folder");
  if (request.attempt < 1 || request.step < 0) {
    return refuse(fmt::format("attempt {} or step {} is negative", request.attempt, request.step));
  }
  for (const TensorRef& tensor : request.tensors) {
    const int64_t elements = info_of(tensor).num_elements();
    const int64_t end = end_of(tensor);
    if (tensor.name.empty() || elements < 0 || tensor.begin < 0 || end < tensor.begin ||
        end > elements) {
      return refuse(fmt::format("tensor '{}' has {} elements, its piece is [{}, {})", tensor.name,
                                elements, tensor.begin, end));
    }
    if (tensor.data == nullptr && !tensor.fill && end > tensor.begin) {
      return refuse(fmt::format("tensor '{}' has neither data nor a way to get it", tensor.name));
    }
  }
  return {};
}

// The checkpoint that this attempt saved at this step before, if it still opens.
bool saved_before(const SaveRequest& request, const std::string& path) {
  const auto checkpoint = Checkpoint::open(path, true);
  return checkpoint.ok() && checkpoint->job() == request.job &&
         checkpoint->attempt() == request.attempt && checkpoint->step() == request.step;
}

}  // namespace

Result<SavedCheckpoint> save(const SaveRequest& request) {
  DSV3_RETURN_IF_ERROR(check_request(request));
  DSV3_RETURN_IF_ERROR(make_dirs(request.dir));
  SavedCheckpoint saved;
  saved.path = fmt::format("{}/{}", request.dir, step_folder_name(request.step));
  // Looked at twice: now, to spare a stale attempt the writing, and under the lock, where it
  // counts.
  DSV3_RETURN_IF_ERROR(check_fence(request.dir, request.job, request.attempt));
  if (saved_before(request, saved.path)) {
    saved.existed = true;
    return saved;
  }
  remove_leftovers(request.dir, request.attempt);
  const std::string temporary =
      fmt::format("{}/{}", request.dir, temporary_folder_name(request.step, request.attempt));
  DSV3_RETURN_IF_ERROR(make_dirs(temporary));
  const auto write_and_publish = [&]() -> Status {
    DSV3_ASSIGN_OR_RETURN(saved.bytes, write_all(request, temporary));
    DSV3_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::acquire(request.dir));
    DSV3_RETURN_IF_ERROR(check_fence(request.dir, request.job, request.attempt));
    return publish(request.dir, temporary, request.step);
  };
  const Status status = write_and_publish();
  // After a failure this is the unfinished folder, after a replacement the old one, else nothing.
  const Status removed = remove_folder(temporary);
  DSV3_RETURN_IF_ERROR(status);
  DSV3_RETURN_IF_ERROR(removed);
  return saved;
}

}  // namespace dsv3::checkpoint
