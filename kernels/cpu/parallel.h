// Many single-threaded pieces of work spread over the OpenMP team.
//
// Laws: a piece is done whole by one thread, so its bits do not depend on which; an exception
// inside leaves through the calling thread. Team sizes are set where a region starts, for oneDNN
// asks OpenMP how many threads it may use.
//
// Only for files of kernels/cpu.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>

#include "kernels/ops/backend.h"

namespace dsv3::cpu {

// The number of threads that an op started here may use: 1 inside a parallel region.
inline int team_size() {
  return omp_in_parallel() ? 1 : omp_get_max_threads();
}

// bytes rounded up to whole cache lines, so that the parts of one reservation stay aligned.
constexpr size_t aligned_bytes(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// While alive, parallel regions started by this thread have `threads` threads.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ScopedThreads() { omp_set_num_threads(before_); }
  ScopedThreads(const ScopedThreads&) = delete;
  ScopedThreads& operator=(const ScopedThreads&) = delete;

 private:
  int before_;
};

// Carries the first exception of a parallel region out of it; later pieces are skipped.
class ErrorSlot {
 public:
  template <typename F>
  void guard(const F& f) {
    bool failed;
#pragma omp atomic read
    failed = failed_;
    if (failed) return;
    try {
      f();
    } catch (...) {
#pragma omp critical(dsv3_error_slot)
      if (!error_) error_ = std::current_exception();
#pragma omp atomic write
      failed_ = true;
    }
  }
  // After the region: throws what a piece threw.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  bool failed_ = false;
  std::exception_ptr error_;
};

// Runs body(item, scratch) for each item in [0, items), each item by one thread of at most
// `threads`, which hands it its own `scratch_bytes` (a multiple of 64) from `scratch`. Items start
// in ascending order.
template <typename Body>
void for_each_item(int64_t items, int threads, std::byte* scratch, size_t scratch_bytes,
                   const Body& body) {
  ErrorSlot error;
  const int team = static_cast<int>(std::clamp<int64_t>(items, 1, threads));
#pragma omp parallel num_threads(team) if (team > 1)
  {
    const ScopedThreads single(1);
    std::byte* own = scratch + scratch_bytes * omp_get_thread_num();
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) error.guard([&] { body(item, own); });
  }
  error.rethrow();
}

}  // namespace dsv3::cpu
