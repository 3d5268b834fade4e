// Matrix products of the reference: three loops each. See args.h for the formulas.
#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {
namespace {

double load(const ops::ConstStack& s, int64_t group, int64_t row, int64_t col) {
  return reference::load(s.data, s.dtype, (group * s.rows + row) * s.cols + col);
}

}  // namespace

void ReferenceBackend::gemm(const ops::Context&, const ops::Gemm& args) {
  const int64_t depth = args.transpose_a ? args.a.rows : args.a.cols;
  for (int64_t i = 0; i < args.c.rows; ++i)
    for (int64_t j = 0; j < args.c.cols; ++j) {
      double sum = args.accumulate ? reference::load(args.c, i, j) : 0.0;
      for (int64_t k = 0; k < depth; ++k) {
        const double a =
            args.transpose_a ? reference::load(args.a, k, i) : reference::load(args.a, i, k);
        const double b =
            args.transpose_b ? reference::load(args.b, j, k) : reference::load(args.b, k, j);
        sum += a * b;
      }
      store(args.c, i, j, sum);
    }
}

void ReferenceBackend::grouped_gemm(const ops::Context&, const ops::GroupedGemm& args) {
  for (int64_t g = 0; g + 1 < args.offsets.size; ++g)
    for (int64_t r = args.offsets.data[g]; r < args.offsets.data[g + 1]; ++r)
      for (int64_t j = 0; j < args.c.cols; ++j) {
        double sum = args.accumulate ? reference::load(args.c, r, j) : 0.0;
        for (int64_t k = 0; k < args.a.cols; ++k) {
          sum += reference::load(args.a, r, k) *
                 (args.transpose_b ? load(args.b, g, j, k) : load(args.b, g, k, j));
        }
        store(args.c, r, j, sum);
      }
}

void ReferenceBackend::grouped_gemm_weight_grad(const ops::Context&,
                                                const ops::GroupedGemmWeightGrad& args) {
  for (int64_t g = 0; g + 1 < args.offsets.size; ++g)
    for (int64_t i = 0; i < args.c.rows; ++i)
      for (int64_t j = 0; j < args.c.cols; ++j) {
        double sum = args.accumulate ? load(args.c, g, i, j) : 0.0;
        for (int64_t r = args.offsets.data[g]; r < args.offsets.data[g + 1]; ++r) {
          sum += reference::load(args.a, r, i) * reference::load(args.b, r, j);
        }
        reference::store(args.c.data, args.c.dtype, (g * args.c.rows + i) * args.c.cols + j, sum);
      }
}

}  // namespace dsv3::reference
