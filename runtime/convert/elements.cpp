// Bit by bit; see elements.h. F8_E4M3 is the variant without infinities (OCP 8-bit floating point:
// exponent bias 7, S.1111.111 is NaN), F8_E8M0 a bare exponent with bias 127 (0xFF is NaN).
#include "runtime/convert/elements.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/dtype.h"

namespace dsv3::convert {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float from_half(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const int mantissa = bits & 0x3FF;
  const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == 0x1F) {
    return mantissa != 0 ? kNan : sign * std::numeric_limits<float>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

float from_e4m3(uint8_t bits) {
  const int exponent = (bits >> 3) & 0xF;
  const int mantissa = bits & 0x7;
  const float sign = (bits & 0x80) != 0 ? -1.0F : 1.0F;
  if (exponent == 0xF && mantissa == 7) return kNan;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(mantissa + 8), exponent - 10);
}

float from_e8m0(uint8_t bits) {
  return bits == 0xFF ? kNan : std::ldexp(1.0F, static_cast<int>(bits) - 127);
}

template <typename Bits, float (*Convert)(Bits)>
std::array<float, size_t{1} << (8 * sizeof(Bits))> make_table() {
  std::array<float, size_t{1} << (8 * sizeof(Bits))> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = Convert(static_cast<Bits>(i));
  return table;
}

template <typename Bits, float (*Convert)(Bits)>
void look_up(std::span<const std::byte> bytes, std::span<float> out) {
  static const auto table = make_table<Bits, Convert>();
  for (size_t i = 0; i < out.size(); ++i) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof(Bits));
    out[i] = table[bits];
  }
}

void copy_f32(std::span<const std::byte> bytes, std::span<float> out) {
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
}

void widen_bf16(std::span<const std::byte> bytes, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, sizeof bits);
    out[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
}

struct Decoder {
  std::string_view tag;
  size_t element_bytes;
  void (*run)(std::span<const std::byte>, std::span<float>);
};

constexpr Decoder kDecoders[] = {
    {"F32", 4, copy_f32},
    {"BF16", 2, widen_bf16},
    {"F16", 2, look_up<uint16_t, from_half>},
    {"F8_E4M3", 1, look_up<uint8_t, from_e4m3>},
    {"F8_E8M0", 1, look_up<uint8_t, from_e8m0>},
};

const Decoder* find_decoder(std::string_view tag) {
  for (const Decoder& decoder : kDecoders) {
    if (decoder.tag == tag) return &decoder;
  }
  return nullptr;
}

}  // namespace

bool can_decode(std::string_view tag) {
  return find_decoder(tag) != nullptr;
}

void decode(std::string_view tag, std::span<const std::byte> bytes, std::span<float> out) {
  const Decoder* decoder = find_decoder(tag);
  DSV3_CHECK(decoder != nullptr, tag);
  DSV3_CHECK(bytes.size() == out.size() * decoder->element_bytes, tag);
  decoder->run(bytes, out);
}

}  // namespace dsv3::convert
