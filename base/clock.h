// Time as an object, so that everything that waits or expires can be tested without sleeping.
#pragma once

#include <cstdint>

namespace dsv3 {

// Nanoseconds. Steady time never goes back; wall time is for people and files (Unix epoch).
class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t steady_ns() const = 0;
  virtual int64_t wall_ns() const = 0;
};

// The machine's clocks; shared, stateless, thread-safe.
const Clock& system_clock();

// A clock that moves only when told to; both clocks move together.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(int64_t wall_start_ns = 1'700'000'000'000'000'000)
      : wall_start_ns_(wall_start_ns) {}
  void advance_ns(int64_t ns) { now_ns_ += ns; }
  int64_t steady_ns() const override { return now_ns_; }
  int64_t wall_ns() const override { return wall_start_ns_ + now_ns_; }

 private:
  int64_t wall_start_ns_;
  int64_t now_ns_ = 0;
};

}  // namespace dsv3
