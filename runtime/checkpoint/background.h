// BackgroundSaver: one checkpoint written, published and the old ones deleted, while the caller
// goes on.
//
// Law: at most one write is in flight, and its outcome is handed over exactly once, in the calling
// thread. The writing thread takes the lowest priority, so it works in the gaps that training
// leaves; whoever waits for it leaves gaps enough.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <optional>

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

// Not thread-safe: one calling thread. The destructor waits for what is in flight.
class BackgroundSaver {
 public:
  // Begins to write; the image's memory stays untouched until the outcome is taken. Requires
  // !busy(). Where the system gives no thread the write is done before start() returns.
  void start(Image image, int64_t keep_last);
  // Whether there is an outcome to come, or to be taken.
  bool busy() const { return outcome_.valid(); }
  // The outcome if it is there; nullopt while it is written, or when nothing is.
  std::optional<SaveOutcome> poll();
  // Waits for it; nullopt when nothing is in flight.
  std::optional<SaveOutcome> wait();

 private:
  std::future<SaveOutcome> outcome_;
};

}  // namespace dsv3::checkpoint
