// The cases of the communication benchmark, the same for both libraries.
//
// Law: a case is timed on rank 0 between barriers-by-use: every repetition needs all ranks. Small
// cases report the median in µs, large ones GB/s of the 64 MiB buffer from the median time.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace dsv3::bench {

inline double seconds() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}
inline double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

constexpr int64_t kSmall = 1024;      // floats: 4 KB to or from each peer
constexpr int64_t kLarge = 16 << 20;  // floats: 64 MiB in all
constexpr int kSmallRepeats = 400;
constexpr int kLargeRepeats = 4;

template <typename Body>
double median_seconds(int repeats, Body&& body) {
  std::vector<double> times;
  for (int i = -repeats / 8 - 1; i < repeats; ++i) {
    const double begin = seconds();
    body();
    if (i >= 0) times.push_back(seconds() - begin);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// `Library` has rank, size, barrier(), all_reduce(data, n), all_gather(in, n, out),
// all_to_all(in, n, out), reduce_scatter(in, n, out) with n floats per peer, send(data, n, to),
// receive(data, n, from).
template <typename Library>
void run_cases(Library& l, const char* label) {
  std::vector<float> a(kLarge, 1.0f), b(kLarge, 0.0f);
  float* in = a.data();
  float* out = b.data();
  const auto small = [&](const char* name, auto&& body) {
    const double t = median_seconds(kSmallRepeats, body);
    if (l.rank == 0) std::printf("%s %d %s_4K %.1f\n", label, l.size, name, t * 1e6);
  };
  const auto large = [&](const char* name, auto&& body) {
    const double t = median_seconds(kLargeRepeats, body);
    if (l.rank == 0) std::printf("%s %d %s_64M %.3f\n", label, l.size, name, kLarge * 4e-9 / t);
  };
  const int64_t part = kLarge / l.size;
  small("barrier", [&] { l.barrier(); });
  small("all_reduce", [&] { l.all_reduce(in, kSmall); });
  small("all_gather", [&] { l.all_gather(in, kSmall, out); });
  small("all_to_all", [&] { l.all_to_all(in, kSmall, out); });
  small("reduce_scatter", [&] { l.reduce_scatter(in, kSmall, out); });
  small("ping_pong", [&] {
    if (l.rank == 0) {
      l.send(in, kSmall, 1);
      l.receive(out, kSmall, 1);
    } else if (l.rank == 1) {
      l.receive(out, kSmall, 0);
      l.send(in, kSmall, 0);
    }
  });
  l.barrier();
  std::fill(a.begin(), a.end(), 1.0f);
  large("all_reduce", [&] { l.all_reduce(in, kLarge); });
  large("reduce_scatter", [&] { l.reduce_scatter(in, part, out); });
  large("all_gather", [&] { l.all_gather(in, part, out); });
  large("all_to_all", [&] { l.all_to_all(in, part, out); });
}

}  // namespace dsv3::bench
