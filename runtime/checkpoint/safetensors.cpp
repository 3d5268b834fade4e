// safetensors reading and writing; see safetensors.h and FORMAT.md.
#include "runtime/checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/json_bounds.h"

namespace dsv3::checkpoint {
namespace {

// What is read: its objects find a key in logarithmic time, also among a hostile million.
using Json = nlohmann::json;
// What is written: keys stay in the order of the data.
using OrderedJson = nlohmann::ordered_json;

struct Tag {
  std::string_view name;
  int64_t bytes;
};

constexpr std::array<Tag, 16> kTags = {{{"BOOL", 1},
                                        {"U8", 1},
                                        {"I8", 1},
                                        {"F8_E5M2", 1},
                                        {"F8_E4M3", 1},
                                        {"F8_E8M0", 1},
                                        {"I16", 2},
                                        {"U16", 2},
                                        {"F16", 2},
                                        {"BF16", 2},
                                        {"I32", 4},
                                        {"U32", 4},
                                        {"F32", 4},
                                        {"F64", 8},
                                        {"I64", 8},
                                        {"U64", 8}}};

Status invalid(const std::string& path, const std::string& what) {
  return Status(Code::kInvalid,
                fmt::format("'{}' is not a usable safetensors file: {}", path, what));
}

// Bytes of a tensor of this shape; −1 when it is negative or passes 2^63.
int64_t shape_bytes(const std::vector<int64_t>& shape, int64_t element_bytes) {
  unsigned __int128 bytes = static_cast<unsigned __int128>(element_bytes);
  for (const int64_t size : shape) {
    if (size < 0) return -1;
    bytes *= static_cast<unsigned __int128>(size);
    if (bytes > static_cast<unsigned __int128>(std::numeric_limits<int64_t>::max())) {
      // A later 0 would make it empty, but no writer means that.
      return -1;
    }
  }
  return static_cast<int64_t>(bytes);
}

// Looks for what the parser alone would keep silently: a key that stands twice in one object, and
// more nesting than a header has. (Its own callback would do, but takes time with the square of the
// keys.)
class HeaderCheck final : public Json::json_sax_t {
 public:
  std::string fault;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(Json::number_integer_t) override { return true; }
  bool number_unsigned(Json::number_unsigned_t) override { return true; }
  bool number_float(Json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(Json::binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (keys_.back().insert(name).second) return true;
    return fails(fmt::format("'{}' stands twice in its header", name));
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return fails("its header is not JSON");
  }

 private:
  static constexpr size_t kDepthMax = 8;

  bool open() {
    keys_.emplace_back();
    return keys_.size() <= kDepthMax || fails("its header is nested too deeply");
  }
  bool close() {
    keys_.pop_back();
    return true;
  }
  bool fails(std::string why) {
    fault = std::move(why);
    return false;
  }

  std::vector<std::set<std::string>> keys_;  // of the objects (and arrays) that are open
};

bool is_count(const Json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{1} << 62;
}

// One entry of the header; an empty string when it is in order, else what is wrong.
std::string read_entry(const Json& entry, SafetensorsTensor* tensor) {
  if (!entry.is_object()) return "its entry is not an object";
  if (!entry.contains("dtype") || !entry["dtype"].is_string()) return "it has no dtype";
  tensor->tag = entry["dtype"].get<std::string>();
  const int64_t element_bytes = safetensors_tag_bytes(tensor->tag);
  if (element_bytes == 0) return fmt::format("unknown dtype '{}'", tensor->tag);
  if (!entry.contains("shape") || !entry["shape"].is_array()) return "it has no shape";
  for (const Json& size : entry["shape"]) {
    if (!is_count(size)) return "its shape is not made of sizes";
    tensor->shape.push_back(size.get<int64_t>());
  }
  const bool offsets = entry.contains("data_offsets") && entry["data_offsets"].is_array() &&
                       entry["data_offsets"].size() == 2 && is_count(entry["data_offsets"][0]) &&
                       is_count(entry["data_offsets"][1]);
  if (!offsets) return "it has no data_offsets [begin, end]";
  tensor->begin_byte = entry["data_offsets"][0].get<int64_t>();
  tensor->end_byte = entry["data_offsets"][1].get<int64_t>();
  const int64_t bytes = shape_bytes(tensor->shape, element_bytes);
  if (bytes < 0) return "its shape is too large";
  if (tensor->end_byte < tensor->begin_byte || tensor->end_byte - tensor->begin_byte != bytes) {
    return fmt::format("its data_offsets [{}, {}] do not hold the {} bytes of its shape and dtype",
                       tensor->begin_byte, tensor->end_byte, bytes);
  }
  return "";
}

// Every tensor begins where the one before ends, and the last ends with the file.
Status check_tiling(const std::string& path, const std::vector<SafetensorsTensor>& tensors,
                    int64_t data_bytes) {
  int64_t at = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    if (tensor.begin_byte != at) {
      return invalid(
          path, fmt::format("'{}' begins at byte {} of the data, expected {} ({})", tensor.name,
                            tensor.begin_byte, at, tensor.begin_byte < at ? "overlap" : "hole"));
    }
    at = tensor.end_byte;
  }
  if (at != data_bytes) {
    return invalid(path, fmt::format("the tensors take {} bytes, the data has {}", at, data_bytes));
  }
  return {};
}

}  // namespace

const char* safetensors_tag(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBf16:
      return "BF16";
    case DType::kI32:
      return "I32";
    case DType::kI64:
      return "I64";
    case DType::kF64:
      return "F64";
  }
  return "";
}

