// The stages of a save; see group_saver.h.
#include "runtime/train/group_saver.h"

#include <array>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "runtime/train/rank_text.h"

namespace dsv3::train {

using checkpoint::SavedCheckpoint;
using checkpoint::SaveOutcome;

namespace {

SaveOutcome failed(const Status& status) {
  SaveOutcome outcome{status};
  outcome.done_ns = system_clock().steady_ns();
  return outcome;
}

}  // namespace

Result<std::string> GroupSaver::open() {
  Result<std::string> folder = std::string();
  if (leads()) folder = checkpoint::open_parts(target_);
  DSV3_RETURN_IF_ERROR(
      broadcast_status(world_, "folder of a checkpoint", folder.ok() ? Status() : folder.status()));
  return broadcast_text(world_, "folder of a checkpoint", *folder);
}

Result<std::vector<std::string>> GroupSaver::gather(const Result<std::string>& part) {
  const Status all = agree(world_, "writing a checkpoint", part.ok() ? Status() : part.status());
  if (!all.ok()) {
    if (leads()) checkpoint::drop_parts(folder_);
    return all;
  }
  return gather_texts(world_, "parts of a checkpoint", *part);
}

SaveOutcome GroupSaver::publish(const std::vector<std::string>& parts) const {
  return checkpoint::retired(checkpoint::publish_parts(target_, folder_, parts), target_.dir,
                             keep_last_);
}

SaveOutcome GroupSaver::share(const std::optional<SaveOutcome>& outcome) {
  Status status;
  SavedCheckpoint saved;
  if (leads()) {
    status = outcome->saved.ok() ? Status() : outcome->saved.status();
    if (status.ok()) saved = *outcome->saved;
  }
  status = broadcast_status(world_, "publishing a checkpoint", status);
  if (!status.ok()) return leads() ? *outcome : failed(status);
  saved.path = broadcast_text(world_, "path of a checkpoint", saved.path);
  std::array<int64_t, 2> numbers = {saved.bytes, saved.existed};
  world_.broadcast("size of a checkpoint", {numbers.data(), 2, DType::kI64}, 0);
  if (leads()) return *outcome;
  saved.bytes = numbers[0];
  saved.existed = numbers[1] != 0;
  return {saved, Status(), system_clock().steady_ns()};
}

void GroupSaver::start(const checkpoint::PartsTarget& target, int64_t keep_last, WritePart write) {
  DSV3_CHECK(!busy());
  target_ = target;
  keep_last_ = keep_last;
  const Result<std::string> folder = open();
  if (!folder.ok()) {
    outcome_ = failed(folder.status());
    stage_ = Stage::kDone;
    return;
  }
  folder_ = *folder;
  writing_.start([write = std::move(write), folder = folder_] { return write(folder); });
  stage_ = Stage::kWriting;
}

void GroupSaver::advance() {
  if (stage_ == Stage::kWriting) {
    auto parts = gather(*writing_.wait());
    if (!parts.ok()) {
      outcome_ = failed(parts.status());
      stage_ = Stage::kDone;
      return;
    }
    if (leads()) publishing_.start([this, all = std::move(*parts)] { return publish(all); });
    stage_ = Stage::kPublishing;
    return;
  }
  DSV3_CHECK(stage_ == Stage::kPublishing);
  outcome_ = share(publishing_.wait());
  stage_ = Stage::kDone;
}

SaveOutcome GroupSaver::take() {
  DSV3_CHECK(stage_ == Stage::kDone);
  stage_ = Stage::kIdle;
  return *std::exchange(outcome_, std::nullopt);
}

std::optional<SaveOutcome> GroupSaver::poll() {
  if (stage_ == Stage::kIdle) return std::nullopt;
  if (stage_ != Stage::kDone) {
    const bool waits =
        stage_ == Stage::kWriting ? !writing_.ready() : leads() && !publishing_.ready();
    auto someone_waits = static_cast<int64_t>(waits);
    world_.all_reduce("state of a checkpoint", {&someone_waits, 1, DType::kI64},
                      comm::Reduce::kMax);
    if (someone_waits != 0) return std::nullopt;
    advance();
  }
  if (stage_ != Stage::kDone) return std::nullopt;
  return take();
}

std::optional<SaveOutcome> GroupSaver::wait() {
  if (stage_ == Stage::kIdle) return std::nullopt;
  while (stage_ != Stage::kDone) advance();
  return take();
}

SaveOutcome GroupSaver::save(const checkpoint::PartsTarget& target, int64_t keep_last,
                             const WritePart& write) {
  DSV3_CHECK(!busy());
  target_ = target;
  keep_last_ = keep_last;
  const Result<std::string> folder = open();
  if (!folder.ok()) return failed(folder.status());
  folder_ = *folder;
  const auto parts = gather(write(folder_));
  if (!parts.ok()) return failed(parts.status());
  std::optional<SaveOutcome> outcome;
  if (leads()) outcome = publish(*parts);
  return share(outcome);
}

std::optional<SaveOutcome> GroupSaver::abandon() {
  static_cast<void>(writing_.wait());
  outcome_.reset();
  stage_ = Stage::kIdle;
  return publishing_.wait();
}

}  // namespace dsv3::train
