// Packing pieces into shards; see layout.h.
#include "runtime/checkpoint/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
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
  if (request.rank < 0 || request.rank >= request.world)
    return refuse(fmt::format("there is no rank {} of {}", request.rank, request.world));
  for (const TensorRef& tensor : request.tensors) {
    const Box box = box_of(tensor);
    const int64_t end = end_of(tensor);
    if (tensor.name.empty() || common(box, whole_box(tensor.shape)) != box || tensor.begin < 0 ||
        end < tensor.begin || end > box.num_elements()) {
      return refuse(fmt::format("tensor '{}' has {} elements here, its piece is [{}, {})",
                                tensor.name, box.num_elements(), tensor.begin, end));
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
    const Box left_box = box_of(left), right_box = box_of(right);
    return std::tuple(std::string_view(left.name), left_box.row, left_box.col, left.begin) <
           std::tuple(std::string_view(right.name), right_box.row, right_box.col, right.begin);
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

bool is_whole(const TensorRef& piece) {
  return piece.begin == 0 && end_of(piece) == box_of(piece).num_elements();
}

// "name" for a whole tensor, "name[begin:end]" for a piece of it, "name[row:row,col:col]" for a
// box, "name[row:row,col:col][begin:end]" for a piece of that.
std::string key_of(const TensorRef& piece) {
  std::string key = piece.name;
  const Box box = box_of(piece);
  if (box != whole_box(piece.shape)) {
    key += fmt::format("[{}:{},{}:{}]", box.row, box.row + box.rows, box.col, box.col + box.cols);
  }
  if (!is_whole(piece)) key += fmt::format("[{}:{}]", piece.begin, end_of(piece));
  return key;
}

// The tensor's where it is whole, [rows, columns] of a box, [end − begin] of a piece of either.
std::vector<int64_t> entry_shape(const TensorRef& piece) {
  const Box box = box_of(piece);
  if (!is_whole(piece)) return {end_of(piece) - piece.begin};
  if (box == whole_box(piece.shape)) return piece.shape;
  if (piece.shape.size() == 1) return {box.cols};
  return {box.rows, box.cols};
}

// Of one writer for everything, or of one of several.
std::string shard_file(const SaveRequest& request, size_t shard, size_t shards) {
  const std::string file = fmt::format("shard-{:05}-of-{:05}.safetensors", shard, shards);
  return request.world == 1 ? file : fmt::format("rank-{:05}-{}", request.rank, file);
}

// The tensors as the manifest has them, or kInvalid when their pieces do not make whole tensors.
Result<std::vector<ManifestTensor>> manifest_tensors(
    const SaveRequest& request, const std::vector<std::vector<size_t>>& shards) {
  std::map<std::string, ManifestTensor> by_name;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    for (const size_t i : shards[shard]) {
      const TensorRef& piece = request.tensors[i];
      const TensorInfo info = info_of(piece);
      ManifestTensor& tensor = by_name[piece.name];
      if (tensor.pieces.empty()) tensor.info = info;
      if (tensor.info.dtype != info.dtype || tensor.info.shape != info.shape) {
        return Status(
            Code::kInvalid,
            fmt::format("the pieces of tensor '{}' differ in dtype or shape", piece.name));
      }
      int64_t offset = 0;
      std::vector<Box> boxes = boxes_of(box_of(piece), piece.begin, end_of(piece));
      if (box_of(piece).num_elements() == 0) boxes.push_back(box_of(piece));
      for (const Box& box : boxes) {
        tensor.pieces.push_back({box, static_cast<int64_t>(shard), key_of(piece), offset});
        offset += box.num_elements();
      }
    }
  }
  std::vector<ManifestTensor> tensors;
  for (auto& [name, tensor] : by_name) {
    const std::string fault = request.world > 1 ? "" : settle_pieces(tensor);
    if (!fault.empty()) {
      return Status(Code::kInvalid, fmt::format("cannot save tensor '{}': {}", name, fault));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace

Box box_of(const TensorRef& tensor) {
  return tensor.box ? *tensor.box : whole_box(tensor.shape);
}

int64_t end_of(const TensorRef& tensor) {
  return tensor.end < 0 ? box_of(tensor).num_elements() : tensor.end;
}

int64_t bytes_of(const TensorRef& tensor) {
  return (end_of(tensor) - tensor.begin) * static_cast<int64_t>(dtype_bytes(tensor.dtype));
}

Result<SaveLayout> lay_out(const SaveRequest& request) {
  DSV3_RETURN_IF_ERROR(check_request(request));
  const std::vector<std::vector<size_t>> shards = pack(request);
  SaveLayout layout;
  layout.manifest = {request.job, request.attempt, request.step, request.spec_yaml, request.state};
  layout.metadata = shard_metadata(layout.manifest);
  DSV3_ASSIGN_OR_RETURN(layout.manifest.tensors, manifest_tensors(request, shards));
  for (const std::vector<size_t>& pieces : shards) {
    ShardLayout shard;
    shard.file = shard_file(request, layout.shards.size() + 1, shards.size());
    for (const size_t i : pieces) {
      const TensorRef& piece = request.tensors[i];
      const std::string key = key_of(piece);
      shard.piece_of[key] = i;
      shard.entries.push_back({key, safetensors_tag(piece.dtype), entry_shape(piece)});
    }
    layout.manifest.shards.push_back({shard.file, 0, ""});
    layout.shards.push_back(std::move(shard));
  }
  return layout;
}

}  // namespace dsv3::checkpoint
