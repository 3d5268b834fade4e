// SwiGLU (Shazeer 2020) with the routing weight applied before the down projection; contract in
// kernels/ops/args.h.
//
// Law: rows from *num_rows on are neither read nor written. A row is one pass: gate and up are read
// once, each output is written once.
//
//   F expert width    g gate    u up    r row scale    σ = sigmoid(g)    silu = g σ    y = silu · u
//   · r
#include "kernels/cpu/avx512/swiglu_row.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

int64_t live_rows(int64_t rows, const int32_t* num_rows) {
  return num_rows ? std::clamp<int64_t>(*num_rows, 0, rows) : rows;
}

template <typename T>
void forward_row(const T* gate, const T* up, float row_scale, T* y, int64_t width) {
  if constexpr (std::is_same_v<T, Bf16>) {
    if (has_bf16_vectors()) return avx512::swiglu_forward_row(gate, up, row_scale, y, width);
  }
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float g = to_float(gate[i]);
    y[i] = from_float<T>(g * sigmoid_f32(g) * to_float(up[i]) * row_scale);
  }
}

// Writes dgate and dup, returns Σ dy · silu · u, the gradient of the row scale.
template <typename T>
float backward_row(const T* dy, const T* gate, const T* up, float row_scale, T* dgate, T* dup,
                   int64_t width) {
  if constexpr (std::is_same_v<T, Bf16>) {
    if (has_bf16_vectors())
      return avx512::swiglu_backward_row(dy, gate, up, row_scale, dgate, dup, width);
  }
  float drow_scale = 0.0f;
#pragma omp simd reduction(+ : drow_scale)
  for (int64_t i = 0; i < width; ++i) {
    const float g = to_float(gate[i]);
    const float u = to_float(up[i]);
    const float d = to_float(dy[i]);
    const float sigma = sigmoid_f32(g);
    const float silu = g * sigma;
    drow_scale += d * silu * u;
    dup[i] = from_float<T>(d * row_scale * silu);
    // silu'(g) = σ (1 + g (1 − σ))
    dgate[i] = from_float<T>(d * row_scale * u * sigma * (1.0f + g * (1.0f - sigma)));
  }
  return drow_scale;
}

}  // namespace

namespace DSV3_CPU_ROWS {

void swiglu_forward(const ops::Context&, const ops::SwigluForward& args) {
  const int64_t rows = live_rows(args.y.rows, args.num_rows);
  const int64_t width = args.y.cols;
  dispatch(args.y.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for schedule(static) if (rows * width > kParallelMin)
    for (int64_t r = 0; r < rows; ++r) {
      const T* gate = row_of<T>(args.gate_up, r);
      const float row_scale = args.row_scale.empty() ? 1.0f : args.row_scale.data[r];
      forward_row<T>(gate, gate + width, row_scale, row_of<T>(args.y, r), width);
    }
  });
}

void swiglu_backward(const ops::Context&, const ops::SwigluBackward& args) {
  const int64_t rows = live_rows(args.dy.rows, args.num_rows);
  const int64_t width = args.dy.cols;
  dispatch(args.dy.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for schedule(static) if (rows * width > kParallelMin)
    for (int64_t r = 0; r < rows; ++r) {
      const T* gate = row_of<T>(args.gate_up, r);
      T* dgate = row_of<T>(args.dgate_up, r);
      const float row_scale = args.row_scale.empty() ? 1.0f : args.row_scale.data[r];
      const float drow_scale = backward_row<T>(row_of<T>(args.dy, r), gate, gate + width, row_scale,
                                               dgate, dgate + width, width);
      if (!args.row_scale.empty()) args.drow_scale.data[r] = drow_scale;
    }
  });
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
