// Checks and dispatch of SwiGLU; contract in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {

void swiglu_forward(const Context& ctx, const SwigluForward& args) {
  DSV3_CHECK(is_act(args.y.dtype) && is_valid(args.y), "swiglu_forward: y");
  DSV3_CHECK(has_shape(args.gate_up, args.y.dtype, args.y.rows, 2 * args.y.cols),
             "swiglu_forward: gate_up is [rows, 2F] like y");
  DSV3_CHECK(is_absent_or_has_size(args.row_scale, args.y.rows),
             "swiglu_forward: row_scale is [rows]");
  ctx.backend->swiglu_forward(ctx, args);
}

void swiglu_backward(const Context& ctx, const SwigluBackward& args) {
  const int64_t rows = args.dy.rows, width = args.dy.cols;
  DSV3_CHECK(is_act(args.dy.dtype) && is_valid(args.dy), "swiglu_backward: dy");
  DSV3_CHECK(has_shape(args.gate_up, args.dy.dtype, rows, 2 * width),
             "swiglu_backward: gate_up is [rows, 2F] like dy");
  DSV3_CHECK(has_shape(args.dgate_up, args.dy.dtype, rows, 2 * width),
             "swiglu_backward: dgate_up is [rows, 2F] like dy");
  DSV3_CHECK(is_absent_or_has_size(args.row_scale, rows), "swiglu_backward: row_scale is [rows]");
  DSV3_CHECK(args.row_scale.empty() || has_size(args.drow_scale, rows),
             "swiglu_backward: drow_scale is [rows], with row_scale");
  ctx.backend->swiglu_backward(ctx, args);
}

}  // namespace dsv3::ops
