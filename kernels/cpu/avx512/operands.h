// What the AVX-512 products read and write, in words that every file may include.
//
// Law: a unit is what one 32-bit lane holds along the summed dimension k: two bf16, or one f32. A
// is read unit by unit and broadcast; B is [k units, columns] with a unit per column.
#pragma once

#include <cstdint>

namespace dsv3::cpu::avx512 {

constexpr int64_t kLanes = 16;

// Elements of T in a unit.
template <typename T>
constexpr int64_t kUnit = static_cast<int64_t>(sizeof(float) / sizeof(T));

// A's unit (row i, unit u) is a[i · a_row + u · a_unit]; B's row of units u starts at
// b[u · b_stride].
struct Operands {
  const uint32_t* a = nullptr;
  int64_t a_row = 0;
  int64_t a_unit = 0;
  const uint32_t* b = nullptr;
  int64_t b_stride = 0;
  int64_t units = 0;
};
struct Output {
  float* c = nullptr;
  int64_t stride = 0;
  bool accumulate = false;
};

}  // namespace dsv3::cpu::avx512
