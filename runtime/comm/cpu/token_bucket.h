// A token bucket: how many bytes may be sent now, at an average rate with a short burst.
//
// Law: over any span of t seconds at most rate · t + burst bytes are taken; no clock is read here.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dsv3::comm {

class TokenBucket {
 public:
  // rate 0: no limit. The burst is what 10 ms bring, at least 16 KiB.
  explicit TokenBucket(int64_t bytes_per_s = 0)
      : rate_(static_cast<double>(bytes_per_s)),
        burst_(std::max(16384.0, rate_ / 100)),
        tokens_(burst_) {}

  bool limits() const { return rate_ != 0; }
  // Bytes that may go now: up to `wanted`; 0 when it isn't yet worth a call (less than a quarter of
  // the burst, and less than what is wanted).
  int64_t allowed(int64_t wanted, int64_t now_ns) {
    if (rate_ == 0) return wanted;
    fill(now_ns);
    if (tokens_ >= static_cast<double>(wanted)) return wanted;
    return tokens_ >= burst_ / 4 ? static_cast<int64_t>(tokens_) : 0;
  }
  void take(int64_t bytes) {
    if (rate_ != 0) tokens_ -= static_cast<double>(bytes);
  }
  // When a quarter of the burst will be there.
  int64_t ready_ns() const {
    return last_ns_ + static_cast<int64_t>((burst_ / 4 - tokens_) / rate_ * 1e9) + 1000;
  }

 private:
  void fill(int64_t now_ns) {
    if (last_ns_ != 0) {
      const double seconds = static_cast<double>(now_ns - last_ns_) * 1e-9;
      tokens_ = std::min(burst_, tokens_ + seconds * rate_);
    }
    last_ns_ = now_ns;
  }

  double rate_;
  double burst_;
  double tokens_;
  int64_t last_ns_ = 0;
};

}  // namespace dsv3::comm
