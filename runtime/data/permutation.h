// Seeded permutations, as an array (documents) and without one (windows of an epoch).
//
// Law: both are functions of the generator alone: the same on every machine and in every process.
#pragma once

#include <cstdint>
#include <span>

#include "base/rng.h"

namespace dsv3::data {

// Shuffles in place: Fisher–Yates from the back, draw i being rng.below(i, i + 1).
void shuffle(std::span<uint32_t> items, const CounterRng& rng);

// Where position `index` in [0, size) goes under a permutation of [0, size): a four-round Feistel
// network over the next even number of bits, walked until it lands inside. No memory, about two
// philox blocks a round and step.
int64_t permuted(int64_t index, int64_t size, const CounterRng& rng);

}  // namespace dsv3::data
