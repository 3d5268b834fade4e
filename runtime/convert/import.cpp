// Match the tensors, then let the checkpoint's writer pull them; see import.h.
#include "runtime/convert/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "base/file.h"
#include "base/leftovers.h"
#include "configs/spec/model_tensors.h"
#include "configs/spec/parse.h"
#include "configs/spec/render.h"
#include "configs/spec/validate.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/convert/hf_folder.h"
#include "runtime/convert/hf_tensors.h"
#include "runtime/convert/out_folder.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJob = "import";
constexpr int64_t kCompareElements = 1 << 20;

std::string and_more(size_t others) {
  return others == 0 ? "" : fmt::format(" (and {} more)", others);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// The model of config.json, with what a training job would start from.
Result<spec::JobSpec> read_config(const HfFolder& folder, std::vector<std::string>* notes) {
  DSV3_ASSIGN_OR_RETURN(spec::Parsed parsed, spec::load(folder.config_path()));
  DSV3_RETURN_IF_ERROR(spec::to_status(parsed.diagnostics));
  for (const spec::Diagnostic& diagnostic : parsed.diagnostics)
    notes->push_back(spec::to_string(diagnostic));
  // An advice for new models; released ones are as they are.
  spec::MoeSpec& moe = parsed.job.model.moe;
  moe.allow_uneven_groups = moe.num_experts > 0 && moe.num_experts_per_token % moe.topk_group != 0;
  DSV3_RETURN_IF_ERROR(spec::to_status(spec::validate(parsed.job, {.origins = &parsed.origins})));
  parsed.job.training.dtype = folder.info().dtype == "float32" ? "fp32" : "bf16";
  return std::move(parsed.job);
}

bool holds_layer(const HfFolder& folder, int64_t layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const auto at = folder.tensors().lower_bound(prefix);
  return at != folder.tensors().end() && at->first.starts_with(prefix);
}

// config.json often promises MTP modules that were dropped when the weights were saved.
void settle_mtp(const HfFolder& folder, spec::ModelSpec* model, std::vector<std::string>* notes) {
  if (model->mtp_layers == 0 || holds_layer(folder, model->num_layers)) return;
  notes->push_back(
      fmt::format("config.json says num_nextn_predict_layers {}, but the files hold no MTP module: "
                  "imported with mtp_layers 0; to train from it with this config.json give "
                  "--set model.mtp_layers=0",
                  model->mtp_layers));
  model->mtp_layers = 0;
}

Status check_present(const HfFolder& folder, const std::vector<spec::TensorInfo>& wanted) {
  std::vector<const spec::TensorInfo*> missing;
  for (const spec::TensorInfo& info : wanted) {
    const HfFolder::Tensor* tensor = folder.find(info.name);
    if (tensor == nullptr) {
      missing.push_back(&info);
      continue;
    }
    if (tensor->entry->shape != info.shape) {
      return Status(
          Code::kInvalid,
          fmt::format("tensor {} is {} in '{}', but config.json makes it {}", info.name,
                      shape_text(tensor->entry->shape), folder.dir(), shape_text(info.shape)),
          "the files and config.json are of different models");
    }
    DSV3_RETURN_IF_ERROR(folder.check_readable(info.name));
  }
  if (missing.empty()) return {};
  return Status(Code::kInvalid,
                fmt::format("tensor {} is missing in '{}'{}", missing.front()->name, folder.dir(),
                            and_more(missing.size() - 1)),
                "config.json describes another model, or files are missing");
}

bool same_values(const HfFolder& folder, const std::string& a, const std::string& b) {
  const HfFolder::Tensor *left = folder.find(a), *right = folder.find(b);
  if (left == nullptr || right == nullptr || left->entry->shape != right->entry->shape)
    return false;
  if (!folder.check_readable(a).ok() || !folder.check_readable(b).ok()) return false;
  const int64_t total = left->entry->num_elements();
  std::vector<float> x, y;
  for (int64_t at = 0; at < total; at += kCompareElements) {
    const auto count = static_cast<size_t>(std::min(kCompareElements, total - at));
    x.resize(count);
    y.resize(count);
    folder.read_f32(a, at, x);
    folder.read_f32(b, at, y);
    if (x != y) return false;
  }
  return true;
}

// Tensors that some writers add although the model has them already, or has no use for them.
void note_copies(const HfFolder& folder, const spec::ModelSpec& model,
                 std::set<std::string, std::less<>>* known, std::vector<std::string>* notes) {
  for (const SharedCopy& copy : shared_copies(model)) {
    if (folder.find(copy.name) == nullptr) continue;
    known->insert(copy.name);
    known->insert(scale_name(copy.name));
    notes->push_back(same_values(folder, copy.name, copy.of)
                         ? fmt::format("{} is a copy of {} and not imported", copy.name, copy.of)
                         : fmt::format("{} differs from {}, which the model uses in its place: not "
                                       "imported",
                                       copy.name, copy.of));
  }
}

Status check_no_others(const HfFolder& folder, const spec::ModelSpec& model,
                       const std::vector<spec::TensorInfo>& wanted,
                       std::vector<std::string>* notes) {
  std::set<std::string, std::less<>> known;
  for (const spec::TensorInfo& info : wanted) {
    known.insert(info.name);
    known.insert(scale_name(info.name));
  }
  note_copies(folder, model, &known, notes);
  std::vector<std::string> others;
  for (const auto& [name, tensor] : folder.tensors()) {
    const bool empty = tensor.entry->num_elements() == 0;  // shared experts of width 0
    const bool derived = name.ends_with("rotary_emb.inv_freq");
    if (!empty && !derived && !known.contains(name)) others.push_back(name);
  }
  if (others.empty()) return {};
  return Status(Code::kInvalid,
                fmt::format("'{}' holds tensor {}{}, which the model that config.json describes "
                            "doesn't have",
                            folder.dir(), others.front(), and_more(others.size() - 1)),
                "config.json and the files are of different models");
}

checkpoint::SaveRequest make_request(const HfFolder& folder, const ImportOptions& options,
                                     const spec::JobSpec& job,
                                     const std::vector<spec::TensorInfo>& tensors,
                                     int64_t total_bytes) {
  checkpoint::SaveRequest request;
  request.dir = options.out_dir;
  request.job = kJob;
  request.spec_yaml = spec::to_yaml(job);
  request.state.compute_dtype = "fp32";
  request.state.extra = {{"imported_from", folder.dir()}};
  auto done = std::make_shared<int64_t>(0);
  for (const spec::TensorInfo& info : tensors) {
    checkpoint::TensorRef ref{.name = info.name, .dtype = DType::kF32, .shape = info.shape};
    ref.fill = [&folder, &options, done, total_bytes, name = info.name](
                   int64_t begin, std::span<std::byte> out) -> Status {
      const std::span values(reinterpret_cast<float*>(out.data()), out.size() / 4);
      folder.read_f32(name, begin, values);
      const auto bad = std::find_if_not(values.begin(), values.end(),
                                        [](float value) { return std::isfinite(value); });
      if (bad != values.end()) {
        return Status(Code::kInvalid,
                      fmt::format("tensor {} in '{}' has a weight that is {}, element {}", name,
                                  folder.dir(), *bad, begin + (bad - values.begin())),
                      "the files are damaged, or that model's training had diverged");
      }
      *done += static_cast<int64_t>(out.size());
      if (options.progress) options.progress(*done, total_bytes);
      return {};
    };
    request.tensors.push_back(std::move(ref));
  }
  return request;
}

}  // namespace

