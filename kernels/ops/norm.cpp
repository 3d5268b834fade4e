// Checks and dispatch of RMSNorm; contracts in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {

void rms_norm_forward(const Context& ctx, const RmsNormForward& args) {
  const int64_t rows = args.x.rows, width = args.x.cols;
  DSV3_CHECK(is_act(args.x.dtype) && is_valid(args.x), "rms_norm_forward: x");
  DSV3_CHECK(has_shape(args.y, args.x.dtype, rows, width), "rms_norm_forward: y is like x");
  DSV3_CHECK(has_size(args.gain, width), "rms_norm_forward: gain is [D]");
  DSV3_CHECK(has_size(args.rstd, rows), "rms_norm_forward: rstd is [T]");
  ctx.backend->rms_norm_forward(ctx, args);
}

void rms_norm_backward(const Context& ctx, const RmsNormBackward& args) {
  const int64_t rows = args.x.rows, width = args.x.cols;
  DSV3_CHECK(is_act(args.x.dtype) && is_valid(args.x), "rms_norm_backward: x");
  DSV3_CHECK(has_shape(args.dy, args.x.dtype, rows, width), "rms_norm_backward: dy is like x");
  DSV3_CHECK(has_size(args.gain, width), "rms_norm_backward: gain is [D]");
  DSV3_CHECK(has_size(args.rstd, rows), "rms_norm_backward: rstd is [T]");
  DSV3_CHECK(args.dx.data == nullptr || has_shape(args.dx, args.x.dtype, rows, width),
             "rms_norm_backward: dx is like x");
  DSV3_CHECK(is_absent_or_has_size(args.dgain, width), "rms_norm_backward: dgain is [D]");
  ctx.backend->rms_norm_backward(ctx, args);
}

}  // namespace dsv3::ops
