// Checks and dispatch of the elementwise ops; contract in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {

void add(const Context& ctx, const Add& args) {
  DSV3_CHECK(is_act(args.y.dtype) && is_valid(args.y), "add: y");
  DSV3_CHECK(has_shape(args.x, args.y.dtype, args.y.rows, args.y.cols),
             "add: x has y's shape and dtype");
  ctx.backend->add(ctx, args);
}

void cast(const Context& ctx, const Cast& args) {
  DSV3_CHECK(is_act(args.x.dtype) && is_act(args.y.dtype) && is_valid(args.x), "cast: x");
  DSV3_CHECK(has_shape(args.y, args.y.dtype, args.x.rows, args.x.cols), "cast: y has x's shape");
  ctx.backend->cast(ctx, args);
}

}  // namespace dsv3::ops
