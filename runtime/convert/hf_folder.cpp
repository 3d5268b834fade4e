// Opening the files and reading through them; see hf_folder.h.
#include "runtime/convert/hf_folder.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/json_bounds.h"
#include "runtime/convert/elements.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;
using checkpoint::SafetensorsFile;
using checkpoint::SafetensorsTensor;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::string_view kEightBit = "F8_E4M3";

// Gives the pages of what was read back to the system; they are the file's, so nothing is lost.
void forget(std::span<const std::byte> bytes) {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<Json> read_json(const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  constexpr int64_t kValuesMax = 2'000'000;  // one for each tensor in the index
  if (const int64_t values = json_bounds(text).values; values > kValuesMax) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' has {} values, {} at most", path, values, kValuesMax));
  }
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return Status(Code::kInvalid, fmt::format("'{}' is not JSON", path));
  return json;
}

// A value for a message. Lists and objects are only named: their nesting is the file's to choose,
// and writing one out takes stack for every level.
std::string shown(const Json& value) {
  constexpr size_t kShownMax = 200;
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  const std::string text = value.dump();
  return text.size() <= kShownMax ? text : text.substr(0, kShownMax) + "…";
}

bool is_block_size(const Json& value) {
  return value.is_array() && value.size() == 2 && value[0].is_number_integer() &&
         value[1].is_number_integer() && value[0].get<int64_t>() >= 1 &&
         value[1].get<int64_t>() >= 1;
}

Result<HfWeightsInfo> read_info(const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const Json config, read_json(path));
  HfWeightsInfo info;
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (const auto at = config.find(key); at != config.end() && at->is_string())
      info.dtype = at->get<std::string>();
  }
  const auto quantized = config.find("quantization_config");
  if (quantized == config.end() || quantized->is_null()) return info;
  const auto text = [&](const char* key) {
    const auto at = quantized->is_object() ? quantized->find(key) : quantized->end();
    return at != quantized->end() && at->is_string() ? at->get<std::string>() : std::string();
  };
  if (text("quant_method") != "fp8" || (text("fmt") != "e4m3" && !text("fmt").empty())) {
    return Status(
        Code::kInvalid,
        fmt::format("the weights are quantised by '{}' in format '{}' ({}); only DeepSeek's "
                    "fp8 (e4m3, weight_scale_inv) is read",
                    text("quant_method"), text("fmt"), path),
        "import the unquantised weights");
  }
  info.fp8 = true;
  if (const auto block = quantized->find("weight_block_size");
      block != quantized->end() && !block->is_null()) {
    if (!is_block_size(*block)) {
      return Status(Code::kInvalid,
                    fmt::format("weight_block_size in '{}' is {}, not two sizes of at least 1",
                                path, shown(*block)));
    }
    info.block_rows = (*block)[0].get<int64_t>();
    info.block_cols = (*block)[1].get<int64_t>();
  }
  return info;
}

// A shard's name may lead nowhere else.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos && name != "." && name != "..";
}

int64_t divide_up(int64_t a, int64_t b) {
  return a / b + (a % b != 0);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

std::string scale_name(std::string_view weight) {
  return std::string(weight) + "_scale_inv";
}

Result<HfFolder> HfFolder::open(const std::string& dir) {
  std::error_code error;
  if (!std::filesystem::exists(dir, error))
    return Status(Code::kNotFound, fmt::format("there is no folder '{}'", dir));
  if (!std::filesystem::is_directory(dir, error)) {
    return Status(Code::kInvalid, fmt::format("'{}' is not a folder", dir),
                  "give the folder that holds config.json and the .safetensors files");
  }
  HfFolder folder;
  folder.dir_ = std::filesystem::absolute(dir, error).lexically_normal().string();
  while (folder.dir_.size() > 1 && folder.dir_.ends_with('/')) folder.dir_.pop_back();
  if (!path_exists(folder.config_path()))
    return Status(Code::kNotFound, fmt::format("there is no config.json in '{}'", dir));
  DSV3_ASSIGN_OR_RETURN(folder.info_, read_info(folder.config_path()));
  const std::string index = folder.dir_ + "/" + kIndexFile;
  if (path_exists(index)) {
    DSV3_RETURN_IF_ERROR(folder.open_index(index));
  } else if (path_exists(folder.dir_ + "/" + kSingleFile)) {
    DSV3_RETURN_IF_ERROR(folder.add_file(kSingleFile));
  } else {
    return Status(Code::kNotFound,
                  fmt::format("there is neither {} nor {} in '{}'", kSingleFile, kIndexFile, dir),
                  "only safetensors files are read");
  }
  return folder;
}

Status HfFolder::add_file(const std::string& file) {
  DSV3_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::open(dir_ + "/" + file));
  files_.push_back(std::make_unique<SafetensorsFile>(std::move(opened)));
  for (const SafetensorsTensor& entry : files_.back()->tensors()) {
    if (!tensors_.emplace(entry.name, Tensor{files_.back().get(), &entry}).second) {
      return Status(Code::kInvalid, fmt::format("tensor {} stands in two files of '{}'; one is {}",
                                                entry.name, dir_, file));
    }
  }
  return {};
}

