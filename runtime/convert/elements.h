// Element types of other people's weight files, decoded to f32.
//
// Law: every value of F32, F16, BF16, F8_E4M3 and F8_E8M0 is exact in f32, so decoding loses
// nothing; an integer or another float type is refused by name before anything is read.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace dsv3::convert {

// True for the safetensors tags that decode() knows.
bool can_decode(std::string_view tag);

// out[i] = element i of `bytes` (little-endian, of any alignment), exactly. Requires
// can_decode(tag) and as many elements in `bytes` as in `out`.
void decode(std::string_view tag, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace dsv3::convert
