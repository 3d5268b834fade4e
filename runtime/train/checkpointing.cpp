// Saving and restoring a session; see checkpointing.h.
#include "runtime/train/checkpointing.h"

#include <fmt/core.h>

#include <set>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "configs/spec/render.h"
#include "runtime/checkpoint/select.h"

namespace dsv3::train {
namespace {

using checkpoint::Checkpoint;

Status check_tensor(const Checkpoint& saved, const StateTensor& tensor) {
  const checkpoint::TensorInfo* info = saved.find(tensor.name);
  if (!info) {
    // Weights that were imported come without moments: training starts with zeros, as a fresh run
    // does.
    if (tensor.optimizer && saved.step() == 0) return {};
    return Status(Code::kCheckpointUnusable,
                  fmt::format("'{}' has no tensor {}", saved.path(), tensor.name),
                  "it belongs to another model; give the job a folder of its own");
  }
  if (info->shape != tensor.shape || info->dtype != tensor.dtype) {
    return Status(Code::kCheckpointUnusable,
                  fmt::format("tensor {} of '{}' has another shape or dtype than the model's",
                              tensor.name, saved.path()),
                  "check the model section and training.moments_dtype");
  }
  return {};
}

// A run goes on with the model it had: a tensor that this model lacks means that it is another one,
// say with fewer layers. (Imported weights, at step 0, may hold more, such as MTP modules.)
Status check_all_wanted(const Checkpoint& saved, const std::vector<StateTensor>& tensors) {
  if (saved.step() == 0) return {};
  std::set<std::string_view> wanted;
  for (const StateTensor& tensor : tensors) wanted.insert(tensor.name);
  for (const checkpoint::TensorInfo& info : saved.tensors()) {
    if (wanted.contains(info.name)) continue;
    return Status(
        Code::kCheckpointUnusable,
        fmt::format("the model has no tensor {}, which '{}' holds", info.name, saved.path()),
        "it belongs to another model; give the job a folder of its own");
  }
  return {};
}

// Whether the session can go on from the checkpoint, down to every tensor's shape.
Status check_fits(const Session& session, const Checkpoint& saved) {
  const int64_t seed = session.spec.training.seed;
  if (saved.step() > 0 && saved.state().seed != seed) {
    return Status(Code::kCheckpointUnusable,
                  fmt::format("'{}' was trained with seed {}, the job has seed {}", saved.path(),
                              saved.state().seed, seed),
                  "the order of samples depends on it: set training.seed to the checkpoint's");
  }
  const int64_t position = saved.step() * session.samples_per_step();
  if (saved.step() > 0 && saved.state().next_sample_idx != position) {
    return Status(Code::kCheckpointUnusable,
                  fmt::format("'{}' stands at sample {}, but {} steps of {} sequences are {}",
                              saved.path(), saved.state().next_sample_idx, saved.step(),
                              session.samples_per_step(), position),
                  "training.global_batch_size must be that of the checkpoint");
  }
  const int64_t tokens = saved.step() * session.tokens_per_step();
  if (saved.step() > 0 && saved.state().tokens_seen != tokens) {
    return Status(
        Code::kCheckpointUnusable,
        fmt::format("'{}' has seen {} tokens, but {} steps of {} are {}", saved.path(),
                    saved.state().tokens_seen, saved.step(), session.tokens_per_step(), tokens),
        "training.seq_length must be that of the checkpoint: samples are cut by it");
  }
  const std::vector<StateTensor> tensors = state_tensors(session);
  for (const StateTensor& tensor : tensors) DSV3_RETURN_IF_ERROR(check_tensor(saved, tensor));
  return check_all_wanted(saved, tensors);
}

Status restore_tensor(const Session& session, const Checkpoint& saved, const StateTensor& tensor,
                      std::vector<std::byte>& staging) {
  if (saved.find(tensor.name) == nullptr) return {};  // check_tensor() allows it
  std::span<const std::byte> bytes = saved.bytes(tensor.name);
  if (bytes.empty()) {  // in several pieces
    staging.resize(static_cast<size_t>(tensor.bytes()));
    DSV3_RETURN_IF_ERROR(saved.read(tensor.name, staging));
    bytes = staging;
  }
  session.device->backend().copy_to_device(tensor.data, bytes.data(), bytes.size(),
                                           session.device->stream());
  session.device->synchronize();
  return {};
}

// In the log, and to whoever watches the job.
void tell_set_aside(const checkpoint::Selection& selected, TrainObserver& observer) {
  for (const checkpoint::SetAside& entry : selected.set_aside) {
    const std::string text = fmt::format("{}; set aside as '{}', going on from '{}'", entry.reason,
                                         entry.moved_to, selected.path);
    log::warning("{}", text);
    observer.on_note(text);
  }
}

}  // namespace

int64_t StateTensor::bytes() const {
  int64_t n = static_cast<int64_t>(dtype_bytes(dtype));
  for (int64_t dim : shape) n *= dim;
  return n;
}

std::vector<StateTensor> state_tensors(const Session& session) {
  std::vector<StateTensor> tensors;
  const model::ParamStore& params = session.model->params();
  const auto add = [&tensors](std::string name, const tensor::Tensor& flat,
                              const model::ParamSlice& slice, bool optimizer) {
    auto* data = static_cast<std::byte*>(flat.data) +
                 slice.offset * static_cast<int64_t>(dtype_bytes(flat.dtype));
    tensors.push_back({std::move(name), flat.dtype, slice.info.shape, data, optimizer});
  };
  for (const model::ParamSlice& slice : params.layout().slices) {
    const std::string& name = slice.info.name;
    add(name, params.master(), slice, false);
    add(checkpoint::exp_avg_name(name), session.optimizer->exp_avg(), slice, true);
    add(checkpoint::exp_avg_sq_name(name), session.optimizer->exp_avg_sq(), slice, true);
  }
  const tensor::Tensor& bias = session.model->router_bias();
  const int64_t experts = session.spec.model.moe.num_experts;
  for (int64_t i = 0; i < bias.shape[0]; ++i) {
    tensors.push_back({session.model->router_bias_name(i),
                       DType::kF32,
                       {experts},
                       bias.as<float>() + i * experts});
  }
  return tensors;
}

checkpoint::SaveRequest save_request(const Session& session, const TrainOptions& options) {
  checkpoint::SaveRequest request;
  request.dir = options.checkpoint_dir;
  request.job = options.job;
  request.attempt = options.attempt;
  request.step = session.steps_done;
  request.spec_yaml = spec::to_yaml(session.spec);
  request.state = {.next_sample_idx = session.steps_done * session.samples_per_step(),
                   .seed = session.spec.training.seed,
                   .lr_step = session.steps_done,
                   .tokens_seen = session.steps_done * session.tokens_per_step(),
                   .compute_dtype = dtype_name(session.model->params().compute_dtype())};
  request.probe = options.checkpoint_probe;
  for (StateTensor& tensor : state_tensors(session)) {
    request.tensors.push_back(
        {.name = std::move(tensor.name), .dtype = tensor.dtype, .shape = std::move(tensor.shape)});
  }
  return request;
}

Result<std::string> choose_checkpoint(const Session& session, const TrainOptions& options,
                                      TrainObserver& observer) {
  const std::string& dir = options.checkpoint_dir;
  const auto fits = [&session](const Checkpoint& saved) { return check_fits(session, saved); };
  // Before looking: what an earlier attempt would publish after this could not be gone on from.
  if (!dir.empty())
    DSV3_RETURN_IF_ERROR(checkpoint::claim(dir, options.attempt, options.submission));
  if (options.resume && !dir.empty()) {
    const auto selected = checkpoint::select_checkpoint(dir, options.job, options.attempt, fits);
    if (selected.ok()) {
      tell_set_aside(*selected, observer);
      return selected->path;
    }
    if (selected.status().code() != Code::kNotFound) return selected.status();
    if (options.saved_step > 0) {
      return Status(
          Code::kCheckpointUnusable,
          fmt::format("{} has saved step {}, and there is no checkpoint in '{}' any more",
                      options.job, options.saved_step, dir),
          "bring the folder back (is its disk mounted?) and resume, or submit the job anew");
    }
  }
  if (session.spec.checkpoint.load.empty()) return std::string();
  DSV3_ASSIGN_OR_RETURN(const std::string path,
                        checkpoint::find_checkpoint(session.spec.checkpoint.load));
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved, Checkpoint::open(path, false));
  DSV3_RETURN_IF_ERROR(fits(saved));
  DSV3_RETURN_IF_ERROR(saved.verify());
  return path;
}

Status restore_from(Session& session, const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved, Checkpoint::open(path, false));
  DSV3_RETURN_IF_ERROR(check_fits(session, saved));
  std::vector<std::byte> staging;
  for (const StateTensor& tensor : state_tensors(session)) {
    DSV3_RETURN_IF_ERROR(restore_tensor(session, saved, tensor, staging));
  }
  session.model->params().refresh_compute();
  session.steps_done = saved.step();
  return {};
}

}  // namespace dsv3::train
