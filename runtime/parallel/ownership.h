// Ownership: which flat elements this rank updates, and for which it stands for the model.
//
// Laws: PURE. (1) Over all ranks of the world every element of the model is represented exactly
// once (a copy of the embedding by the first stage): norms and checkpoints count it once. (2) What
// a rank updates of a bucket is known to every rank that sums it. (3) Ranges ascend, are disjoint
// and never touch, and are whole lines of 16 elements. (4) The f32 master of what a rank updates,
// and of what is always read in f32, is there. (ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054.)
#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "runtime/parallel/buckets.h"

namespace dsv3::parallel {

struct Ownership {
  // Whose optimizer state and update are here. ZeRO 0: everything; 1 and 2: this rank's pieces.
  std::vector<Range> updated;
  // Its pieces, whatever the ZeRO stage; all sums over ranks are there. Part of `updated`.
  std::vector<Range> represented;

  // Of a rank alone: everything.
  static Ownership whole(const model::ParamLayout& params);
};

// Elements in all of them.
int64_t num_elements(const std::vector<Range>& ranges);

Ownership ownership(const std::vector<Bucket>& buckets, const plan::Layout& cut,
                    const plan::RankPosition& position, int64_t zero_stage);

// Whose f32 master a rank keeps that multiplies in `compute`: all in f32, which is then multiplied;
// else of what it updates and of [params.compute_elements, params.elements).
std::vector<Range> master_ranges(const model::ParamLayout& params,
                                 const std::vector<Range>& updated, DType compute);

}  // namespace dsv3::parallel