Status HfFolder::open_index(const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const Json index, read_json(path));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object())
    return Status(Code::kInvalid, fmt::format("'{}' has no weight_map", path));
  std::set<std::string> files;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || !is_plain_name(file.get<std::string>())) {
      return Status(Code::kInvalid,
                    fmt::format("'{}' puts tensor {} into {}, which is not a file's name", path,
                                name, shown(file)));
    }
    files.insert(file.get<std::string>());
  }
  for (const std::string& file : files) {
    if (!path_exists(dir_ + "/" + file)) {
      return Status(Code::kNotFound,
                    fmt::format("shard {} is missing in '{}'; {} names it", file, dir_, kIndexFile),
                    "get the rest of the files");
    }
    DSV3_RETURN_IF_ERROR(add_file(file));
  }
  for (const auto& [name, file] : map->items()) {
    const Tensor* tensor = find(name);
    if (tensor != nullptr && tensor->file->find(name) != nullptr) continue;
    return Status(Code::kInvalid, fmt::format("'{}' puts tensor {} into {}, which doesn't hold it",
                                              path, name, file.get<std::string>()));
  }
  return {};
}

const HfFolder::Tensor* HfFolder::find(std::string_view name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

Status HfFolder::check_readable(std::string_view name) const {
  const SafetensorsTensor& entry = *find(name)->entry;
  if (!can_decode(entry.tag) || entry.tag == "F8_E8M0") {
    return Status(Code::kInvalid,
                  fmt::format("tensor {} is {}; weights are read from F32, BF16, F16 "
                              "and F8_E4M3",
                              name, entry.tag));
  }
  const Tensor* scale = find(scale_name(name));
  if (entry.tag != kEightBit) {
    if (scale == nullptr) return {};
    return Status(Code::kInvalid,
                  fmt::format("tensor {} is {}, but has a scale of 8-bit weights, {}", name,
                              entry.tag, scale_name(name)));
  }
  if (scale == nullptr || entry.shape.size() != 2) {
    return Status(
        Code::kInvalid,
        scale == nullptr
            ? fmt::format("8-bit tensor {} has no {}", name, scale_name(name))
            : fmt::format("8-bit tensor {} is not a matrix but {}", name, shape_text(entry.shape)));
  }
  const std::vector<int64_t> blocks = {divide_up(entry.shape[0], info_.block_rows),
                                       divide_up(entry.shape[1], info_.block_cols)};
  if (scale->entry->shape != blocks || !can_decode(scale->entry->tag)) {
    return Status(
        Code::kInvalid,
        fmt::format("{} is {} {}; {} in blocks of {} × {} needs floats {}", scale_name(name),
                    scale->entry->tag, shape_text(scale->entry->shape), shape_text(entry.shape),
                    info_.block_rows, info_.block_cols, shape_text(blocks)));
  }
  return {};
}

void HfFolder::read_f32(std::string_view name, int64_t begin, std::span<float> out) const {
  const Tensor& tensor = *find(name);
  const std::string& tag = tensor.entry->tag;
  const auto element = static_cast<size_t>(checkpoint::safetensors_tag_bytes(tag));
  const auto bytes = tensor.file->bytes(*tensor.entry)
                         .subspan(static_cast<size_t>(begin) * element, out.size() * element);
  decode(tag, bytes, out);
  forget(bytes);
  if (tag != kEightBit || out.empty()) return;
  const Tensor& scale = *find(scale_name(name));
  const auto scale_bytes = scale.file->bytes(*scale.entry);
  const size_t scale_element =
      scale_bytes.size() / static_cast<size_t>(scale.entry->num_elements());
  const int64_t cols = tensor.entry->shape[1], scale_cols = scale.entry->shape[1];
  const int64_t end = begin + static_cast<int64_t>(out.size());
  std::vector<float> row_scales(static_cast<size_t>(scale_cols));
  for (int64_t at = begin; at < end;) {
    const int64_t row = at / cols, row_end = std::min((row + 1) * cols, end);
    const auto first = static_cast<size_t>(row / info_.block_rows * scale_cols) * scale_element;
    decode(scale.entry->tag, scale_bytes.subspan(first, row_scales.size() * scale_element),
           row_scales);
    for (; at < row_end; ++at)
      out[static_cast<size_t>(at - begin)] *=
          row_scales[static_cast<size_t>(at % cols / info_.block_cols)];
  }
}

}  // namespace dsv3::convert
