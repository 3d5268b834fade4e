// Saving and restoring a session; see checkpointing.h.
#include "runtime/train/checkpointing.h"

#include <fmt/core.h>

#include <set>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "configs/spec/render.h"

namespace dsv3::train {
namespace {

using checkpoint::Checkpoint;

// One tensor of the state: where it lies on the device.
struct StateTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  void* data = nullptr;
  bool optimizer = false;  // a moment

  int64_t bytes() const {
    int64_t n = static_cast<int64_t>(dtype_bytes(dtype));
    for (int64_t dim : shape) n *= dim;
    return n;
  }
};

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

Status restore_tensor(const Session& session, const Checkpoint& saved, const StateTensor& tensor,
                      std::vector<std::byte>& staging) {
  const checkpoint::TensorInfo* info = saved.find(tensor.name);
  if (!info) {
    // Weights that were imported come without moments: training starts with zeros, as a fresh run
    // does.
    if (tensor.optimizer && saved.step() == 0) return {};
    return Status(Code::kCheckpointUnusable,
                  fmt::format("{} has no tensor {}", saved.path(), tensor.name),
                  "it belongs to another model; give the job a folder of its own");
  }
  if (info->shape != tensor.shape || info->dtype != tensor.dtype) {
    return Status(Code::kCheckpointUnusable,
                  fmt::format("tensor {} of {} has another shape or dtype than the model's",
                              tensor.name, saved.path()),
                  "check the model section and training.moments_dtype");
  }
  staging.resize(static_cast<size_t>(tensor.bytes()));
  DSV3_RETURN_IF_ERROR(saved.read(tensor.name, staging));
  session.device->backend().copy_to_device(tensor.data, staging.data(), staging.size(),
                                           session.device->stream());
  session.device->synchronize();
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
        fmt::format("the model has no tensor {}, which {} holds", info.name, saved.path()),
        "it belongs to another model; give the job a folder of its own");
  }
  return {};
}

Status restore_from(Session& session, const Checkpoint& saved) {
  const int64_t seed = session.spec.training.seed;
  if (saved.step() > 0 && saved.state().seed != seed) {
    return Status(Code::kCheckpointUnusable,
                  fmt::format("{} was trained with seed {}, the job has seed {}", saved.path(),
                              saved.state().seed, seed),
                  "the order of samples depends on it: set training.seed to the checkpoint's");
  }
  const int64_t position = saved.step() * session.samples_per_step();
  if (saved.step() > 0 && saved.state().next_sample_idx != position) {
    return Status(Code::kCheckpointUnusable,
                  fmt::format("{} stands at sample {}, but {} steps of {} sequences are {}",
                              saved.path(), saved.state().next_sample_idx, saved.step(),
                              session.samples_per_step(), position),
                  "training.global_batch_size must be that of the checkpoint");
  }
  const int64_t tokens = saved.step() * session.tokens_per_step();
  if (saved.step() > 0 && saved.state().tokens_seen != tokens) {
    return Status(
        Code::kCheckpointUnusable,
        fmt::format("{} has seen {} tokens, but {} steps of {} are {}", saved.path(),
                    saved.state().tokens_seen, saved.step(), session.tokens_per_step(), tokens),
        "training.seq_length must be that of the checkpoint: samples are cut by it");
  }
  const std::vector<StateTensor> tensors = state_tensors(session);
  DSV3_RETURN_IF_ERROR(check_all_wanted(saved, tensors));
  std::vector<std::byte> staging;
  for (const StateTensor& tensor : tensors) {
    DSV3_RETURN_IF_ERROR(restore_tensor(session, saved, tensor, staging));
  }
  session.model->params().refresh_compute();
  session.steps_done = saved.step();
  return {};
}

}  // namespace

Result<CheckpointReport> save_checkpoint(const Session& session, const TrainOptions& options) {
  const int64_t begin_ns = system_clock().steady_ns();
  session.device->synchronize();
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
  for (const StateTensor& tensor : state_tensors(session)) {
    checkpoint::TensorRef ref{.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape};
    const auto* data = static_cast<const std::byte*>(tensor.data);
    const auto element = static_cast<int64_t>(dtype_bytes(tensor.dtype));
    ref.fill = [&session, data, element](int64_t begin, std::span<std::byte> out) -> Status {
      session.device->backend().copy_to_host(out.data(), data + begin * element, out.size(),
                                             session.device->stream());
      session.device->synchronize();
      return {};
    };
    request.tensors.push_back(std::move(ref));
  }
  DSV3_ASSIGN_OR_RETURN(const checkpoint::SavedCheckpoint saved, checkpoint::save(request));
  const auto deleted =
      checkpoint::keep_last(options.checkpoint_dir, session.spec.checkpoint.keep_last, saved.path);
  if (!deleted.ok()) log::warning("old checkpoints stay: {}", deleted.status().to_string());
  const double seconds = static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9;
  return CheckpointReport{session.steps_done, saved.path, saved.bytes, seconds};
}

Status restore_checkpoint(Session& session, const TrainOptions& options, std::string* path) {
  path->clear();
  const std::string& dir = options.checkpoint_dir;
  // Before looking: what an earlier attempt would publish after this could not be gone on from.
  if (!dir.empty()) DSV3_RETURN_IF_ERROR(checkpoint::claim(dir, options.attempt));
  bool verified = false;
  if (options.resume && !dir.empty()) {
    const Result<checkpoint::NewestValid> newest = checkpoint::newest_valid(dir);
    if (newest.ok()) {
      for (const auto& [folder, reason] : newest->skipped)
        log::warning("skipped {}: {}", folder, reason);
      *path = newest->path;
      verified = true;
    } else if (newest.status().code() != Code::kNotFound) {
      return newest.status();
    }
  }
  if (path->empty() && !session.spec.checkpoint.load.empty()) {
    DSV3_ASSIGN_OR_RETURN(*path, checkpoint::find_checkpoint(session.spec.checkpoint.load));
  }
  if (path->empty()) return {};
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved, Checkpoint::open(*path, !verified));
  return restore_from(session, saved);
}

}  // namespace dsv3::train
