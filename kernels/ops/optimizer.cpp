// Checks and dispatch of the optimizer's ops; contract in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {

void squared_norm(const Context& ctx, const SquaredNorm& args) {
  DSV3_CHECK(has_size(args.x, args.x.size) && args.x.size >= 0, "squared_norm: x");
  DSV3_CHECK(args.sum != nullptr, "squared_norm: sum");
  ctx.backend->squared_norm(ctx, args);
}

void adamw(const Context& ctx, const AdamW& args) {
  const int64_t size = args.master.size;
  DSV3_CHECK(size >= 0 && has_size(args.master, size), "adamw: master");
  DSV3_CHECK(has_size(args.grad, size), "adamw: grad has master's size");
  DSV3_CHECK((args.exp_avg && args.exp_avg_sq) || size == 0, "adamw: moments");
  DSV3_CHECK(is_act(args.moments_dtype), "adamw: moments are f32 or bf16");
  DSV3_CHECK(args.bias1 > 0.0f && args.bias2 > 0.0f,
             "adamw: bias corrections are 1 - beta^t with t from 1");
  ctx.backend->adamw(ctx, args);
}

void clip_scale(const Context& ctx, const ClipScale& args) {
  DSV3_CHECK(args.sum_of_squares && args.scale && args.norm, "clip_scale: a scalar is missing");
  DSV3_CHECK(args.max_norm >= 0.0f, "clip_scale: max_norm");
  ctx.backend->clip_scale(ctx, args);
}

}  // namespace dsv3::ops
