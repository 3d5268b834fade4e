// Plan the files, stream the tensors into a hidden folder, rename it; see export.h.
#include "runtime/convert/export.h"

#include <fmt/format.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/leftovers.h"
#include "configs/spec/hf_config_json.h"
#include "configs/spec/parse.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/convert/hf_tensors.h"
#include "runtime/convert/out_folder.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;

constexpr int64_t kBufferElements = 2 << 20;  // read and written at once: 8 MiB of f32

struct Work {
  const ExportOptions& options;
  const Checkpoint& checkpoint;
  DType dtype = DType::kF32;
  std::vector<HfTensor> tensors;
  std::string folder;  // being written
  int64_t total_bytes = 0;
  int64_t done_bytes = 0;

  DType dtype_of(const HfTensor& tensor) const { return tensor.is_buffer ? DType::kF32 : dtype; }
  int64_t bytes_of(const HfTensor& tensor) const {
    return tensor.num_elements() * static_cast<int64_t>(dtype_bytes(dtype_of(tensor)));
  }
};

Result<DType> choose_dtype(const std::string& asked, const spec::JobSpec& job) {
  const std::string& name = asked.empty() ? job.training.dtype : asked;
  if (name == "fp32") return DType::kF32;
  if (name == "bf16" || (asked.empty() && name == "fp8")) return DType::kBf16;
  return Status(Code::kInvalid, fmt::format("--dtype is '{}'", asked), "use bf16 or fp32");
}

// Every tensor has its source, as f32 and of its shape.
Status check_sources(const Checkpoint& saved, const std::vector<HfTensor>& tensors) {
  for (const HfTensor& tensor : tensors) {
    if (tensor.source.empty()) continue;
    const checkpoint::TensorInfo* info = saved.find(tensor.source);
    if (info != nullptr && info->dtype == DType::kF32 && info->shape == tensor.shape) continue;
    return Status(Code::kCheckpointUnusable,
                  fmt::format("'{}' {} tensor {} of its own model", saved.path(),
                              info == nullptr ? "lacks" : "holds in another shape or dtype the",
                              tensor.source));
  }
  return {};
}

// Fills files in model order.
std::vector<std::vector<const HfTensor*>> plan_files(const Work& work) {
  std::vector<std::vector<const HfTensor*>> files;
  int64_t filled_bytes = 0;
  for (const HfTensor& tensor : work.tensors) {
    const int64_t bytes = work.bytes_of(tensor);
    if (files.empty() ||
        (!files.back().empty() && filled_bytes + bytes > work.options.shard_bytes_max)) {
      files.emplace_back();
      filled_bytes = 0;
    }
    files.back().push_back(&tensor);
    filled_bytes += bytes;
  }
  return files;
}

Status write_tensor(Work& work, const HfTensor& tensor, checkpoint::SafetensorsWriter& writer) {
  const int64_t total = tensor.num_elements();
  std::vector<float> values(static_cast<size_t>(std::min(total, kBufferElements)));
  std::vector<Bf16> rounded(work.dtype_of(tensor) == DType::kBf16 ? values.size() : 0);
  for (int64_t at = 0; at < total; at += kBufferElements) {
    const int64_t count = std::min(kBufferElements, total - at);
    const auto part = std::span(values).first(static_cast<size_t>(count));
    if (!tensor.source.empty()) {
      DSV3_RETURN_IF_ERROR(
          work.checkpoint.read(tensor.source, std::as_writable_bytes(part), at, count));
    }
    std::span<const std::byte> bytes = std::as_bytes(part);
    if (!rounded.empty()) {
      std::transform(part.begin(), part.end(), rounded.begin(), [](float v) { return Bf16(v); });
      bytes = std::as_bytes(std::span(rounded).first(part.size()));
    }
    DSV3_RETURN_IF_ERROR(writer.append(bytes));
    work.done_bytes += static_cast<int64_t>(bytes.size());
    if (work.options.progress) work.options.progress(work.done_bytes, work.total_bytes);
  }
  return {};
}

Status write_file_of(Work& work, const std::string& file,
                     const std::vector<const HfTensor*>& tensors) {
  std::vector<checkpoint::SafetensorsTensor> entries;
  std::map<std::string, const HfTensor*> by_name;
  for (const HfTensor* tensor : tensors) {
    by_name[tensor->name] = tensor;
    entries.push_back(
        {tensor->name, checkpoint::safetensors_tag(work.dtype_of(*tensor)), tensor->shape});
  }
  DSV3_ASSIGN_OR_RETURN(
      auto writer, checkpoint::SafetensorsWriter::create(work.folder + "/" + file,
                                                         std::move(entries), {{"format", "pt"}}));
  for (const checkpoint::SafetensorsTensor& entry : writer.order())
    DSV3_RETURN_IF_ERROR(write_tensor(work, *by_name.at(entry.name), writer));
  return writer.finish();
}

