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

}  // namespace dsv3::ops
