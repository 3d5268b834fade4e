// The writing thread; see background.h.
#include "runtime/checkpoint/background.h"

#include <sys/resource.h>

#include <memory>
#include <utility>

#include "base/clock.h"

namespace dsv3::checkpoint {
SaveOutcome retired(Result<SavedCheckpoint> saved, const std::string& dir,
                    int64_t keep_last_count) {
  SaveOutcome outcome{std::move(saved)};
  if (outcome.saved.ok()) {
    outcome.retired = keep_last(dir, keep_last_count, outcome.saved->path).status();
  }
  outcome.done_ns = system_clock().steady_ns();
  return outcome;
}

void lower_priority() {
  constexpr int kNice = 10;
  ::setpriority(PRIO_PROCESS, 0, kNice);  // on Linux of this thread only
}

SaveOutcome save_and_retire(const Image& image, int64_t keep_last_count) {
  return retired(save(image), image.dir, keep_last_count);
}

SaveOutcome save_and_retire(const SaveRequest& request, int64_t keep_last_count) {
  return retired(save(request), request.dir, keep_last_count);
}

void BackgroundSaver::start(Image image, int64_t keep_last_count) {
  const auto shared = std::make_shared<Image>(std::move(image));
  Background::start(
      [shared, keep_last_count] { return save_and_retire(*shared, keep_last_count); });
}

}  // namespace dsv3::checkpoint
