// JSON in; see manifest.h. Out: manifest_text.cpp.
#include "runtime/checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "base/json_bounds.h"

namespace dsv3::checkpoint {
namespace {

// An ordered object would copy its values when it grows, however deep they are.
using Json = nlohmann::json;

constexpr int64_t kManifestBytesMax = int64_t{1} << 30;
constexpr int64_t kManifestValuesMax = 20'000'000;  // a million ranges take 6 million
constexpr int64_t kStepMax = 1'000'000'000;         // of training.max_steps

Status unusable(const std::string& path, const std::string& what) {
  return Status(Code::kCheckpointUnusable,
                fmt::format("'{}' is not a usable checkpoint: {}", path, what));
}

// A whole number that an int64 holds. The library itself would round 2.5 and take 1e300 for any
// number at all.
int64_t whole(const Json& value, const char* what) {
  const bool is_whole = value.is_number_integer() &&
                        (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
  if (!is_whole) throw std::out_of_range(fmt::format("{} is not a whole number", what));
  return value.get<int64_t>();
}
int64_t whole_at(const Json& json, const char* key) {
  return whole(json.at(key), key);
}

TrainingState parse_state(const Json& json) {
  TrainingState state;
  state.next_sample_idx = whole_at(json, "next_sample_idx");
  state.seed = whole_at(json, "seed");
  state.lr_step = whole_at(json, "lr_step");
  state.tokens_seen = whole_at(json, "tokens_seen");
  json.at("compute_dtype").get_to(state.compute_dtype);
  for (const Json& pair : json.at("extra")) {
    state.extra.emplace_back(pair.at(0).get<std::string>(), pair.at(1).get<std::string>());
  }
  return state;
}

bool parse_dtype(const std::string& name, DType* dtype) {
  for (const DType known : {DType::kF32, DType::kBf16, DType::kI32, DType::kI64, DType::kF64}) {
    if (name == dtype_name(known)) {
      *dtype = known;
      return true;
    }
  }
  return false;
}

// False when the number of elements is negative or its bytes pass 2^62.
bool sane_shape(const TensorInfo& info) {
  double bytes = static_cast<double>(dtype_bytes(info.dtype));
  for (const int64_t size : info.shape) {
    if (size < 0) return false;
    bytes *= static_cast<double>(std::max<int64_t>(size, 1));
  }
  return bytes < 0x1.0p62;
}

// "[first, end)" as two numbers; the whole where it does not stand there.
void parse_span(const Json& json, const char* key, int64_t* first, int64_t* count) {
  const auto found = json.find(key);
  if (found == json.end()) return;
  const int64_t begin = whole(found->at(0), key), end = whole(found->at(1), key);
  if (begin < 0 || end < begin)
    throw std::out_of_range(fmt::format("{} [{}, {})", key, begin, end));
  *first = begin;
  *count = end - begin;
}

Piece parse_piece(const Json& json, const TensorInfo& info) {
  Piece piece;
  piece.box = whole_box(info.shape);
  parse_span(json, "rows", &piece.box.row, &piece.box.rows);
  parse_span(json, "cols", &piece.box.col, &piece.box.cols);
  if (json.contains("offset")) piece.offset = whole_at(json, "offset");
  if (piece.offset < 0) throw std::out_of_range("an offset is negative");
  return piece;
}

// Version 1: the flat elements [begin, end).
std::vector<Piece> parse_range(const Json& json, const TensorInfo& info) {
  const int64_t begin = whole_at(json, "begin"), end = whole_at(json, "end");
  if (begin < 0 || end < begin || end > info.num_elements())
    throw std::out_of_range(fmt::format("elements [{}, {})", begin, end));
  const Box all = whole_box(info.shape);
  if (info.num_elements() == 0) return {{all}};
  std::vector<Piece> pieces;
  for (const Box& box : boxes_of(all, begin, end)) {
    pieces.push_back({box});
    if (pieces.size() > 1) {
      const Piece& before = pieces[pieces.size() - 2];
      pieces.back().offset = before.offset + before.box.num_elements();
    }
  }
  return pieces;
}

ManifestTensor parse_tensor(const Json& json, size_t num_shards, int64_t version, Extent extent,
                            std::string* fault) {
  ManifestTensor tensor;
  json.at("name").get_to(tensor.info.name);
  if (!parse_dtype(json.at("dtype").get<std::string>(), &tensor.info.dtype))
    *fault = "unknown dtype";
  if (!json.at("shape").is_array()) throw std::out_of_range("a shape is not a list");
  for (const Json& size : json.at("shape")) tensor.info.shape.push_back(whole(size, "a shape"));
  if (!sane_shape(tensor.info)) *fault = "impossible shape";
  if (fault->empty()) {
    for (const Json& entry : json.at(version == 1 ? "ranges" : "pieces")) {
      std::vector<Piece> pieces = version == 1
                                      ? parse_range(entry, tensor.info)
                                      : std::vector<Piece>{parse_piece(entry, tensor.info)};
      for (Piece& piece : pieces) {
        piece.shard = whole_at(entry, "shard");
        entry.at("key").get_to(piece.key);
        if (piece.shard < 0 || piece.shard >= static_cast<int64_t>(num_shards))
          *fault = "a piece in no shard";
        tensor.pieces.push_back(std::move(piece));
      }
    }
  }
  if (fault->empty() && extent == Extent::kWhole) *fault = settle_pieces(tensor);
  if (!fault->empty()) *fault = fmt::format("tensor '{}': {}", tensor.info.name, *fault);
  return tensor;
}

bool plain_file_name(const std::string& name) {
  return !name.empty() && name[0] != '.' && name.find('/') == std::string::npos;
}

bool numbers_possible(int64_t attempt, int64_t step) {
  return attempt >= 1 && step >= 0 && step <= kStepMax;
}

bool version_known(int64_t version) {
  return version >= kManifestVersionMin && version <= kManifestVersion;
}
std::string unknown_version() {
  return fmt::format("its format version is none of {} … {}, which this program reads",
                     kManifestVersionMin, kManifestVersion);
}

// May throw a std::exception for what is absent or of another type; gives what else is wrong, or
// "".
std::string fill_manifest(const Json& json, Extent extent, Manifest* manifest) {
  if (json.at("format") != Json(kManifestFormat)) return "its manifest is of something else";
  const int64_t version = whole_at(json, "format_version");
  if (!version_known(version)) return unknown_version();
  json.at("job").get_to(manifest->job);
  manifest->attempt = whole_at(json, "attempt");
  manifest->step = whole_at(json, "step");
  if (!numbers_possible(manifest->attempt, manifest->step))
    return fmt::format("attempt {} or step {} cannot be", manifest->attempt, manifest->step);
  json.at("spec").get_to(manifest->spec_yaml);
  manifest->state = parse_state(json.at("state"));
  std::set<std::string> files;
  for (const Json& entry : json.at("shards")) {
    Shard shard;
    entry.at("file").get_to(shard.file);
    shard.bytes = whole_at(entry, "bytes");
    entry.at("xxh3_128").get_to(shard.checksum);
    if (!plain_file_name(shard.file))
      return fmt::format("'{}' is not the name of a shard", shard.file);
    if (!files.insert(shard.file).second) return fmt::format("shard '{}' stands twice", shard.file);
    manifest->shards.push_back(std::move(shard));
  }
  std::string fault;
  for (const Json& entry : json.at("tensors")) {
    manifest->tensors.push_back(
        parse_tensor(entry, manifest->shards.size(), version, extent, &fault));
    if (!fault.empty()) return fault;
  }
  return settle_tensors(manifest->tensors);
}

// Finds the head's keys in the outermost object and stops as soon as it has them.
class HeadReader final : public Json::json_sax_t {
 public:
  std::string format;
  int64_t version = -1;
  ManifestHead head{"", -1, -1};

  bool null() override { return take_none(); }
  bool boolean(bool) override { return take_none(); }
  bool number_integer(Json::number_integer_t value) override { return take_number(value); }
  bool number_unsigned(Json::number_unsigned_t value) override {
    return take_number(value <= uint64_t{1} << 62 ? static_cast<int64_t>(value) : -1);
  }
  bool number_float(Json::number_float_t, const std::string&) override { return take_none(); }
  bool string(std::string& value) override {
    if (key_ == "format") format = value;
    if (key_ == "job") head.job = value;
    return take_none();
  }
  bool binary(Json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    key_ = depth_ == 1 ? name : "";
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  bool take_none() {
    key_.clear();
    return !complete();
  }
  bool take_number(int64_t value) {
    if (key_ == "format_version") version = value;
    if (key_ == "attempt") head.attempt = value;
    if (key_ == "step") head.step = value;
    return take_none();
  }
  bool complete() const {
    return !format.empty() && version >= 0 && !head.job.empty() && head.attempt >= 0 &&
           head.step >= 0;
  }
  bool open() {
    ++depth_;
    key_.clear();
    return true;
  }
  bool close() {
    --depth_;
    return true;
  }

  int64_t depth_ = 0;
  std::string key_;  // of the value that comes next, in the outermost object
};

// manifest.json, compared with its seal.
Result<std::string> read_sealed(const std::string& path) {
  if (!path_exists(path))
    return Status(Code::kNotFound, fmt::format("there is no checkpoint '{}'", path));
  const auto complete = read_file(fmt::format("{}/{}", path, kCompleteFile), 4096);
  if (!complete.ok())
    return unusable(path, "it was never completed (" + complete.status().message() + ")");
  const auto text = read_file(fmt::format("{}/{}", path, kManifestFile), kManifestBytesMax);
  if (!text.ok()) return unusable(path, text.status().message());
  const std::string expected = checksum(std::as_bytes(std::span<const char>(*text))) + "\n";
  if (*complete != expected)
    return unusable(path, "manifest.json is not the one that was completed (checksum)");
  return *text;
}

}  // namespace

int64_t TensorInfo::num_elements() const {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

std::map<std::string, std::string> shard_metadata(const Manifest& manifest) {
  return {{"job", manifest.job}, {"step", std::to_string(manifest.step)}};
}

std::string settle_pieces(ManifestTensor& tensor) {
  std::sort(tensor.pieces.begin(), tensor.pieces.end(), [](const Piece& a, const Piece& b) {
    return std::pair(a.box.row, a.box.col) < std::pair(b.box.row, b.box.col);
  });
  std::vector<Box> boxes;
  for (const Piece& piece : tensor.pieces) boxes.push_back(piece.box);
  return tiling_fault(whole_box(tensor.info.shape), boxes);
}

std::string settle_tensors(std::vector<ManifestTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.info.name < b.info.name; });
  for (size_t i = 1; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].info.name;
    if (name == tensors[i - 1].info.name) return fmt::format("tensor '{}' stands twice", name);
  }
  return "";
}

Result<Manifest> parse_manifest(std::string_view text, const std::string& path, Extent extent) {
  if (const int64_t values = json_bounds(text).values; values > kManifestValuesMax) {
    return unusable(
        path, fmt::format("its manifest has {} values, {} at most", values, kManifestValuesMax));
  }
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return unusable(path, "its manifest is not JSON");
  Manifest manifest;
  try {
    if (const std::string fault = fill_manifest(json, extent, &manifest); !fault.empty())
      return unusable(path, fault);
  } catch (const std::exception& error) {
    return unusable(path, fmt::format("its manifest: {}", error.what()));
  }
  return manifest;
}

Result<Manifest> read_manifest(const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_sealed(path));
  return parse_manifest(text, path);
}

Result<ManifestHead> read_manifest_head(const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_sealed(path));
  HeadReader reader;
  Json::sax_parse(text, &reader);
  if (reader.format != kManifestFormat) return unusable(path, "its manifest is of something else");
  if (!version_known(reader.version)) return unusable(path, unknown_version());
  if (!numbers_possible(reader.head.attempt, reader.head.step))
    return unusable(path, fmt::format("attempt {} or step {} cannot be", reader.head.attempt,
                                      reader.head.step));
  return reader.head;
}

}  // namespace dsv3::checkpoint
