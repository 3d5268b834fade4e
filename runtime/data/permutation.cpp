// Fisher–Yates and a cycle-walking Feistel network; see permutation.h.
#include "runtime/data/permutation.h"

#include <bit>
#include <utility>

#include "base/check.h"

namespace dsv3::data {

void shuffle(std::span<uint32_t> items, const CounterRng& rng) {
  for (size_t i = items.size(); i-- > 1;) std::swap(items[i], items[rng.below(i, i + 1)]);
}

int64_t permuted(int64_t index, int64_t size, const CounterRng& rng) {
  DSV3_CHECK(index >= 0 && index < size);
  if (size == 1) return 0;
  const int half_bits = (std::bit_width(static_cast<uint64_t>(size - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  auto value = static_cast<uint64_t>(index);
  // A bijection of [0, 4^half_bits), at most 4 times as large as the wanted range: few steps lead
  // back inside.
  do {
    uint64_t left = value >> half_bits;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = left ^ (rng.bits((round << 40) ^ right) & mask);
      left = right;
      right = mixed;
    }
    value = (left << half_bits) | right;
  } while (value >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(value);
}

}  // namespace dsv3::data
