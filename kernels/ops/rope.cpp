// Checks and dispatch of RoPE; contract in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {

void rope(const Context& ctx, const Rope& args) {
  DSV3_CHECK(is_act(args.dtype), "rope: x is f32 or bf16");
  DSV3_CHECK(args.tokens >= 0 && args.heads >= 0, "rope: sizes");
  DSV3_CHECK(args.rope_dim >= 0 && args.rope_dim % 2 == 0, "rope: rope_dim is even");
  if (args.rope_dim == 0 || args.tokens == 0 || args.heads == 0) return;
  DSV3_CHECK(args.x != nullptr, "rope: x");
  DSV3_CHECK(args.sequence > 0 && args.tokens % args.sequence == 0,
             "rope: tokens are whole sequences");
  DSV3_CHECK(args.heads == 1 || args.head_stride >= args.rope_dim, "rope: heads do not overlap");
  DSV3_CHECK(args.token_stride >= (args.heads - 1) * args.head_stride + args.rope_dim,
             "rope: tokens do not overlap");
  const int64_t angles = args.sequence * args.rope_dim / 2;
  DSV3_CHECK(has_size(args.cos, angles) && has_size(args.sin, angles),
             "rope: cos and sin are [sequence, rope_dim / 2]");
  ctx.backend->rope(ctx, args);
}

}  // namespace dsv3::ops
