// Packing pieces into shards; see layout.h.
#include "runtime/checkpoint/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace dsv3::checkpoint {
namespace {

TensorInfo info_of(const TensorRef& tensor) {
  return {tensor.name, tensor.dtype, tensor.shape};
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
  }
  return {};
}

// Fills shards in the order of the names; a piece above the limit has one of its own. Indices of
// the request's tensors.
std::vector<std::vector<size_t>> pack(const SaveRequest& request) {
  std::vector<size_t> order(request.tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const TensorRef& left = request.tensors[a];
    const TensorRef& right = request.tensors[b];
    return std::pair(std::string_view(left.name), left.begin) <
           std::pair(std::string_view(right.name), right.begin);
  });
  std::vector<std::vector<size_t>> shards;
  int64_t filled_bytes = 0;
  for (const size_t i : order) {
    const int64_t bytes = bytes_of(request.tensors[i]);
    if (shards.empty() ||
        (!shards.back().empty() && filled_bytes + bytes > request.shard_bytes_max)) {
      shards.emplace_back();
      filled_bytes = 0;
    }
    shards.back().push_back(i);
    filled_bytes += bytes;
  }
  return shards;
}

// The tensors as the manifest has them, or kInvalid when their pieces do not make whole tensors.
Result<std::vector<ManifestTensor>> manifest_tensors(
    const SaveRequest& request, const std::vector<std::vector<size_t>>& shards) {
  std::map<std::string, ManifestTensor> by_name;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    for (const size_t i : shards[shard]) {
      const TensorRef& piece = request.tensors[i];
      const TensorInfo info = info_of(piece);
      const int64_t end = end_of(piece);
      ManifestTensor& tensor = by_name[piece.name];
      if (tensor.ranges.empty()) tensor.info = info;
      if (tensor.info.dtype != info.dtype || tensor.info.shape != info.shape) {
        return Status(
            Code::kInvalid,
            fmt::format("the pieces of tensor '{}' differ in dtype or shape", piece.name));
      }
      tensor.ranges.push_back(
          {piece.begin, end, static_cast<int64_t>(shard), range_key(info, piece.begin, end)});
    }
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

}  // namespace

int64_t end_of(const TensorRef& tensor) {
  return tensor.end < 0 ? info_of(tensor).num_elements() : tensor.end;
}

int64_t bytes_of(const TensorRef& tensor) {
  return (end_of(tensor) - tensor.begin) * static_cast<int64_t>(dtype_bytes(tensor.dtype));
}

Result<SaveLayout> lay_out(const SaveRequest& request) {
  DSV3_RETURN_IF_ERROR(check_request(request));
  const std::vector<std::vector<size_t>> shards = pack(request);
  SaveLayout layout;
  layout.manifest = {request.job, request.attempt, request.step, request.spec_yaml, request.state};
  layout.metadata = {{"job", request.job}, {"step", std::to_string(request.step)}};
  DSV3_ASSIGN_OR_RETURN(layout.manifest.tensors, manifest_tensors(request, shards));
  for (const std::vector<size_t>& pieces : shards) {
    ShardLayout shard;
    shard.file =
        fmt::format("shard-{:05}-of-{:05}.safetensors", layout.shards.size() + 1, shards.size());
    for (const size_t i : pieces) {
      const TensorRef& piece = request.tensors[i];
      const TensorInfo info = info_of(piece);
      const std::string key = range_key(info, piece.begin, end_of(piece));
      shard.piece_of[key] = i;
      shard.entries.push_back(
          {key, safetensors_tag(piece.dtype), range_shape(info, piece.begin, end_of(piece))});
    }
    layout.manifest.shards.push_back({shard.file, 0, ""});
    layout.shards.push_back(std::move(shard));
  }
  return layout;
}

}  // namespace dsv3::checkpoint