Result<int64_t> write_weights(Work& work) {
  const auto files = plan_files(work);
  if (files.size() == 1) {
    DSV3_RETURN_IF_ERROR(write_file_of(work, "model.safetensors", files[0]));
    return 1;
  }
  nlohmann::ordered_json index;
  index["metadata"] = {{"total_size", work.total_bytes}};
  std::map<std::string, std::string> weight_map;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size());
    DSV3_RETURN_IF_ERROR(write_file_of(work, file, files[i]));
    for (const HfTensor* tensor : files[i]) weight_map[tensor->name] = file;
  }
  index["weight_map"] = weight_map;
  DSV3_RETURN_IF_ERROR(
      write_file(work.folder + "/model.safetensors.index.json", index.dump(2) + "\n"));
  return static_cast<int64_t>(files.size());
}

// The SentencePiece model that the job's data was made with, where it still lies; "" otherwise.
std::string find_tokenizer(const spec::DataSpec& data) {
  std::vector<std::string> candidates;
  for (const auto& [prefix, weight] : data.path) {
    const bool demo = prefix == "@demo";
    candidates.push_back((demo ? default_state_dir() + "/data/demo" : prefix) + ".tokenizer.model");
  }
  if (data.tokenizer.ends_with(".model")) candidates.push_back(data.tokenizer);
  for (const std::string& path : candidates) {
    if (path_exists(path)) return path;
  }
  return "";
}

Status copy_tokenizer(const std::string& from, const std::string& folder) {
  if (from.empty()) return {};
  DSV3_ASSIGN_OR_RETURN(const std::string bytes, read_file(from));
  return write_file(folder + "/tokenizer.model", bytes);
}

std::string hidden_folder(const std::string& out) {
  const fs::path path(out);
  return (path.parent_path() / ("." + path.filename().string() + ".exporting")).string();
}

// Without what a killed export left.
Status make_empty(const std::string& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) {
    return Status(Code::kFailed, fmt::format("cannot clear '{}': {}", folder, error.message()));
  }
  return make_dirs(folder);
}

Status publish(const std::string& hidden, const std::string& out) {
  DSV3_RETURN_IF_ERROR(sync_path(hidden));
  // Takes the place of an empty folder; anything else that came to be there meanwhile stays.
  if (::rename(hidden.c_str(), out.c_str()) != 0) {
    return Status(Code::kFailed,
                  fmt::format("cannot rename '{}' to '{}': {}", hidden, out, std::strerror(errno)));
  }
  return sync_path(fs::path(out).parent_path().string());
}

std::string absolute_path(const std::string& path) {
  std::error_code error;
  std::string absolute = fs::absolute(path, error).lexically_normal().string();
  while (absolute.size() > 1 && absolute.ends_with('/')) absolute.pop_back();
  return absolute;
}

Result<spec::JobSpec> read_spec(const Checkpoint& saved) {
  const spec::Parsed parsed = spec::parse_yaml(saved.spec_yaml(), saved.path() + "/manifest.json");
  if (const Status status = spec::to_status(parsed.diagnostics); !status.ok()) {
    return Status(Code::kCheckpointUnusable, fmt::format("the config in '{}' can't be read: {}",
                                                         saved.path(), status.message()));
  }
  return parsed.job;
}

}  // namespace

Result<ExportReport> export_hf(const ExportOptions& options) {
  const std::string out = absolute_path(options.out_dir);
  DSV3_RETURN_IF_ERROR(check_free(out));
  DSV3_ASSIGN_OR_RETURN(const std::string path, checkpoint::find_checkpoint(options.checkpoint));
  // A checkpoint that was looked for has been verified on the way.
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved, Checkpoint::open(path, path == options.checkpoint));
  DSV3_ASSIGN_OR_RETURN(const spec::JobSpec job, read_spec(saved));
  ExportReport report;
  report.path = out;
  report.checkpoint = path;
  report.model = job.model;
  DSV3_ASSIGN_OR_RETURN(report.dtype, choose_dtype(options.dtype, job));
  DSV3_ASSIGN_OR_RETURN(const std::string config,
                        hf_config_json(job.model, report.dtype, &report.notes));
  Work work{.options = options, .checkpoint = saved, .dtype = report.dtype};
  work.tensors = export_tensors(job.model);
  DSV3_RETURN_IF_ERROR(check_sources(saved, work.tensors));
  for (const HfTensor& tensor : work.tensors) work.total_bytes += work.bytes_of(tensor);
  DSV3_RETURN_IF_ERROR(check_room(out, work.total_bytes));
  work.folder = hidden_folder(out);
  const Leftover leftover(work.folder);
  DSV3_RETURN_IF_ERROR(make_empty(work.folder));
  report.tokenizer = find_tokenizer(job.data);
  const auto write_all = [&]() -> Status {
    DSV3_RETURN_IF_ERROR(write_file(work.folder + "/config.json", config));
    DSV3_RETURN_IF_ERROR(copy_tokenizer(report.tokenizer, work.folder));
    DSV3_ASSIGN_OR_RETURN(report.files, write_weights(work));
    return publish(work.folder, out);
  };
  if (const Status status = write_all(); !status.ok()) {
    std::error_code ignored;
    fs::remove_all(work.folder, ignored);
    return status;
  }
  report.tensors = static_cast<int64_t>(work.tensors.size());
  report.bytes = work.total_bytes;
  return report;
}

}  // namespace dsv3::convert
