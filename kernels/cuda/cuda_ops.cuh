// The ops that this back end has; contracts in kernels/ops/args.h, one .cu file per group with the
// CPU's basenames.
#pragma once

#include <cublas_v2.h>

#include "kernels/ops/backend.h"

namespace dsv3::cuda {

void gemm(const ops::Context& ctx, const ops::Gemm& args, cublasHandle_t blas);
void rms_norm_forward(const ops::Context& ctx, const ops::RmsNormForward& args);
void rope(const ops::Context& ctx, const ops::Rope& args);
void swiglu_forward(const ops::Context& ctx, const ops::SwigluForward& args);
void add(const ops::Context& ctx, const ops::Add& args);
void cast(const ops::Context& ctx, const ops::Cast& args);

}  // namespace dsv3::cuda
