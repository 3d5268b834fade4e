// Pieces of buckets; see ownership.h.
#include "runtime/parallel/ownership.h"

#include <algorithm>
#include <utility>

namespace dsv3::parallel {
namespace {

// Ascending, without empty ones, those that touch or overlap joined.
std::vector<Range> tidy(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> joined;
  for (const Range& range : ranges) {
    if (range.size() == 0) continue;
    if (!joined.empty() && joined.back().end >= range.begin) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

}  // namespace

Ownership Ownership::whole(const model::ParamLayout& params) {
  return {.updated = {{0, params.elements}}, .represented = {{0, params.elements}}};
}

int64_t num_elements(const std::vector<Range>& ranges) {
  int64_t sum = 0;
  for (const Range& range : ranges) sum += range.size();
  return sum;
}

Ownership ownership(const std::vector<Bucket>& buckets, const plan::Layout& cut,
                    const plan::RankPosition& position, int64_t zero_stage) {
  Ownership result;
  for (const Bucket& bucket : buckets) {
    const SumPlace place = sum_place(bucket.cls, cut, position);
    const Range piece = piece_of(bucket.range, place.index, place.ranks);
    result.updated.push_back(zero_stage == 0 ? bucket.range : piece);
    if (!bucket.copied || position.pp_stage == 0) result.represented.push_back(piece);
  }
  result.updated = tidy(std::move(result.updated));
  result.represented = tidy(std::move(result.represented));
  return result;
}

std::vector<Range> master_ranges(const model::ParamLayout& params,
                                 const std::vector<Range>& updated, DType compute) {
  if (compute == DType::kF32) return {{0, params.elements}};
  std::vector<Range> ranges = updated;
  ranges.push_back({params.compute_elements, params.elements});
  return tidy(std::move(ranges));
}

}  // namespace dsv3::parallel
