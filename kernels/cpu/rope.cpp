// Rotary position embedding on interleaved pairs (Su et al. 2021), in place; contract in
// kernels/ops/args.h.
//
// Law: the backward is the same rotation with the angle's sign turned, so transpose after forward
// gives the input back, up to rounding (and up to YaRN's scale, which cos and sin carry).
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

template <typename T>
void rotate(T* x, const float* cos, const float* sin, float sign, int64_t pairs) {
#pragma omp simd
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = to_float(x[2 * i]), b = to_float(x[2 * i + 1]);
    const float c = cos[i], s = sign * sin[i];
    x[2 * i] = from_float<T>(a * c - b * s);
    x[2 * i + 1] = from_float<T>(a * s + b * c);
  }
}

}  // namespace

namespace DSV3_CPU_ROWS {

void rope(const ops::Context&, const ops::Rope& args) {
  const int64_t pairs = args.rope_dim / 2;
  if (pairs == 0) return;
  const float sign = args.transpose ? -1.0f : 1.0f;
  dispatch(args.dtype, [&](auto element) {
    using T = decltype(element);
    T* x = static_cast<T*>(args.x);
#pragma omp parallel for schedule(static) if (args.tokens * args.heads * args.rope_dim > \
                                              kParallelMin)
    for (int64_t t = 0; t < args.tokens; ++t) {
      const int64_t position = t % args.sequence;
      for (int64_t h = 0; h < args.heads; ++h) {
        rotate(x + t * args.token_stride + h * args.head_stride, args.cos.data + position * pairs,
               args.sin.data + position * pairs, sign, pairs);
      }
    }
  });
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
