// Saving and restoring a session; see checkpointing.h.
#include "runtime/train/checkpointing.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "configs/spec/model_tensors.h"
#include "configs/spec/render.h"
#include "runtime/checkpoint/select.h"

namespace dsv3::train {
namespace {

using checkpoint::Checkpoint;

constexpr int64_t kReadBytes = int64_t{8} << 20;  // from the disk to the device at once

// What a checkpoint of the session's model holds: all of it, not this rank's share.
struct WantedTensor {
  checkpoint::TensorInfo info;
  bool optimizer = false;  // a moment
};

std::vector<WantedTensor> wanted_tensors(const Session& session) {
  std::vector<WantedTensor> wanted;
  const DType moments = session.optimizer->exp_avg().dtype;
  for (const spec::TensorInfo& info : spec::model_tensors(session.spec.model)) {
    wanted.push_back({{info.name, DType::kF32, info.shape}});
    wanted.push_back({{checkpoint::exp_avg_name(info.name), moments, info.shape}, true});
    wanted.push_back({{checkpoint::exp_avg_sq_name(info.name), moments, info.shape}, true});
  }
  for (const spec::TensorInfo& info : state_buffers(session).buffer_infos)
    wanted.push_back({{info.name, DType::kF32, info.shape}});
  return wanted;
}

// "256x512 f32".
std::string type_text(const checkpoint::TensorInfo& info) {
  std::string shape;
  for (const int64_t size : info.shape)
    shape += fmt::format("{}{}", shape.empty() ? "" : "x", size);
  return fmt::format("{} {}", shape, dtype_name(info.dtype));
}

Status check_tensor(const Checkpoint& saved, const WantedTensor& wanted) {
  const checkpoint::TensorInfo* info = saved.find(wanted.info.name);
  if (!info) {
    // Weights that were imported come without moments: training starts with zeros, as a fresh run
    // does.
    if (wanted.optimizer && saved.step() == 0) return {};
    return Status(Code::kCheckpointUnusable,
                  fmt::format("'{}' has no tensor {}", saved.path(), wanted.info.name),
                  "it belongs to another model; give the job a folder of its own");
  }
  if (info->shape != wanted.info.shape || info->dtype != wanted.info.dtype) {
    return Status(
        Code::kCheckpointUnusable,
        fmt::format("tensor {} of '{}' has another shape or dtype than the model's: "
                    "{}, not {}",
                    wanted.info.name, saved.path(), type_text(*info), type_text(wanted.info)),
        "check the model section and training.moments_dtype");
  }
  return {};
}

// A run goes on with the model it had: a tensor that this model lacks means that it is another one,
// say with fewer layers. (Imported weights, at step 0, may hold more, such as MTP modules.)
Status check_all_wanted(const Checkpoint& saved, const std::vector<WantedTensor>& tensors) {
  if (saved.step() == 0) return {};
  std::set<std::string_view> wanted;
  for (const WantedTensor& tensor : tensors) wanted.insert(tensor.info.name);
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
  const std::vector<WantedTensor> tensors = wanted_tensors(session);
  for (const WantedTensor& tensor : tensors) DSV3_RETURN_IF_ERROR(check_tensor(saved, tensor));
  return check_all_wanted(saved, tensors);
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

// Another job's folder is only read: what can't be used there stays where it is, but is said.
void tell_skipped(const checkpoint::NewestValid& found, TrainObserver& observer) {
  for (const auto& [path, fault] : found.skipped) {
    const std::string text =
        fmt::format("checkpoint.load: {}; left as it is, going on from '{}'", fault, found.path);
    log::warning("{}", text);
    observer.on_note(text);
  }
}

}  // namespace

StateBuffers state_buffers(const Session& session) {
  const model::ParamStore& params = session.model->params();
  const optim::Optimizer& optimizer = *session.optimizer;
  StateBuffers state{.params = params.layout(),
                     .ownership = optimizer.ownership(),
                     .master_ranges = params.master_ranges(),
                     .master = params.master(),
                     .exp_avg = optimizer.exp_avg(),
                     .exp_avg_sq = optimizer.exp_avg_sq()};
  const tensor::Tensor& bias = session.model->router_bias();
  const int64_t experts = session.spec.model.moe.num_experts;
  for (int64_t i = 0; i < bias.shape[0]; ++i) {
    spec::TensorInfo info;
    info.name = session.model->router_bias_name(i);
    info.shape = {experts};
    state.buffer_infos.push_back(std::move(info));
    state.buffer_data.push_back(bias.as<float>() + i * experts);
  }
  return state;
}

StateRequest save_request(const Session& session, const TrainOptions& options) {
  StateRequest result;
  checkpoint::SaveRequest& request = result.request;
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
  if (const comm::Communicator* world = session.groups->world) {
    request.rank = world->rank();
    request.world = world->size();
  }
  result.pieces = pieces_to_save(state_buffers(session), session.leads());
  for (const StateTensor& piece : result.pieces) {
    request.tensors.push_back({.name = piece.name,
                               .dtype = piece.dtype,
                               .shape = piece.shape,
                               .begin = piece.begin,
                               .end = piece.end,
                               .box = piece.box});
  }
  return result;
}

Status read_state(const Checkpoint& saved, const std::vector<StateTensor>& pieces,
                  const PutBytes& put) {
  std::vector<std::byte> staging;
  for (const StateTensor& piece : pieces) {
    const checkpoint::TensorInfo* info = saved.find(piece.name);
    if (info == nullptr && piece.optimizer && saved.step() == 0) continue;
    if (info == nullptr || info->dtype != piece.dtype || info->shape != piece.shape) {
      return Status(
          Code::kCheckpointUnusable,
          fmt::format("'{}' holds no tensor {} as this run has it", saved.path(), piece.name));
    }
    const auto element_bytes = static_cast<int64_t>(dtype_bytes(piece.dtype));
    for (int64_t begin = piece.begin; begin < piece.end;) {
      const int64_t end = std::min(piece.end, begin + kReadBytes / element_bytes);
      staging.resize(static_cast<size_t>((end - begin) * element_bytes));
      DSV3_RETURN_IF_ERROR(saved.read(piece.name, piece.box, begin, end, staging));
      put(piece, begin - piece.begin, staging);
      begin = end;
    }
  }
  return {};
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
  DSV3_ASSIGN_OR_RETURN(const checkpoint::NewestValid found,
                        checkpoint::find_loadable(session.spec.checkpoint.load));
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved, Checkpoint::open(found.path, false));
  DSV3_RETURN_IF_ERROR(fits(saved));
  DSV3_RETURN_IF_ERROR(saved.verify());
  tell_skipped(found, observer);
  return found.path;
}

Status restore_from(Session& session, const std::string& path) {
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved, Checkpoint::open_for_reading(path));
  DSV3_RETURN_IF_ERROR(check_fits(session, saved));
  const auto put = [&session](const StateTensor& piece, int64_t at,
                              std::span<const std::byte> bytes) {
    if (piece.weight >= 0) {
      const auto* values = reinterpret_cast<const float*>(bytes.data());
      session.model->params().set(piece.weight + at, {values, bytes.size() / sizeof(float)});
      return;
    }
    const int64_t before = at * static_cast<int64_t>(dtype_bytes(piece.dtype));
    session.device->backend().copy_to_device(static_cast<std::byte*>(piece.data) + before,
                                             bytes.data(), bytes.size(), session.device->stream());
    session.device->synchronize();
  };
  DSV3_RETURN_IF_ERROR(read_state(saved, pieces_to_load(state_buffers(session)), put));
  session.steps_done = saved.step();
  return {};
}

}  // namespace dsv3::train
