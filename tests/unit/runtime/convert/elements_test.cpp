// Decoding against values that the formats' definitions give.
#include "runtime/convert/elements.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace dsv3::convert {
namespace {

template <typename Bits>
std::vector<float> decoded(const std::string& tag, const std::vector<Bits>& bits) {
  std::vector<float> out(bits.size());
  decode(tag, std::as_bytes(std::span(bits)), out);
  return out;
}

TEST(Elements, HalfIsExact) {
  const std::vector<uint16_t> bits = {0x0000, 0x3C00, 0xC000, 0x7BFF, 0x0001,
                                      0x0400, 0x83FF, 0x3555, 0x7C00, 0xFC00};
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> want = {0.0F,     1.0F,          -2.0F,           65504.0F, 0x1p-24F,
                                   0x1p-14F, -0x1.FF8p-15F, 0.333251953125F, inf,      -inf};
  EXPECT_EQ(decoded("F16", bits), want);
  EXPECT_TRUE(std::isnan(decoded<uint16_t>("F16", {0x7E01})[0]));
  EXPECT_TRUE(std::signbit(decoded<uint16_t>("F16", {0x8000})[0]));
}

TEST(Elements, E4m3IsExact) {
  const std::vector<uint8_t> bits = {0x00, 0x38, 0xB8, 0x7E, 0xFE, 0x01, 0x07, 0x08, 0x41, 0x3D};
  const std::vector<float> want = {0.0F,    1.0F,        -1.0F,   448.0F, -448.0F,
                                   0x1p-9F, 7 * 0x1p-9F, 0x1p-6F, 2.25F,  1.625F};
  EXPECT_EQ(decoded("F8_E4M3", bits), want);
  EXPECT_TRUE(std::isnan(decoded<uint8_t>("F8_E4M3", {0x7F})[0]));
  EXPECT_TRUE(std::isnan(decoded<uint8_t>("F8_E4M3", {0xFF})[0]));
}

// Between neighbours of one sign nothing is left out or out of order.
TEST(Elements, E4m3GrowsWithItsBits) {
  for (uint8_t bits = 0; bits < 0x7E; ++bits) {
    const auto pair = decoded<uint8_t>("F8_E4M3", {bits, static_cast<uint8_t>(bits + 1)});
    EXPECT_LT(pair[0], pair[1]) << int{bits};
    EXPECT_EQ(decoded<uint8_t>("F8_E4M3", {static_cast<uint8_t>(bits | 0x80)})[0], -pair[0]);
  }
}

TEST(Elements, E8m0IsAPowerOfTwo) {
  EXPECT_EQ(decoded<uint8_t>("F8_E8M0", {127, 128, 120, 254}),
            (std::vector<float>{1.0F, 2.0F, 0x1p-7F, 0x1p127F}));
}

TEST(Elements, BfloatAndFloatAreTheUpperBitsAndAll) {
  EXPECT_EQ(decoded<uint16_t>("BF16", {0x3F80, 0xC2F7}), (std::vector<float>{1.0F, -123.5F}));
  EXPECT_EQ(decoded<float>("F32", {1.1F, -0.0F, 1e-42F}),
            (std::vector<float>{1.1F, -0.0F, 1e-42F}));
}

TEST(Elements, ReadsBytesOfAnyAlignment) {
  const std::vector<uint8_t> bytes = {0xEE, 0x80, 0x3F, 0xF7, 0xC2};
  std::vector<float> out(2);
  decode("BF16", std::as_bytes(std::span(bytes)).subspan(1), out);
  EXPECT_EQ(out, (std::vector<float>{1.0F, -123.5F}));
}

TEST(Elements, OtherTypesAreNotDecoded) {
  for (const char* tag : {"I32", "U8", "BOOL", "F64", "F8_E5M2", ""}) EXPECT_FALSE(can_decode(tag));
}

}  // namespace
}  // namespace dsv3::convert
