// RMSNorm: one block per row, sums in fp32 by warp shuffles; the row is read twice (it stays in
// L2).
#include "kernels/cuda/cuda_ops.cuh"
#include "kernels/cuda/launch.cuh"

namespace dsv3::cuda {
namespace {

// Sum over the block; every thread gets it.
__device__ float block_sum(float x) {
  __shared__ float partial[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0.0f;
  for (int warp = 0; warp < kThreads / 32; ++warp) x += partial[warp];
  return x;
}

// x, y [rows, cols] with strides; rstd [rows]
template <typename T>
__global__ void rms_norm_forward_kernel(const T* x, int64_t x_stride, const float* gain, T* y,
                                        int64_t y_stride, float* rstd, int64_t cols, float eps) {
  const int64_t row = blockIdx.x;
  float sum = 0.0f;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float v = load(x + row * x_stride + c);
    sum += v * v;
  }
  const float scale = rsqrtf(block_sum(sum) / static_cast<float>(cols) + eps);
  if (threadIdx.x == 0) rstd[row] = scale;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    store(y + row * y_stride + c, load(x + row * x_stride + c) * scale * gain[c]);
  }
}

}  // namespace

void rms_norm_forward(const ops::Context& ctx, const ops::RmsNormForward& args) {
  if (args.x.rows == 0) return;
  dispatch(args.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    rms_norm_forward_kernel<T><<<static_cast<unsigned>(args.x.rows), kThreads, 0, stream_of(ctx)>>>(
        args.x.as<T>(), args.x.stride, args.gain.data, args.y.as<T>(), args.y.stride,
        args.rstd.data, args.x.cols, args.eps);
  });
  check(cudaGetLastError(), "rms_norm_forward");
}

}  // namespace dsv3::cuda
