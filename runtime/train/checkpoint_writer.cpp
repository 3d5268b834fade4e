// Snapshots, background writes and what becomes of their failures; see checkpoint_writer.h.
#include "runtime/train/checkpoint_writer.h"

#include <fmt/core.h>

#include <algorithm>
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
  if (enabled()) take_staging();
}

void CheckpointWriter::take_staging() {
  const spec::CheckpointSpec& spec = session_.spec.checkpoint;
  if (!spec.async || spec.interval_steps == 0) return;
  const Result<int64_t> bytes = checkpoint::image_bytes_max(save_request(session_, options_));
  if (!bytes.ok()) return;  // save() says why
  if (*bytes > plan::kCheckpointStagingBytesMax) {
    log::info(
        "checkpoints of {} are written while training waits: memory for a copy is taken up "
        "to {}",
        human_bytes(*bytes), human_bytes(plan::kCheckpointStagingBytesMax));
    return;
  }
  const tensor::Tensor memory =
      session_.arena->persistent("checkpoint/staging", DType::kI64, {(*bytes + 7) / 8});
  staging_ = {static_cast<std::byte*>(memory.data), static_cast<size_t>(*bytes)};
}

Result<checkpoint::Image> CheckpointWriter::snapshot() const {
  session_.device->synchronize();
  DSV3_ASSIGN_OR_RETURN(checkpoint::Image image,
                        checkpoint::make_image(save_request(session_, options_), staging_));
  const std::vector<StateTensor> tensors = state_tensors(session_);
  for (size_t i = 0; i < tensors.size(); ++i) {
    session_.device->backend().copy_to_host(image.targets[i].data(), tensors[i].data,
                                            image.targets[i].size(), session_.device->stream());
  }
  session_.device->synchronize();
  return image;
}

checkpoint::SaveOutcome CheckpointWriter::save_now() const {
  const int64_t keep_last = session_.spec.checkpoint.keep_last;
  if (!staging_.empty()) {
    const Result<checkpoint::Image> image = snapshot();
    if (!image.ok()) return {image.status()};
    return checkpoint::save_and_retire(*image, keep_last);
  }
  session_.device->synchronize();
  checkpoint::SaveRequest request = save_request(session_, options_);
  const std::vector<StateTensor> tensors = state_tensors(session_);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto* data = static_cast<const std::byte*>(tensors[i].data);
    const auto element = static_cast<int64_t>(dtype_bytes(tensors[i].dtype));
    request.tensors[i].fill = [this, data, element](int64_t begin, std::span<std::byte> out) {
      session_.device->backend().copy_to_host(out.data(), data + begin * element, out.size(),
                                              session_.device->stream());
      session_.device->synchronize();
      return Status();
    };
  }
  return checkpoint::save_and_retire(request, keep_last);
}

Status CheckpointWriter::conclude(const checkpoint::SaveOutcome& outcome) {
  if (!outcome.saved.ok()) return outcome.saved.status();
  if (!outcome.retired.ok()) log::warning("old checkpoints stay: {}", outcome.retired.to_string());
  saved_step_ = pending_.step;
  CheckpointReport report{pending_.step, outcome.saved->path, outcome.saved->bytes};
  report.seconds = static_cast<double>(outcome.done_ns - pending_.due_ns) * 1e-9;
  report.pause_s = std::min(pending_.pause_s, report.seconds);
  observer_.on_checkpoint(report);
  return {};
}

Status CheckpointWriter::tolerate(const Status& failed) {
  if (failed.ok() || failed.code() == Code::kConflict || failed.code() == Code::kDevice)
    return failed;
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
  const std::optional<checkpoint::SaveOutcome> outcome = background_.poll();
  return outcome ? tolerate(conclude(*outcome)) : Status();
}

Status CheckpointWriter::wait_for_last() {
  if (!background_.busy()) return {};
  const int64_t begin_ns = system_clock().steady_ns();
  const std::optional<checkpoint::SaveOutcome> outcome = background_.wait();
  pending_.pause_s += seconds_since(begin_ns);
  return tolerate(conclude(*outcome));
}

Status CheckpointWriter::save() {
  if (!enabled()) return {};
  DSV3_RETURN_IF_ERROR(collect());
  if (background_.busy() && !std::exchange(said_slow_, true)) {
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
  if (!image.ok()) return tolerate(image.status());
  background_.start(std::move(image).value(), session_.spec.checkpoint.keep_last);
  pending_.pause_s = seconds_since(pending_.due_ns);
  return {};
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
  const Status status = wait_for_last();
  if (!status.ok()) log::warning("{}", status.to_string());
}

}  // namespace dsv3::train
