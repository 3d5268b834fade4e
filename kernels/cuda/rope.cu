// Interleaved rotary embedding in place: one thread per rotated pair.
#include "kernels/cuda/cuda_ops.cuh"
#include "kernels/cuda/launch.cuh"

namespace dsv3::cuda {
namespace {

template <typename T>
__global__ void rope_kernel(T* x, ops::Rope args) {
  const int64_t half = args.rope_dim / 2;
  const int64_t total = args.tokens * args.heads * half;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < total;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t pair = i % half;
    const int64_t head = i / half % args.heads;
    const int64_t token = i / (half * args.heads);
    const int64_t angle = token % args.sequence * half + pair;
    const float c = args.cos.data[angle];
    const float s = args.transpose ? -args.sin.data[angle] : args.sin.data[angle];
    T* at = x + token * args.token_stride + head * args.head_stride + 2 * pair;
    const float a = load(at), b = load(at + 1);
    store(at, a * c - b * s);
    store(at + 1, a * s + b * c);
  }
}

}  // namespace

void rope(const ops::Context& ctx, const ops::Rope& args) {
  const int64_t total = args.tokens * args.heads * (args.rope_dim / 2);
  if (total == 0) return;
  dispatch(args.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    rope_kernel<T>
        <<<blocks_for(total), kThreads, 0, stream_of(ctx)>>>(static_cast<T*>(args.x), args);
  });
  check(cudaGetLastError(), "rope");
}

}  // namespace dsv3::cuda
