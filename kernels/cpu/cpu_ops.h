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

// norm.cpp
void rms_norm_forward(const ops::Context& ctx, const ops::RmsNormForward& args);
void rms_norm_backward(const ops::Context& ctx, const ops::RmsNormBackward& args);

// rope.cpp
void rope(const ops::Context& ctx, const ops::Rope& args);

// attention.cpp
void mla_attention_forward(const ops::Context& ctx, const ops::MlaAttentionForward& args);
void mla_attention_backward(const ops::Context& ctx, const ops::MlaAttentionBackward& args);

// swiglu.cpp
void swiglu_forward(const ops::Context& ctx, const ops::SwigluForward& args);
void swiglu_backward(const ops::Context& ctx, const ops::SwigluBackward& args);

// router.cpp
void router_forward(const ops::Context& ctx, const ops::RouterForward& args);
void router_loss(const ops::Context& ctx, const ops::RouterLoss& args);
void router_backward(const ops::Context& ctx, const ops::RouterBackward& args);
void router_bias_update(const ops::Context& ctx, const ops::RouterBiasUpdate& args);

// permute.cpp
void route_plan(const ops::Context& ctx, const ops::RoutePlan& args);
void permute_rows(const ops::Context& ctx, const ops::PermuteRows& args);
void unpermute_sum(const ops::Context& ctx, const ops::UnpermuteSum& args);

// embedding.cpp
void embedding_forward(const ops::Context& ctx, const ops::EmbeddingForward& args);
void embedding_backward(const ops::Context& ctx, const ops::EmbeddingBackward& args);

// cross_entropy.cpp
void cross_entropy(const ops::Context& ctx, const ops::CrossEntropy& args);

// elementwise.cpp
void add(const ops::Context& ctx, const ops::Add& args);
void cast(const ops::Context& ctx, const ops::Cast& args);

// optimizer.cpp
void squared_norm(const ops::Context& ctx, const ops::SquaredNorm& args);
void adamw(const ops::Context& ctx, const ops::AdamW& args);
void clip_scale(const ops::Context& ctx, const ops::ClipScale& args);

}  // namespace dsv3::cpu
