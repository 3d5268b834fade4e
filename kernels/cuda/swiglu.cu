// SwiGLU with the routing weight applied before the down projection; the row count may live on the
// device.
#include "kernels/cuda/cuda_ops.cuh"
#include "kernels/cuda/launch.cuh"

namespace dsv3::cuda {
namespace {

// gate_up [rows, 2F], y [rows, F]
template <typename T>
__global__ void swiglu_forward_kernel(ops::SwigluForward args) {
  const int64_t width = args.y.cols;
  const int64_t rows = args.num_rows && *args.num_rows < args.y.rows ? *args.num_rows : args.y.rows;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < rows * width;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / width, c = i % width;
    const T* in = static_cast<const T*>(args.gate_up.data) + row * args.gate_up.stride;
    const float gate = load(in + c);
    const float scale = args.row_scale.data ? args.row_scale.data[row] : 1.0f;
    store(static_cast<T*>(args.y.data) + row * args.y.stride + c,
          gate / (1.0f + __expf(-gate)) * load(in + width + c) * scale);
  }
}

}  // namespace

void swiglu_forward(const ops::Context& ctx, const ops::SwigluForward& args) {
  if (args.y.rows * args.y.cols == 0) return;
  dispatch(args.y.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    swiglu_forward_kernel<T>
        <<<blocks_for(args.y.rows * args.y.cols), kThreads, 0, stream_of(ctx)>>>(args);
  });
  check(cudaGetLastError(), "swiglu_forward");
}

}  // namespace dsv3::cuda
