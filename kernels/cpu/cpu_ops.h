// The CPU back end's ops as free functions; CpuBackend forwards to them, one file per group of ops.
//
// Law: what each op does is written in kernels/ops/args.h alone. Arguments have been checked by
// kernels/ops; all of them run on the calling thread and its OpenMP team, return when done, and
// throw Failure(kDevice) when oneDNN fails.
#pragma once

#include "kernels/ops/backend.h"

namespace dsv3::cpu {

// gemm.cpp
void gemm(const ops::Context& ctx, const ops::Gemm& args);
void grouped_gemm(const ops::Context& ctx, const ops::GroupedGemm& args);
void grouped_gemm_weight_grad(const ops::Context& ctx, const ops::GroupedGemmWeightGrad& args);

// attention.cpp
void mla_attention_forward(const ops::Context& ctx, const ops::MlaAttentionForward& args);
void mla_attention_backward(const ops::Context& ctx, const ops::MlaAttentionBackward& args);

// router.cpp
void router_forward(const ops::Context& ctx, const ops::RouterForward& args);
void router_loss(const ops::Context& ctx, const ops::RouterLoss& args);
void router_backward(const ops::Context& ctx, const ops::RouterBackward& args);
void router_bias_update(const ops::Context& ctx, const ops::RouterBiasUpdate& args);

// embedding.cpp
void embedding_forward(const ops::Context& ctx, const ops::EmbeddingForward& args);
void embedding_backward(const ops::Context& ctx, const ops::EmbeddingBackward& args);

// Row ops: loops over rows that the compiler turns into vector code. Their files (norm, rope,
// swiglu, permute, cross_entropy, elementwise, optimizer .cpp) are compiled twice, for the
// x86-64-v3 level (AVX2) and for v4 (AVX-512); CpuBackend asks the processor which to call.
#define DSV3_CPU_ROW_OPS(OP)                           \
  OP(rms_norm_forward, RmsNormForward)                 \
  OP(rms_norm_backward, RmsNormBackward)               \
  OP(rope, Rope)                                       \
  OP(swiglu_forward, SwigluForward)                    \
  OP(swiglu_backward, SwigluBackward)                  \
  OP(route_plan, RoutePlan)                            \
  OP(permute_rows, PermuteRows)                        \
  OP(unpermute_sum, UnpermuteSum)                      \
  OP(cross_entropy, CrossEntropy)                      \
  OP(cross_entropy_statistics, CrossEntropyStatistics) \
  OP(cross_entropy_finish, CrossEntropyFinish)         \
  OP(add, Add)                                         \
  OP(cast, Cast)                                       \
  OP(squared_norm, SquaredNorm)                        \
  OP(adamw, AdamW)                                     \
  OP(clip_scale, ClipScale)
#define DSV3_DECLARE_ROW_OP(op, Args) void op(const ops::Context& ctx, const ops::Args& args);
namespace rows_v3 {
DSV3_CPU_ROW_OPS(DSV3_DECLARE_ROW_OP)
}
namespace rows_v4 {
DSV3_CPU_ROW_OPS(DSV3_DECLARE_ROW_OP)
}
#undef DSV3_DECLARE_ROW_OP

}  // namespace dsv3::cpu
