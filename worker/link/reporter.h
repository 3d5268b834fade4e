// Reporter: the rank's side of the link: a thread that carries reports to the agent and brings back
// what it asks.
//
// Law: no call of the training loop waits. Reports queue here while the agent is busy; what is lost
// first, when even that is full, is what can be missed (progress, notes), and metrics only beyond
// kQueueMaxBytes, counted and said. An agent that is gone ends reporting, not training.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"
#include "worker/link/channel.h"

namespace dsv3::link {

inline constexpr int64_t kQueueSoftMaxBytes = int64_t{32}
                                              << 20;  // progress and notes are dropped above it
inline constexpr int64_t kQueueMaxBytes = int64_t{512} << 20;  // everything is

// Thread-safe.
class Reporter {
 public:
  // Takes over `fd`, the rank's end. After `idle_ms` without a report RankProgress says step and
  // operation.
  static Result<std::unique_ptr<Reporter>> start(int fd, int64_t idle_ms = 5000);
  // Stops the thread without waiting for the agent; call drain() before it where the last words
  // matter.
  ~Reporter();
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

  // Queues one report; its time is filled in. Never waits.
  void send(wire::RankMessage message);
  // What RankProgress says from now on.
  void set_progress(int64_t step, std::string operation);
  // Waits until everything is written or the agent is gone, at most timeout_ms. True when all was
  // written.
  bool drain(int64_t timeout_ms);

  // The agent asked the rank to end (checkpoint first, unless stop_without_checkpoint()).
  bool stop_requested() const { return stop_.load(); }
  bool stop_without_checkpoint() const { return stop_without_checkpoint_.load(); }
  // True once for each CheckpointNow.
  bool take_checkpoint_request() { return checkpoint_.exchange(false); }
  bool agent_gone() const { return gone_.load(); }
  int64_t dropped() const { return dropped_.load(); }

 private:
  explicit Reporter(Channel channel, int wake_fd, int64_t idle_ms);
  void run();
  bool pump();  // one round of the thread; false: the agent is gone or the reporter ends
  void take_queue();
  void report_progress();
  Status on_frame(const std::string& frame);
  void wake();
  int64_t unwritten_bytes() const { return queue_bytes_ + channel_bytes_; }  // under mutex_

  Channel channel_;  // the thread's
  int wake_fd_;
  int64_t idle_ms_;
  int64_t last_sent_ns_ = 0;  // the thread's

  std::mutex mutex_;
  std::condition_variable drained_;
  std::deque<std::string> queue_;  // encoded frames
  int64_t queue_bytes_ = 0;
  int64_t channel_bytes_ = 0;  // taken from the queue, not yet by the kernel
  int64_t progress_step_ = 0;
  std::string progress_operation_ = "starting";
  bool ending_ = false;

  std::atomic<bool> stop_{false};
  std::atomic<bool> stop_without_checkpoint_{false};
  std::atomic<bool> checkpoint_{false};
  std::atomic<bool> gone_{false};
  std::atomic<int64_t> dropped_{0};
  std::thread thread_;
};

}  // namespace dsv3::link
