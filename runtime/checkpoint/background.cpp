// The writing thread; see background.h.
#include "runtime/checkpoint/background.h"

#include <sys/resource.h>

#include <chrono>
#include <memory>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace dsv3::checkpoint {
namespace {

constexpr int kNice = 10;

SaveOutcome retired(Result<SavedCheckpoint> saved, const std::string& dir,
                    int64_t keep_last_count) {
  SaveOutcome outcome{std::move(saved)};
  if (outcome.saved.ok()) {
    outcome.retired = keep_last(dir, keep_last_count, outcome.saved->path).status();
  }
  outcome.done_ns = system_clock().steady_ns();
  return outcome;
}

}  // namespace

SaveOutcome save_and_retire(const Image& image, int64_t keep_last_count) {
  return retired(save(image), image.dir, keep_last_count);
}

SaveOutcome save_and_retire(const SaveRequest& request, int64_t keep_last_count) {
  return retired(save(request), request.dir, keep_last_count);
}

void BackgroundSaver::start(Image image, int64_t keep_last_count) {
  DSV3_CHECK(!busy());
  const auto shared = std::make_shared<Image>(std::move(image));
  try {
    outcome_ = std::async(std::launch::async, [shared, keep_last_count] {
      // On Linux this is the thread's own. Refused nowhere, and harmless if it were.
      ::setpriority(PRIO_PROCESS, 0, kNice);
      return save_and_retire(*shared, keep_last_count);
    });
  } catch (const std::system_error&) {
    std::promise<SaveOutcome> done;
    outcome_ = done.get_future();
    done.set_value(save_and_retire(*shared, keep_last_count));
  }
}

std::optional<SaveOutcome> BackgroundSaver::poll() {
  if (!busy() || outcome_.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
    return std::nullopt;
  return outcome_.get();
}

std::optional<SaveOutcome> BackgroundSaver::wait() {
  if (!busy()) return std::nullopt;
  return outcome_.get();
}

}  // namespace dsv3::checkpoint