std::optional<DType> dtype_of_tag(std::string_view tag) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI32, DType::kI64, DType::kF64}) {
    if (tag == safetensors_tag(dtype)) return dtype;
  }
  return std::nullopt;
}

int64_t safetensors_tag_bytes(std::string_view tag) {
  for (const Tag& known : kTags) {
    if (known.name == tag) return known.bytes;
  }
  return 0;
}

int64_t SafetensorsTensor::num_elements() const {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  SafetensorsFile opened;
  opened.path_ = path;
  DSV3_ASSIGN_OR_RETURN(opened.file_, MappedFile::open(path));
  const auto bytes = opened.file_.bytes();
  const auto size = static_cast<int64_t>(bytes.size());
  if (size < 8)
    return invalid(path, fmt::format("it has {} bytes, less than the 8 of its length", size));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > static_cast<uint64_t>(kSafetensorsHeaderBytesMax)) {
    return invalid(path, fmt::format("a header of {} bytes, more than {}", header_bytes,
                                     kSafetensorsHeaderBytesMax));
  }
  if (static_cast<int64_t>(header_bytes) > size - 8) {
    return invalid(path, fmt::format("a header of {} bytes in a file of {}", header_bytes, size));
  }
  opened.data_begin_ = 8 + static_cast<int64_t>(header_bytes);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  if (!text.starts_with('{')) return invalid(path, "its header does not begin with '{'");
  // An entry is 6 values and its sizes.
  if (const int64_t values = json_bounds(text).values; values > 10 * kSafetensorsTensorsMax) {
    return invalid(path, fmt::format("its header has {} values, more than {} tensors need", values,
                                     kSafetensorsTensorsMax));
  }
  HeaderCheck check;
  if (!Json::sax_parse(text, &check)) return invalid(path, check.fault);
  const Json header = Json::parse(text, nullptr, false);
  if (!header.is_object()) return invalid(path, "its header is not JSON");
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return invalid(path, "__metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string())
          return invalid(path, fmt::format("__metadata__ '{}' is not a string", key));
        opened.metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    SafetensorsTensor tensor;
    tensor.name = name;
    if (const std::string wrong = read_entry(entry, &tensor); !wrong.empty()) {
      return invalid(path, fmt::format("tensor '{}': {}", name, wrong));
    }
    opened.tensors_.push_back(std::move(tensor));
  }
  std::stable_sort(
      opened.tensors_.begin(), opened.tensors_.end(), [](const auto& a, const auto& b) {
        return std::pair(a.begin_byte, a.end_byte) < std::pair(b.begin_byte, b.end_byte);
      });
  DSV3_RETURN_IF_ERROR(check_tiling(path, opened.tensors_, size - opened.data_begin_));
  for (size_t i = 0; i < opened.tensors_.size(); ++i) opened.by_name_[opened.tensors_[i].name] = i;
  return opened;
}

const SafetensorsTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsTensor& tensor) const {
  return file_.bytes().subspan(static_cast<size_t>(data_begin_ + tensor.begin_byte),
                               static_cast<size_t>(tensor.end_byte - tensor.begin_byte));
}

