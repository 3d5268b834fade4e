// The ops as callers use them: each function checks its arguments once (shapes, dtypes, strides),
// then hands them to the context's back end. A failed check is a programmer error and aborts with
// the op's name (DSV3_CHECK).
#pragma once

#include "kernels/ops/backend.h"

namespace dsv3::ops {

void gemm(const Context& ctx, const Gemm& args);
void grouped_gemm(const Context& ctx, const GroupedGemm& args);
void grouped_gemm_weight_grad(const Context& ctx, const GroupedGemmWeightGrad& args);
void rms_norm_forward(const Context& ctx, const RmsNormForward& args);
void rms_norm_backward(const Context& ctx, const RmsNormBackward& args);
void rope(const Context& ctx, const Rope& args);
void mla_attention_forward(const Context& ctx, const MlaAttentionForward& args);
void mla_attention_backward(const Context& ctx, const MlaAttentionBackward& args);
void swiglu_forward(const Context& ctx, const SwigluForward& args);
void swiglu_backward(const Context& ctx, const SwigluBackward& args);
void router_forward(const Context& ctx, const RouterForward& args);
void router_loss(const Context& ctx, const RouterLoss& args);
void router_backward(const Context& ctx, const RouterBackward& args);
void router_bias_update(const Context& ctx, const RouterBiasUpdate& args);
void route_plan(const Context& ctx, const RoutePlan& args);
void permute_rows(const Context& ctx, const PermuteRows& args);
void unpermute_sum(const Context& ctx, const UnpermuteSum& args);
void embedding_forward(const Context& ctx, const EmbeddingForward& args);
void embedding_backward(const Context& ctx, const EmbeddingBackward& args);
void cross_entropy(const Context& ctx, const CrossEntropy& args);
void cross_entropy_statistics(const Context& ctx, const CrossEntropyStatistics& args);
void cross_entropy_finish(const Context& ctx, const CrossEntropyFinish& args);
void add(const Context& ctx, const Add& args);
void cast(const Context& ctx, const Cast& args);
void squared_norm(const Context& ctx, const SquaredNorm& args);
void adamw(const Context& ctx, const AdamW& args);
void clip_scale(const Context& ctx, const ClipScale& args);

}  // namespace dsv3::ops
