// BackgroundSaver: one checkpoint written, published and the old ones deleted, while the caller
// goes on.
//
// Law: at most one write is in flight, and its outcome is handed over exactly once, in the calling
// thread. The writing thread takes the lowest priority, so it works in the gaps that training
// leaves; whoever waits for it leaves gaps enough.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <system_error>

#include "base/check.h"
#include "base/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/image.h"

namespace dsv3::checkpoint {

// Writes and publishes the image and keeps the newest keep_last checkpoints in its folder.
struct SaveOutcome {
  Result<SavedCheckpoint> saved;
  Status retired;       // of deleting old ones; ok where nothing was saved
  int64_t done_ns = 0;  // steady clock
};
SaveOutcome save_and_retire(const Image& image, int64_t keep_last);
SaveOutcome save_and_retire(const SaveRequest& request, int64_t keep_last);
// The same of what is published already, or has failed.
SaveOutcome retired(Result<SavedCheckpoint> saved, const std::string& dir, int64_t keep_last);

// The calling thread's alone; refused nowhere.
void lower_priority();

// One piece of work in a thread of the lowest priority. Not thread-safe: one calling thread. The
// destructor waits for what is in flight.
template <typename Outcome>
class Background {
 public:
  // Requires !busy(). Where the system gives no thread the work is done before start() returns.
  void start(std::function<Outcome()> work) {
    DSV3_CHECK(!busy());
    try {
      outcome_ = std::async(std::launch::async, [work] {
        lower_priority();
        return work();
      });
    } catch (const std::system_error&) {
      std::promise<Outcome> done;
      outcome_ = done.get_future();
      done.set_value(work());
    }
  }
  // Whether there is an outcome to come, or to be taken.
  bool busy() const { return outcome_.valid(); }
  // Whether wait() would give one at once.
  bool ready() const {
    return busy() && outcome_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  // The outcome if it is there; nullopt while it is worked on, or when nothing is.
  std::optional<Outcome> poll() { return ready() ? wait() : std::nullopt; }
  // Waits for it; nullopt when nothing is in flight.
  std::optional<Outcome> wait() {
    if (!busy()) return std::nullopt;
    return outcome_.get();
  }

 private:
  std::future<Outcome> outcome_;
};

class BackgroundSaver : public Background<SaveOutcome> {
 public:
  // Begins to write; the image's memory stays untouched until the outcome is taken. As above.
  void start(Image image, int64_t keep_last);
};

}  // namespace dsv3::checkpoint
