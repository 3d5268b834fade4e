// Matrix products by cuBLAS, fp32 accumulation. cuBLAS is column-major: c = op(a) op(b) row-major
// is cᵀ = op(b)ᵀ op(a)ᵀ there.
#include <string>

#include "base/failure.h"
#include "kernels/cuda/cuda_ops.cuh"
#include "kernels/cuda/launch.cuh"

namespace dsv3::cuda {
namespace {

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
}

}  // namespace

void gemm(const ops::Context& ctx, const ops::Gemm& args, cublasHandle_t blas) {
  if (args.c.rows == 0 || args.c.cols == 0) return;
  const int64_t k = args.transpose_a ? args.a.rows : args.a.cols;
  if (k == 0) {  // an empty sum, which cuBLAS refuses for its strides
    if (args.accumulate) return;
    const size_t bytes = dtype_bytes(args.c.dtype);
    check(cudaMemset2DAsync(args.c.data, args.c.stride * bytes, 0, args.c.cols * bytes, args.c.rows,
                            stream_of(ctx)),
          "gemm");
    return;
  }
  const float alpha = 1.0f;
  const float beta = args.accumulate ? 1.0f : 0.0f;
  cublasSetStream(blas, stream_of(ctx));
  const cublasStatus_t status = cublasGemmEx_64(
      blas, args.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
      args.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, args.c.cols, args.c.rows, k, &alpha,
      args.b.data, type_of(args.b.dtype), args.b.stride, args.a.data, type_of(args.a.dtype),
      args.a.stride, &beta, args.c.data, type_of(args.c.dtype), args.c.stride, CUBLAS_COMPUTE_32F,
      CUBLAS_GEMM_DEFAULT);
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Failure(Code::kDevice, "cuda: gemm", cublasGetStatusString(status));
}

}  // namespace dsv3::cuda
