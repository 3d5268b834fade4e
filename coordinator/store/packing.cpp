// See packing.h.
#include "coordinator/store/packing.h"

#include <fmt/format.h>

#include <algorithm>

namespace dsv3::store {

std::string pack_counts(std::span<const uint64_t> counts) {
  uint64_t largest = 0;
  for (const uint64_t count : counts) largest = std::max(largest, count);
  int width = 8;
  for (const int candidate : {4, 3, 2, 1}) {
    if (largest < (uint64_t{1} << (8 * candidate))) width = candidate;
  }
  std::string blob(1, static_cast<char>(width));
  blob.reserve(1 + counts.size() * static_cast<size_t>(width));
  for (const uint64_t count : counts) {
    for (int i = 0; i < width; ++i) blob.push_back(static_cast<char>((count >> (8 * i)) & 0xFFu));
  }
  return blob;
}

Result<std::vector<uint64_t>> unpack_counts(std::string_view blob) {
  const size_t width = blob.empty() ? 0 : static_cast<unsigned char>(blob[0]);
  const bool known = width == 1 || width == 2 || width == 3 || width == 4 || width == 8;
  if (!known || (blob.size() - 1) % width != 0) {
    return Status(Code::kInvalid,
                  fmt::format("{} bytes with width {} are not packed counts", blob.size(), width));
  }
  std::vector<uint64_t> counts((blob.size() - 1) / width);
  for (size_t cell = 0; cell < counts.size(); ++cell) {
    for (size_t i = 0; i < width; ++i) {
      counts[cell] |= static_cast<uint64_t>(static_cast<unsigned char>(blob[1 + cell * width + i]))
                      << (8 * i);
    }
  }
  return counts;
}

}  // namespace dsv3::store
