// Checks and dispatch of multi-head latent attention; contracts in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {
namespace {

void check_shape(const MlaShape& shape) {
  DSV3_CHECK(shape.batch >= 0 && shape.sequence >= 0 && shape.heads >= 0, "mla_attention: sizes");
  DSV3_CHECK(shape.nope_dim >= 0 && shape.rope_dim >= 0 && shape.v_dim >= 0,
             "mla_attention: head sizes");
  DSV3_CHECK(shape.queries >= 0 && shape.queries <= shape.sequence,
             "mla_attention: more queries than positions");
  DSV3_CHECK(shape.scale > 0.0f, "mla_attention: scale is positive");
  DSV3_CHECK(shape.nope_dim + shape.rope_dim > 0 && shape.v_dim > 0,
             "mla_attention: heads without dimensions");
}

}  // namespace

void mla_attention_forward(const Context& ctx, const MlaAttentionForward& args) {
  const MlaShape& s = args.shape;
  const DType act = args.q.dtype;
  const int64_t tokens = s.batch * s.sequence, queries = s.batch * s.num_queries();
  check_shape(s);
  DSV3_CHECK(is_act(act), "mla_attention_forward: f32 or bf16");
  DSV3_CHECK(has_shape(args.q, act, queries, s.heads * (s.nope_dim + s.rope_dim)),
             "mla_attention_forward: q is [U, H (nope + rope)]");
  DSV3_CHECK(has_shape(args.kv, act, tokens, s.heads * (s.nope_dim + s.v_dim)),
             "mla_attention_forward: kv is [T, H (nope + v)]");
  DSV3_CHECK(s.rope_dim == 0 || has_shape(args.k_rope, act, tokens, s.rope_dim),
             "mla_attention_forward: k_rope is [T, rope]");
  DSV3_CHECK(has_shape(args.out, act, queries, s.heads * s.v_dim),
             "mla_attention_forward: out is [U, H v]");
  DSV3_CHECK(has_size(args.lse, queries * s.heads), "mla_attention_forward: lse is [U, H]");
  ctx.backend->mla_attention_forward(ctx, args);
}

void mla_attention_backward(const Context& ctx, const MlaAttentionBackward& args) {
  const MlaShape& s = args.shape;
  const DType act = args.q.dtype;
  const int64_t tokens = s.batch * s.sequence, queries = s.batch * s.num_queries();
  const int64_t q_width = s.heads * (s.nope_dim + s.rope_dim),
                kv_width = s.heads * (s.nope_dim + s.v_dim);
  check_shape(s);
  DSV3_CHECK(is_act(act), "mla_attention_backward: f32 or bf16");
  DSV3_CHECK(has_shape(args.q, act, queries, q_width),
             "mla_attention_backward: q is [U, H (nope + rope)]");
  DSV3_CHECK(has_shape(args.kv, act, tokens, kv_width),
             "mla_attention_backward: kv is [T, H (nope + v)]");
  DSV3_CHECK(s.rope_dim == 0 || has_shape(args.k_rope, act, tokens, s.rope_dim),
             "mla_attention_backward: k_rope is [T, rope]");
  DSV3_CHECK(has_shape(args.out, act, queries, s.heads * s.v_dim),
             "mla_attention_backward: out is [U, H v]");
  DSV3_CHECK(has_shape(args.dout, act, queries, s.heads * s.v_dim),
             "mla_attention_backward: dout is like out");
  DSV3_CHECK(has_size(args.lse, queries * s.heads), "mla_attention_backward: lse is [U, H]");
  DSV3_CHECK(has_shape(args.dq, act, queries, q_width), "mla_attention_backward: dq is like q");
  DSV3_CHECK(has_shape(args.dkv, act, tokens, kv_width), "mla_attention_backward: dkv is like kv");
  DSV3_CHECK(s.rope_dim == 0 || has_shape(args.dk_rope, act, tokens, s.rope_dim),
             "mla_attention_backward: dk_rope is like k_rope");
  ctx.backend->mla_attention_backward(ctx, args);
}

}  // namespace dsv3::ops
