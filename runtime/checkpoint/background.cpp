// The writing thread; see background.h.
#include "runtime/checkpoint/background.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "base/clock.h"

namespace dsv3::checkpoint {
namespace {

// struct sched_attr of sched_setattr(2), in its first version: the system's header for it can't
// stand beside <sched.h>.
struct SchedulerAttributes {
  uint32_t bytes = sizeof(SchedulerAttributes);
  uint32_t policy = SCHED_BATCH;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime_ns = 0, deadline_ns = 0, period_ns = 0;
};
static_assert(sizeof(SchedulerAttributes) == 48);

}  // namespace

SaveOutcome retired(Result<SavedCheckpoint> saved, const std::string& dir,
                    int64_t keep_last_count) {
  SaveOutcome outcome{std::move(saved)};
  if (outcome.saved.ok()) {
    outcome.retired = keep_last(dir, keep_last_count, outcome.saved->path).status();
  }
  outcome.done_ns = system_clock().steady_ns();
  return outcome;
}

// On Linux each of these is of this thread only.
void lower_priority() {
  constexpr int kNice = 19;
  ::setpriority(PRIO_PROCESS, 0, kNice);
  // Wakes without taking a core from whoever has it, and, from Linux 6.12 on, gives it back within
  // a tenth of a millisecond to whoever wakes: a slice of the common length, up to 4 ms, would be
  // waited for by a rank whose message has come, and by the ranks that wait for that one.
  // (SCHED_IDLE would do so too, but may starve: it has 0.3 % of a core that is always busy.)
  const SchedulerAttributes attributes{.nice = kNice, .runtime_ns = 100'000};
  ::syscall(SYS_sched_setattr, 0, &attributes, 0);
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
