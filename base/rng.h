// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11).
//
// Law: a number is a function of (seed, key, index) alone, so the same seed gives the same model
// and the same order of samples on any number of ranks, threads or restarts. Checked against the
// paper's published test vectors.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace dsv3 {

// Ten rounds of Philox4x32 on a 128-bit counter with a 64-bit key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A stable 64-bit key for a name (FNV-1a, 64 bit): the "tensor" in "keyed by tensor and index".
uint64_t name_key(std::string_view name);

// The stream of (seed, key): random access by index; copies are free; thread-safe.
class CounterRng {
 public:
  CounterRng(uint64_t seed, uint64_t key) : seed_(seed), key_(key) {}
  // 64 uniform bits.
  uint64_t bits(uint64_t index) const;
  // Uniform in [0, 1), 53 bits.
  double uniform(uint64_t index) const;
  // Standard normal (Box–Muller on one counter block).
  float normal(uint64_t index) const;
  // Uniform integer in [0, bound), bound ≥ 1; the bias is below bound / 2^64.
  uint64_t below(uint64_t index, uint64_t bound) const;

 private:
  uint64_t seed_;
  uint64_t key_;
};

}  // namespace dsv3
