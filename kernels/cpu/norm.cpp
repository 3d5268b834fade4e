// RMSNorm (Zhang & Sennrich 2019), forward and backward; contracts in kernels/ops/args.h.
//
// Laws: a row is read once from memory (its later passes hit the cache). dgain is summed in blocks
// of rows whose number depends on the number of rows alone, and the blocks in order: the same bits
// on any number of threads. The input gradient and the gain's are separate loops, so that asking
// for one leaves the other's bits alone.
//
//   D width    x̂ = x · rstd    rstd = 1 / sqrt(mean(x²) + eps)
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

// Blocks of rows whose dgain is summed apart: at least kBlockRows rows each, at most kBlocksMax of
// them.
constexpr int64_t kBlockRows = 32;
constexpr int64_t kBlocksMax = 64;

template <typename T>
float sum_of_squares(const T* x, int64_t width) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += to_float(x[i]) * to_float(x[i]);
  return sum;
}

// Σ dy · gain · x.
template <typename T>
float weighted_dot(const T* dy, const T* x, const float* gain, int64_t width) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += to_float(dy[i]) * gain[i] * to_float(x[i]);
  return sum;
}

template <typename T>
void add_gain_grad(const T* dy, const T* x, float rstd, float* dgain, int64_t width) {
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) dgain[i] += to_float(dy[i]) * (to_float(x[i]) * rstd);
}

// dx (+)= rstd · dy · gain − slope · x, slope = rstd³ · mean(dy · gain · x) [x̂ = x · rstd put into
// args.h's formula].
template <typename T>
void input_grad(const T* dy, const T* x, const float* gain, float rstd, T* dx, int64_t width,
                bool accumulate) {
  const float slope =
      rstd * rstd * rstd * weighted_dot(dy, x, gain, width) / static_cast<float>(width);
  if (accumulate) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      dx[i] = from_float<T>(to_float(dx[i]) +
                            (rstd * to_float(dy[i]) * gain[i] - slope * to_float(x[i])));
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      dx[i] = from_float<T>(rstd * to_float(dy[i]) * gain[i] - slope * to_float(x[i]));
    }
  }
}

}  // namespace

namespace DSV3_CPU_ROWS {

void rms_norm_forward(const ops::Context&, const ops::RmsNormForward& args) {
  const int64_t rows = args.x.rows, width = args.x.cols;
  const float* gain = args.gain.data;
  dispatch(args.x.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for schedule(static) if (rows * width > kParallelMin)
    for (int64_t r = 0; r < rows; ++r) {
      const T* x = row_of<T>(args.x, r);
      T* y = row_of<T>(args.y, r);
      const float rstd =
          1.0f / std::sqrt(sum_of_squares(x, width) / static_cast<float>(width) + args.eps);
      args.rstd.data[r] = rstd;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) y[i] = from_float<T>(to_float(x[i]) * rstd * gain[i]);
    }
  });
}

void rms_norm_backward(const ops::Context& ctx, const ops::RmsNormBackward& args) {
  const int64_t rows = args.x.rows, width = args.x.cols;
  if (rows == 0 || width == 0) return;
  const bool want_dx = args.dx.data != nullptr, want_dgain = !args.dgain.empty();
  const int64_t blocks = std::clamp<int64_t>(rows / kBlockRows, 1, kBlocksMax);
  float* partial = nullptr;  // [blocks, width]
  if (want_dgain) {
    partial = reinterpret_cast<float*>(ctx.workspace->reserve(blocks * width * sizeof(float)));
  }
  dispatch(args.x.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for schedule(static) if (rows * width > kParallelMin)
    for (int64_t block = 0; block < blocks; ++block) {
      if (want_dgain) std::memset(partial + block * width, 0, width * sizeof(float));
      for (int64_t r = rows * block / blocks; r < rows * (block + 1) / blocks; ++r) {
        const T* dy = row_of<T>(args.dy, r);
        const T* x = row_of<T>(args.x, r);
        const float rstd = args.rstd.data[r];
        if (want_dgain) add_gain_grad(dy, x, rstd, partial + block * width, width);
        if (want_dx)
          input_grad(dy, x, args.gain.data, rstd, row_of<T>(args.dx, r), width, args.accumulate_dx);
      }
    }
  });
  for (int64_t block = 0; want_dgain && block < blocks; ++block) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) args.dgain.data[i] += partial[block * width + i];
  }
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
