// Which tokens a rank holds; see pass.h.
#include "runtime/model/pass.h"

namespace dsv3::model {

std::vector<int64_t> token_positions(int64_t sequence, int64_t cp, int64_t cp_rank) {
  const int64_t parts = cp == 1 ? 1 : 2 * cp, part = sequence / parts;
  DSV3_CHECK(sequence % parts == 0 && cp_rank >= 0 && cp_rank < cp);
  std::vector<int64_t> positions;
  positions.reserve(static_cast<size_t>(sequence / cp));
  for (const int64_t first : {cp_rank, parts - 1 - cp_rank}) {
    for (int64_t i = 0; i < part; ++i) positions.push_back(first * part + i);
    if (parts == 1) break;
  }
  return positions;
}

}  // namespace dsv3::model
