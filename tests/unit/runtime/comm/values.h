// Test values of every dtype, and the plain loops that say what an operation must give.
//
// Law: the reference is written from the contract alone (communicator.h): values are combined one
// by one in the order of ranks, bf16 in f32 with one rounding at the end.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "runtime/comm/communicator.h"

namespace dsv3::comm {

inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x7fb5d329728ea185ull;
  x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44dull;
  return x ^ (x >> 33);
}

// Bytes of `count` elements, as rank `rank` has them in operation `salt`.
inline std::vector<char> values(DType dtype, int64_t count, int rank, int salt) {
  std::vector<char> bytes(static_cast<size_t>(count) * dtype_bytes(dtype));
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t h = mix(static_cast<uint64_t>(i) * 64 + static_cast<uint64_t>(rank) +
                           (static_cast<uint64_t>(salt) << 40));
    const double x = static_cast<double>(h % 2'000'003) / 1e6 - 1.0;
    char* at = bytes.data() + static_cast<size_t>(i) * dtype_bytes(dtype);
    const auto put = [at](auto v) { std::memcpy(at, &v, sizeof(v)); };
    if (dtype == DType::kF32) put(static_cast<float>(x));
    if (dtype == DType::kBf16) put(Bf16(static_cast<float>(x)));
    if (dtype == DType::kF64) put(x);
    if (dtype == DType::kI32) put(static_cast<int32_t>(h));
    if (dtype == DType::kI64) put(static_cast<int64_t>(h));
  }
  return bytes;
}

template <typename T, typename Acc, typename Wrap>
std::vector<char> reduce_as(const std::vector<std::vector<char>>& inputs, Reduce reduce) {
  std::vector<char> out(inputs[0].size());
  for (size_t at = 0; at < out.size(); at += sizeof(T)) {
    Acc acc{};
    for (size_t r = 0; r < inputs.size(); ++r) {
      T v;
      std::memcpy(&v, inputs[r].data() + at, sizeof(T));
      const Acc x = static_cast<Acc>(v);
      if (r == 0)
        acc = x;
      else if (reduce == Reduce::kMax)
        acc = x > acc ? x : acc;
      else
        acc = static_cast<Acc>(static_cast<Wrap>(acc) + static_cast<Wrap>(x));
    }
    const T result = static_cast<T>(acc);
    std::memcpy(out.data() + at, &result, sizeof(T));
  }
  return out;
}

// What a reduction over `inputs` (in order of ranks) must give, bit by bit.
inline std::vector<char> reduced(DType dtype, const std::vector<std::vector<char>>& inputs,
                                 Reduce reduce) {
  switch (dtype) {
    case DType::kF32:
      return reduce_as<float, float, float>(inputs, reduce);
    case DType::kBf16:
      return reduce_as<Bf16, float, float>(inputs, reduce);
    case DType::kF64:
      return reduce_as<double, double, double>(inputs, reduce);
    case DType::kI32:
      return reduce_as<int32_t, int32_t, uint32_t>(inputs, reduce);
    case DType::kI64:
      return reduce_as<int64_t, int64_t, uint64_t>(inputs, reduce);
  }
  return {};
}

inline const std::vector<DType>& all_dtypes() {
  static const std::vector<DType> dtypes = {DType::kF32, DType::kBf16, DType::kI32, DType::kI64,
                                            DType::kF64};
  return dtypes;
}

inline Buffer buffer(std::vector<char>& bytes, DType dtype) {
  return {bytes.data(), static_cast<int64_t>(bytes.size() / dtype_bytes(dtype)), dtype};
}
inline ConstBuffer const_buffer(const std::vector<char>& bytes, DType dtype) {
  return {bytes.data(), static_cast<int64_t>(bytes.size() / dtype_bytes(dtype)), dtype};
}

}  // namespace dsv3::comm
