// The reduction kernels: blocks that stay in the first-level cache are accumulated source by
// source.
//
// Law: compiled for AVX2 and for the plain machine, chosen at load time; both give the same bits
// (only additions and comparisons, nothing to contract).
#include "runtime/comm/cpu/fold.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/check.h"

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define DSV3_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define DSV3_CLONES
#endif
// What the clones call must be part of them.
#define DSV3_INLINE inline __attribute__((always_inline))

namespace dsv3::comm {
namespace {

constexpr int64_t kBlock = 2048;  // accumulators: at most 16 KiB

// Unsigned in sums, so that integers wrap.
template <typename T>
using SumOf = typename std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>,
                                          std::type_identity<T>>::type;

template <typename T, bool kMaximum>
DSV3_INLINE T combine(T a, T b) {
  if constexpr (kMaximum) {
    return (b > a || b != b) ? b : a;  // a NaN in a stays: no comparison with it is true
  } else {
    using S = SumOf<T>;
    return static_cast<T>(static_cast<S>(a) + static_cast<S>(b));
  }
}

DSV3_INLINE float load(uint16_t bf16) {
  return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16);
}
// Bf16(float) of base/dtype.h without a branch, so that it vectorises.
DSV3_INLINE uint16_t store(float value, uint16_t) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
  const uint32_t nan = (u >> 16) | 0x40u;
  return static_cast<uint16_t>((u & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}
template <typename T>
DSV3_INLINE T load(T value) {
  return value;
}
template <typename T>
DSV3_INLINE T store(T value, T) {
  return value;
}

// Elements [at, at + n) of type E, accumulated as A. `out` may be a source: element i of it is
// written after element i of all sources was read (so no iteration depends on another).
template <typename E, typename A, bool kMaximum>
DSV3_INLINE void fold_block(std::span<const std::byte* const> sources, std::byte* out, int64_t at,
                            int64_t n) {
  E* const to = reinterpret_cast<E*>(out) + at;
  const E* const first = reinterpret_cast<const E*>(sources[0]) + at;
  const size_t num = sources.size();
  if (num == 1) {
    std::memmove(to, first, static_cast<size_t>(n) * sizeof(E));
    return;
  }
  const E* const second = reinterpret_cast<const E*>(sources[1]) + at;
  if (num == 2) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i)
      to[i] = store(combine<A, kMaximum>(load(first[i]), load(second[i])), E{});
    return;
  }
  alignas(64) A acc[kBlock];
  for (int64_t i = 0; i < n; ++i) acc[i] = combine<A, kMaximum>(load(first[i]), load(second[i]));
  for (size_t s = 2; s + 1 < num; ++s) {
    const E* const in = reinterpret_cast<const E*>(sources[s]) + at;
    for (int64_t i = 0; i < n; ++i) acc[i] = combine<A, kMaximum>(acc[i], load(in[i]));
  }
  const E* const last = reinterpret_cast<const E*>(sources[num - 1]) + at;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) to[i] = store(combine<A, kMaximum>(acc[i], load(last[i])), E{});
}

// One function per dtype and reduction; the clones are of these.
#define DSV3_FOLD(name, block)                                                     \
  DSV3_CLONES void name(std::span<const std::byte* const> sources, std::byte* out, \
                        int64_t count) {                                           \
    for (int64_t at = 0; at < count; at += kBlock)                                 \
      block(sources, out, at, std::min(kBlock, count - at));                       \
  }
DSV3_FOLD(sum_f32, (fold_block<float, float, false>))
DSV3_FOLD(max_f32, (fold_block<float, float, true>))
DSV3_FOLD(sum_f64, (fold_block<double, double, false>))
DSV3_FOLD(max_f64, (fold_block<double, double, true>))
DSV3_FOLD(sum_i32, (fold_block<int32_t, int32_t, false>))
DSV3_FOLD(max_i32, (fold_block<int32_t, int32_t, true>))
DSV3_FOLD(sum_i64, (fold_block<int64_t, int64_t, false>))
DSV3_FOLD(max_i64, (fold_block<int64_t, int64_t, true>))
DSV3_FOLD(sum_bf16, (fold_block<uint16_t, float, false>))
DSV3_FOLD(max_bf16, (fold_block<uint16_t, float, true>))
#undef DSV3_FOLD

}  // namespace

void fold(Reduce reduce, DType dtype, std::span<const std::byte* const> sources, std::byte* out,
          int64_t count) {
  DSV3_CHECK(!sources.empty());
  if (count == 0) return;
  const bool sum = reduce == Reduce::kSum;
  switch (dtype) {
    case DType::kF32:
      return sum ? sum_f32(sources, out, count) : max_f32(sources, out, count);
    case DType::kBf16:
      return sum ? sum_bf16(sources, out, count) : max_bf16(sources, out, count);
    case DType::kF64:
      return sum ? sum_f64(sources, out, count) : max_f64(sources, out, count);
    case DType::kI32:
      return sum ? sum_i32(sources, out, count) : max_i32(sources, out, count);
    case DType::kI64:
      return sum ? sum_i64(sources, out, count) : max_i64(sources, out, count);
  }
}

}  // namespace dsv3::comm
