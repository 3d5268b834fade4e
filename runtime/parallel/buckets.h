// Buckets: the flat buffer of gradients cut into ranges that are summed as one, by whom and when.
//
// Laws: PURE. (1) Every element is in exactly one bucket. (2) Buckets follow from the parameters'
// layout alone, so the members of a sum have the same ones in the same order. (3) A bucket is on
// its way only when nothing more is added to it. (4) Neighbours are joined only where the same
// ranks sum them. (Buckets in backward order: PyTorch DDP, Li et al. 2020, arXiv 2006.15704.)
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model/param_layout.h"

namespace dsv3::parallel {

using model::Range;

// Events of a backward pass: 0 is head_done(), num_layers − l is layer_done(l), num_layers + 1 the
// end of the pass.
int64_t layer_event(int64_t num_layers, int64_t layer);
int64_t end_event(int64_t num_layers);

struct Bucket {
  Range range;
  // Whose communicators sum it: kExpert only where experts are summed by other ranks than the rest.
  plan::ParamClass cls = plan::ParamClass::kDense;
  std::vector<int64_t> events;  // ascending; after all of them, in any order, it is complete
  bool copied = false;          // the embedding, which the first and the last stage hold
  bool windowed = false;  // ZeRO 2: of one layer, summed after every micro-batch, never joined on
  bool operator==(const Bucket&) const = default;
};

struct BucketOptions {
  int64_t num_layers = 0;  // with MTP modules; Hugging Face's numbering
  int64_t bytes_min = int64_t{1} << 20;
  bool copies = false;  // the embedding is held twice: a bucket of its own
};

// In backward order: by the event at which a bucket was large enough, then by offset. Neighbours
// are joined until a range has at least `bytes_min` bytes of f32; what stays smaller is joined with
// what is complete at the end. Worked example, 2 layers of 3 MiB and a head of 40 KiB before them,
// bytes_min 4 MiB: {both layers; events 1, 2} {head and what is left; events 0, 3}.
std::vector<Bucket> gradient_buckets(const model::ParamLayout& params, const plan::Layout& cut,
                                     const BucketOptions& options);

// Which of the ranks that sum a class this one is (ascending global ranks), and how many they are:
// replicated TP·CP·EP·DP, dense CP·EP·DP, experts CP·DP.
struct SumPlace {
  int64_t index = 0;
  int64_t ranks = 1;
};
SumPlace sum_place(plan::ParamClass cls, const plan::Layout& cut,
                   const plan::RankPosition& position);

// The part of `range` that rank `index` of `ranks` keeps: whole lines of 64 bytes of f32, as even
// as they go; may be empty. Requires a range of whole lines, as all buckets are. Example: 5 lines
// over 2 ranks: 2 and 3.
Range piece_of(const Range& range, int64_t index, int64_t ranks);

}  // namespace dsv3::parallel
