// Element types of tensors and the host's bf16.
//
// Law: bf16 rounds to nearest even, exactly as hardware does; NaN stays NaN.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace dsv3 {

// Frozen numbers: they are written into checkpoints' manifests by name only, and cross the
// plug-in's ABI.
enum class DType : uint8_t { kF32 = 0, kBf16 = 1, kI32 = 2, kI64 = 3, kF64 = 4 };

constexpr size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return 2;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kI64:
    case DType::kF64:
      return 8;
  }
  return 0;
}

// "f32", "bf16", "i32", "i64", "f64".
const char* dtype_name(DType dtype);

struct Bf16 {
  uint16_t bits = 0;

  Bf16() = default;
  explicit Bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    // Adding 0x7FFF plus the kept bit's parity rounds to nearest even; a NaN would overflow to
    // infinity.
    bits = (u & 0x7FFFFFFFu) > 0x7F800000u
               ? static_cast<uint16_t>((u >> 16) | 0x40u)
               : static_cast<uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};
static_assert(sizeof(Bf16) == 2);

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<Bf16>() {
  return DType::kBf16;
}

}  // namespace dsv3
