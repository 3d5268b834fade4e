// The reference back end: every op as the plain scalar loops of its formula in args.h, in double.
//
// Law: obviously right before anything else. No OpenMP, no oneDNN, no blocking, and no code shared
// with kernels/cpu: it is the oracle of the kernels' tests and of the model's. Inputs are read in
// their dtype, everything between is double, and each output is rounded once, when it is stored.
// Called directly (not through kernels/ops), it also takes act = f64, so that its forward can be
// differentiated numerically.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/ops/backend.h"

namespace dsv3::reference {

// Element (row, col) of a f32, bf16 or f64 matrix, as a double.
double load(const ops::ConstMatrix& m, int64_t row, int64_t col);
// Rounds value to m's dtype and stores it.
void store(const ops::Matrix& m, int64_t row, int64_t col, double value);
// Element i of contiguous memory of dtype f32, bf16 or f64.
double load(const void* data, DType dtype, int64_t i);
void store(void* data, DType dtype, int64_t i, double value);

// Host memory and scalar ops. The context's workspace is not used.
class ReferenceBackend : public ops::Backend {
 public:
  const char* name() const override { return "reference"; }

  void* allocate(size_t bytes) override;
  void deallocate(void* data) override;
  void copy_to_device(void* to, const void* from_host, size_t bytes, ops::Stream stream) override;
  void copy_to_host(void* to_host, const void* from, size_t bytes, ops::Stream stream) override;
  void fill_zero(void* data, size_t bytes, ops::Stream stream) override;
  void synchronize(ops::Stream) override {}
  DType matmul_dtype() const override { return DType::kBf16; }

  // reference_gemm.cpp
  void gemm(const ops::Context& ctx, const ops::Gemm& args) override;
  void grouped_gemm(const ops::Context& ctx, const ops::GroupedGemm& args) override;
  void grouped_gemm_weight_grad(const ops::Context& ctx,
                                const ops::GroupedGemmWeightGrad& args) override;
  // reference_norm.cpp
  void rms_norm_forward(const ops::Context& ctx, const ops::RmsNormForward& args) override;
  void rms_norm_backward(const ops::Context& ctx, const ops::RmsNormBackward& args) override;
  // reference_rope.cpp
  void rope(const ops::Context& ctx, const ops::Rope& args) override;
  // reference_attention.cpp
  void mla_attention_forward(const ops::Context& ctx,
                             const ops::MlaAttentionForward& args) override;
  void mla_attention_backward(const ops::Context& ctx,
                              const ops::MlaAttentionBackward& args) override;
  // reference_swiglu.cpp
  void swiglu_forward(const ops::Context& ctx, const ops::SwigluForward& args) override;
  void swiglu_backward(const ops::Context& ctx, const ops::SwigluBackward& args) override;
  // reference_router.cpp
  void router_forward(const ops::Context& ctx, const ops::RouterForward& args) override;
  void router_loss(const ops::Context& ctx, const ops::RouterLoss& args) override;
  void router_backward(const ops::Context& ctx, const ops::RouterBackward& args) override;
  void router_bias_update(const ops::Context& ctx, const ops::RouterBiasUpdate& args) override;
  // reference_permute.cpp
  void route_plan(const ops::Context& ctx, const ops::RoutePlan& args) override;
  void permute_rows(const ops::Context& ctx, const ops::PermuteRows& args) override;
  void unpermute_sum(const ops::Context& ctx, const ops::UnpermuteSum& args) override;
  // reference_embedding.cpp
  void embedding_forward(const ops::Context& ctx, const ops::EmbeddingForward& args) override;
  void embedding_backward(const ops::Context& ctx, const ops::EmbeddingBackward& args) override;
  // reference_cross_entropy.cpp
  void cross_entropy(const ops::Context& ctx, const ops::CrossEntropy& args) override;
  void cross_entropy_statistics(const ops::Context& ctx,
                                const ops::CrossEntropyStatistics& args) override;
  void cross_entropy_finish(const ops::Context& ctx, const ops::CrossEntropyFinish& args) override;
  // reference_elementwise.cpp
  void add(const ops::Context& ctx, const ops::Add& args) override;
  void cast(const ops::Context& ctx, const ops::Cast& args) override;
  // reference_optimizer.cpp
  void squared_norm(const ops::Context& ctx, const ops::SquaredNorm& args) override;
  void adamw(const ops::Context& ctx, const ops::AdamW& args) override;
  void clip_scale(const ops::Context& ctx, const ops::ClipScale& args) override;
};

}  // namespace dsv3::reference
