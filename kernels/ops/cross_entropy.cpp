// Checks and dispatch of cross entropy; contract in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {

void cross_entropy(const Context& ctx, const CrossEntropy& args) {
  DSV3_CHECK(is_act(args.logits.dtype) && is_valid(args.logits), "cross_entropy: logits");
  DSV3_CHECK(args.logits.cols >= 1 || args.logits.rows == 0, "cross_entropy: an empty vocabulary");
  DSV3_CHECK(has_size(args.labels, args.logits.rows), "cross_entropy: labels is [rows]");
  DSV3_CHECK(args.loss != nullptr, "cross_entropy: loss");
  ctx.backend->cross_entropy(ctx, args);
}

void cross_entropy_statistics(const Context& ctx, const CrossEntropyStatistics& args) {
  DSV3_CHECK(has_shape(args.logits, DType::kF32, args.logits.rows, args.logits.cols),
             "cross_entropy_statistics: logits is [rows, V] f32");
  DSV3_CHECK(args.logits.cols >= 1 && args.first >= 0, "cross_entropy_statistics: columns");
  DSV3_CHECK(has_size(args.labels, args.logits.rows), "cross_entropy_statistics: labels is [rows]");
  DSV3_CHECK(has_size(args.statistics, 3 * args.logits.rows),
             "cross_entropy_statistics: statistics is [rows, 3]");
  ctx.backend->cross_entropy_statistics(ctx, args);
}

void cross_entropy_finish(const Context& ctx, const CrossEntropyFinish& args) {
  DSV3_CHECK(args.ranks >= 1 && args.rank >= 0 && args.rank < args.ranks,
             "cross_entropy_finish: ranks");
  DSV3_CHECK(
      !args.want_grad || has_shape(args.terms, DType::kF32, args.labels.size, args.terms.cols),
      "cross_entropy_finish: terms is [rows, V] f32");
  DSV3_CHECK(has_size(args.labels, args.labels.size), "cross_entropy_finish: labels is [rows]");
  DSV3_CHECK(has_size(args.statistics, args.ranks * args.labels.size * 3),
             "cross_entropy_finish: statistics is [ranks, rows, 3]");
  ctx.backend->cross_entropy_finish(ctx, args);
}

}  // namespace dsv3::ops
