// Elementwise ops: add and cast; contract in kernels/ops/args.h.
//
// Law: one pass at the memory's speed; sums are made in f32 and rounded once.
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

bool are_contiguous(const ops::ConstMatrix& x, const ops::ConstMatrix& y) {
  return x.stride == x.cols && y.stride == y.cols;
}

}  // namespace

namespace DSV3_CPU_ROWS {

void add(const ops::Context&, const ops::Add& args) {
  dispatch(args.y.dtype, [&](auto element) {
    using T = decltype(element);
    for_each_block(args.y.rows, args.y.cols, are_contiguous(args.x, args.y),
                   [&](int64_t row, int64_t begin, int64_t count) {
                     const T* x = row_of<T>(args.x, row) + begin;
                     T* y = row_of<T>(args.y, row) + begin;
#pragma omp simd
                     for (int64_t i = 0; i < count; ++i)
                       y[i] = from_float<T>(to_float(y[i]) + to_float(x[i]));
                   });
  });
}

void cast(const ops::Context&, const ops::Cast& args) {
  dispatch(args.x.dtype, [&](auto from) {
    dispatch(args.y.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      for_each_block(args.y.rows, args.y.cols, are_contiguous(args.x, args.y),
                     [&](int64_t row, int64_t begin, int64_t count) {
                       const From* x = row_of<From>(args.x, row) + begin;
                       To* y = row_of<To>(args.y, row) + begin;
#pragma omp simd
                       for (int64_t i = 0; i < count; ++i) y[i] = from_float<To>(to_float(x[i]));
                     });
    });
  });
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
