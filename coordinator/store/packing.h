// Packed token counts: one BLOB for the MoE layers of one step, exact for 64-bit counts and
// readable with plain SQL.
//
// Format (frozen; the view expert_usage unpacks it): byte 0 is the width w ∈ {1, 2, 3, 4, 8}; then
// one little-endian unsigned integer of w bytes per cell, layer after layer, expert after expert. w
// is the smallest that holds the largest count, so a cell takes at most 3 bytes while no expert
// gets 2^24 or more tokens in a step. Worked example: {1, 300} → 02 01 00 2C 01.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace dsv3::store {

std::string pack_counts(std::span<const uint64_t> counts);
// kInvalid when the width is none of the five or the length is not 1 + w · cells.
Result<std::vector<uint64_t>> unpack_counts(std::string_view blob);

}  // namespace dsv3::store
