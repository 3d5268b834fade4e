// Snapshots, background writes and what becomes of their failures; see checkpoint_writer.h.
#include "runtime/train/checkpoint_writer.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "cluster/plan/memory.h"

namespace dsv3::train {
namespace {

double seconds_since(int64_t begin_ns) {
  return static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9;
}

}  // namespace

CheckpointWriter::CheckpointWriter(Session& session, const TrainOptions& options,
                                   TrainObserver& observer, int64_t saved_step)
    : session_(session), options_(options), observer_(observer), saved_step_(saved_step) {
  if (session.groups->world) group_.emplace(*session.groups->world);
  if (enabled()) take_staging();
}

void CheckpointWriter::take_staging() {
  const spec::CheckpointSpec& spec = session_.spec.checkpoint;
  if (!spec.async || spec.interval_steps == 0) return;
  const Result<int64_t> bytes =
      checkpoint::image_bytes_max(save_request(session_, options_).request);
  // Of the rank that needs most, because all of them do the same.
  constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
  int64_t most = bytes.ok() ? *bytes : kUnknown;
  if (session_.groups->world) {
    session_.groups->world->all_reduce("memory for a checkpoint", {&most, 1, DType::kI64},
                                       comm::Reduce::kMax);
  }
  if (most == kUnknown) return;  // save() says why
  if (most > plan::kCheckpointStagingBytesMax) {
    if (session_.leads()) {
      log::info(
          "checkpoints of {} are written while training waits: memory for a copy is taken up "
          "to {}",
          human_bytes(most), human_bytes(plan::kCheckpointStagingBytesMax));
    }
    return;
  }
  const tensor::Tensor memory =
      session_.arena->persistent("checkpoint/staging", DType::kI64, {(*bytes + 7) / 8});
  staging_ = {static_cast<std::byte*>(memory.data), static_cast<size_t>(*bytes)};
}

Result<checkpoint::Image> CheckpointWriter::snapshot() const {
  session_.device->synchronize();
  const StateRequest state = save_request(session_, options_);
  DSV3_ASSIGN_OR_RETURN(checkpoint::Image image, checkpoint::make_image(state.request, staging_));
  for (size_t i = 0; i < state.pieces.size(); ++i) {
    session_.device->backend().copy_to_host(image.targets[i].data(), state.pieces[i].data,
                                            image.targets[i].size(), session_.device->stream());
  }
  session_.device->synchronize();
  return image;
}

checkpoint::SaveRequest CheckpointWriter::streamed() const {
  session_.device->synchronize();
  StateRequest state = save_request(session_, options_);
  for (size_t i = 0; i < state.pieces.size(); ++i) {
    const StateTensor& piece = state.pieces[i];
    const auto element = static_cast<int64_t>(dtype_bytes(piece.dtype));
    const auto* data = static_cast<const std::byte*>(piece.data) - piece.begin * element;
    state.request.tensors[i].fill = [this, data, element](int64_t begin, std::span<std::byte> out) {
      session_.device->backend().copy_to_host(out.data(), data + begin * element, out.size(),
                                              session_.device->stream());
      session_.device->synchronize();
      return Status();
    };
  }
  return std::move(state.request);
}

checkpoint::PartsTarget CheckpointWriter::target() const {
  return {options_.checkpoint_dir, options_.attempt, session_.steps_done,
          options_.checkpoint_probe};
}

checkpoint::SaveOutcome CheckpointWriter::save_now() {
  const int64_t keep_last = session_.spec.checkpoint.keep_last;
  if (group_) {
    const checkpoint::SaveRequest request = streamed();
    return group_->save(target(), keep_last, [&request](const std::string& folder) {
      return checkpoint::write_part(folder, request);
    });
  }
  if (staging_.empty()) return checkpoint::save_and_retire(streamed(), keep_last);
  const Result<checkpoint::Image> image = snapshot();
  if (!image.ok()) return {image.status()};
  return checkpoint::save_and_retire(*image, keep_last);
}

Status CheckpointWriter::conclude(const checkpoint::SaveOutcome& outcome) {
  if (!outcome.saved.ok()) return outcome.saved.status();
  saved_step_ = pending_.step;
  if (!session_.leads()) return {};
  if (!outcome.retired.ok()) log::warning("old checkpoints stay: {}", outcome.retired.to_string());
  CheckpointReport report{pending_.step, outcome.saved->path, outcome.saved->bytes};
  report.seconds = static_cast<double>(outcome.done_ns - pending_.due_ns) * 1e-9;
  report.pause_s = std::min(pending_.pause_s, report.seconds);
  observer_.on_checkpoint(report);
  return {};
}

Status CheckpointWriter::tolerate(const Status& failed) {
  if (failed.ok() || failed.code() == Code::kConflict || failed.code() == Code::kDevice)
    return failed;
  if (!session_.leads()) return {};
  const bool last = session_.steps_done >= session_.spec.training.max_steps;
  const std::string text = fmt::format("the checkpoint of step {} was not written: {}; {}",
                                       pending_.step, failed.message(),
                                       last ? "it is tried again, as the last one"
                                            : "training goes on, the next is tried at its time");
  log::warning("{}", text);
  observer_.on_note(text);
  return {};
}

Status CheckpointWriter::collect() {
  const std::optional<checkpoint::SaveOutcome> outcome =
      group_ ? group_->poll() : background_.poll();
  return outcome ? tolerate(conclude(*outcome)) : Status();
}

Status CheckpointWriter::wait_for_last() {
  if (!busy()) return {};
  const int64_t begin_ns = system_clock().steady_ns();
  const std::optional<checkpoint::SaveOutcome> outcome =
      group_ ? group_->wait() : background_.wait();
  pending_.pause_s += seconds_since(begin_ns);
  return tolerate(conclude(*outcome));
}

Status CheckpointWriter::save() {
  if (!enabled()) return {};
  DSV3_RETURN_IF_ERROR(collect());
  if (busy() && session_.leads() && !std::exchange(said_slow_, true)) {
    log::warning(
        "the checkpoint of step {} is still being written when the next is due: training "
        "waits for it (said once; a longer checkpoint.interval_steps avoids it)",
        pending_.step);
  }
  DSV3_RETURN_IF_ERROR(wait_for_last());
  if (saved_step_ == session_.steps_done) return {};
  pending_ = {session_.steps_done, system_clock().steady_ns()};
  if (staging_.empty()) {
    const checkpoint::SaveOutcome outcome = save_now();
    pending_.pause_s = seconds_since(pending_.due_ns);
    return tolerate(conclude(outcome));
  }
  Result<checkpoint::Image> image = snapshot();
  if (group_) {
    start_group(std::move(image));
  } else {
    if (!image.ok()) return tolerate(image.status());
    background_.start(std::move(image).value(), session_.spec.checkpoint.keep_last);
  }
  pending_.pause_s = seconds_since(pending_.due_ns);
  return {};
}

void CheckpointWriter::start_group(Result<checkpoint::Image> image) {
  const auto shared = std::make_shared<const Result<checkpoint::Image>>(std::move(image));
  group_->start(target(), session_.spec.checkpoint.keep_last,
                [shared](const std::string& folder) -> Result<std::string> {
                  if (!shared->ok()) return shared->status();
                  return checkpoint::write_part(folder, **shared);
                });
}

Status CheckpointWriter::finish() {
  // A state before the first step is drawn again as well as read; step 0 means imported weights.
  if (!enabled() || session_.steps_done == 0) return {};
  DSV3_RETURN_IF_ERROR(wait_for_last());
  if (saved_step_ == session_.steps_done) return {};
  pending_ = {session_.steps_done, system_clock().steady_ns()};
  const checkpoint::SaveOutcome outcome = save_now();
  pending_.pause_s = seconds_since(pending_.due_ns);
  const Status status = conclude(outcome);
  if (status.ok() || !status.hint().empty()) return status;
  return Status(status.code(),
                fmt::format("the state after step {} was not saved: {}", session_.steps_done,
                            status.message()),
                "make room in checkpoint.path, then resume: the run goes on from its newest "
                "checkpoint, without one from its beginning");
}

void CheckpointWriter::settle() {
  Status status;
  if (group_) {
    if (const auto outcome = group_->abandon()) status = conclude(*outcome);
  } else {
    status = wait_for_last();
  }
  if (!status.ok()) log::warning("{}", status.to_string());
}

}  // namespace dsv3::train