Result<std::vector<float>> SafetensorsFile::read_f32(std::string_view name) const {
  const SafetensorsTensor* tensor = find(name);
  if (tensor == nullptr)
    return Status(Code::kNotFound, fmt::format("'{}' has no tensor '{}'", path_, name));
  const auto from = bytes(*tensor);
  std::vector<float> values(static_cast<size_t>(tensor->num_elements()));
  if (tensor->tag == "F32") {
    if (!values.empty()) std::memcpy(values.data(), from.data(), from.size());
    return values;
  }
  if (tensor->tag != "BF16") {
    return Status(Code::kInvalid, fmt::format("'{}': tensor '{}' is {}, not F32 or BF16", path_,
                                              name, tensor->tag));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    Bf16 value;
    std::memcpy(&value, from.data() + 2 * i, sizeof value);
    values[i] = static_cast<float>(value);
  }
  return values;
}

Result<std::string> lay_out_safetensors(const std::string& path,
                                        std::vector<SafetensorsTensor>& tensors,
                                        const std::map<std::string, std::string>& metadata) {
  if (static_cast<int64_t>(tensors.size()) > kSafetensorsTensorsMax) {
    return Status(Code::kInvalid, fmt::format("'{}': {} tensors are more than {}", path,
                                              tensors.size(), kSafetensorsTensorsMax));
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    const int64_t a_bytes = safetensors_tag_bytes(a.tag);
    const int64_t b_bytes = safetensors_tag_bytes(b.tag);
    return a_bytes != b_bytes ? a_bytes > b_bytes : a.name < b.name;
  });
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  // Appended as to a list, and looked up elsewhere: an ordered object searches from its start.
  auto& entries = header.get_ref<OrderedJson::object_t&>();
  std::set<std::string_view> names;
  int64_t at = 0;
  for (SafetensorsTensor& tensor : tensors) {
    const int64_t element_bytes = safetensors_tag_bytes(tensor.tag);
    const int64_t bytes = element_bytes == 0 ? -1 : shape_bytes(tensor.shape, element_bytes);
    if (bytes < 0 || tensor.name == "__metadata__") {
      return Status(Code::kInvalid, fmt::format("'{}': tensor '{}' of dtype '{}' cannot be written",
                                                path, tensor.name, tensor.tag));
    }
    if (!names.insert(tensor.name).second) {
      return Status(Code::kInvalid,
                    fmt::format("'{}': tensor '{}' stands twice", path, tensor.name));
    }
    tensor.begin_byte = at;
    tensor.end_byte = at += bytes;
    entries.emplace_back(tensor.name,
                         OrderedJson{{"dtype", tensor.tag},
                                     {"shape", tensor.shape},
                                     {"data_offsets", {tensor.begin_byte, tensor.end_byte}}});
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  if (static_cast<int64_t>(text.size()) > kSafetensorsHeaderBytesMax) {
    return Status(Code::kInvalid, fmt::format("'{}': a header of {} bytes is more than {}", path,
                                              text.size(), kSafetensorsHeaderBytesMax));
  }
  const uint64_t header_bytes = text.size();
  std::string length(sizeof header_bytes, '\0');
  std::memcpy(length.data(), &header_bytes, sizeof header_bytes);
  return length + text;
}

Result<SafetensorsWriter> SafetensorsWriter::create(
    const std::string& path, std::vector<SafetensorsTensor> tensors,
    const std::map<std::string, std::string>& metadata) {
  SafetensorsWriter writer;
  DSV3_ASSIGN_OR_RETURN(const std::string header, lay_out_safetensors(path, tensors, metadata));
  writer.path_ = path;
  writer.tensors_ = std::move(tensors);
  writer.running_ = std::make_unique<Checksum>();
  DSV3_ASSIGN_OR_RETURN(writer.file_, FileWriter::create(path));
  writer.bytes_left_ = static_cast<int64_t>(header.size());
  DSV3_RETURN_IF_ERROR(writer.append(std::as_bytes(std::span<const char>(header))));
  writer.bytes_left_ = writer.tensors_.empty() ? 0 : writer.tensors_.back().end_byte;
  return writer;
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (static_cast<int64_t>(bytes.size()) > bytes_left_) {
    return Status(Code::kFailed, fmt::format("'{}': {} bytes more than its tensors hold", path_,
                                             static_cast<int64_t>(bytes.size()) - bytes_left_));
  }
  bytes_left_ -= static_cast<int64_t>(bytes.size());
  running_->update(bytes);
  return file_.append(bytes);
}

Status SafetensorsWriter::finish() {
  if (bytes_left_ != 0) {
    return Status(Code::kFailed,
                  fmt::format("'{}': {} bytes of its tensors were not given", path_, bytes_left_));
  }
  checksum_ = running_->hex();
  return file_.finish();
}

}  // namespace dsv3::checkpoint
