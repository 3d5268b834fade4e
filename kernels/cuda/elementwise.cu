// Sums and casts, one thread per element.
#include "kernels/cuda/cuda_ops.cuh"
#include "kernels/cuda/launch.cuh"

namespace dsv3::cuda {
namespace {

template <typename From, typename To, bool kAdd>
__global__ void combine_kernel(const From* x, int64_t x_stride, To* y, int64_t y_stride,
                               int64_t rows, int64_t cols) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < rows * cols;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / cols, c = i % cols;
    To* at = y + row * y_stride + c;
    store(at, load(x + row * x_stride + c) + (kAdd ? load(at) : 0.0f));
  }
}

template <bool kAdd>
void combine(const ops::Context& ctx, const ops::ConstMatrix& x, const ops::Matrix& y,
             const char* op) {
  if (y.rows * y.cols == 0) return;
  dispatch(x.dtype, [&](auto* from) {
    dispatch(y.dtype, [&](auto* to) {
      using From = std::remove_pointer_t<decltype(from)>;
      using To = std::remove_pointer_t<decltype(to)>;
      combine_kernel<From, To, kAdd><<<blocks_for(y.rows * y.cols), kThreads, 0, stream_of(ctx)>>>(
          static_cast<const From*>(x.data), x.stride, static_cast<To*>(y.data), y.stride, y.rows,
          y.cols);
    });
  });
  check(cudaGetLastError(), op);
}

}  // namespace

void add(const ops::Context& ctx, const ops::Add& args) {
  combine<true>(ctx, args.x, args.y, "add");
}
void cast(const ops::Context& ctx, const ops::Cast& args) {
  combine<false>(ctx, args.x, args.y, "cast");
}

}  // namespace dsv3::cuda