Result<ImportReport> import_hf(const ImportOptions& options) {
  ImportReport report;
  DSV3_ASSIGN_OR_RETURN(const HfFolder folder, HfFolder::open(options.hf_dir));
  DSV3_ASSIGN_OR_RETURN(spec::JobSpec job, read_config(folder, &report.notes));
  settle_mtp(folder, &job.model, &report.notes);
  std::vector<spec::TensorInfo> tensors = spec::model_tensors(job.model);
  int64_t bytes = 0;
  for (const spec::TensorInfo& info : tensors) report.parameters += info.num_elements();
  for (spec::TensorInfo& buffer : spec::model_buffers(job.model))
    tensors.push_back(std::move(buffer));
  for (const spec::TensorInfo& info : tensors) bytes += 4 * info.num_elements();
  DSV3_RETURN_IF_ERROR(check_present(folder, tensors));
  DSV3_RETURN_IF_ERROR(check_no_others(folder, job.model, tensors, &report.notes));
  DSV3_RETURN_IF_ERROR(check_free(options.out_dir));
  DSV3_RETURN_IF_ERROR(check_room(options.out_dir, bytes));
  const bool existed = path_exists(options.out_dir);
  const Leftover leftover = existed ? Leftover() : Leftover(options.out_dir);
  const auto saved = checkpoint::save(make_request(folder, options, job, tensors, bytes));
  if (!saved.ok()) {
    std::error_code ignored;
    if (!existed) fs::remove_all(options.out_dir, ignored);
    return saved.status();
  }
  report.path = saved->path;
  report.bytes = saved->bytes;
  report.model = job.model;
  report.tensors = static_cast<int64_t>(tensors.size());
  report.files = folder.num_files();
  return report;
}

}  // namespace dsv3::convert
