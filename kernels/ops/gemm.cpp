// Checks of the matrix products; see ops.h and args.h.
//
// Law: shapes are checked here and nowhere below. Offsets are device memory, so a back end trusts
// them.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {
void gemm(const Context& ctx, const Gemm& args) {
  DSV3_CHECK(is_valid(args.a) && is_valid(args.b) && is_valid(args.c), "gemm: views");
  DSV3_CHECK(is_act(args.a.dtype) && args.b.dtype == args.a.dtype,
             "gemm: a and b are both f32 or both bf16");
  DSV3_CHECK(args.c.dtype == DType::kF32 || args.c.dtype == args.a.dtype,
             "gemm: c is f32 or a's dtype");
  const int64_t m = args.transpose_a ? args.a.cols : args.a.rows,
                k = args.transpose_a ? args.a.rows : args.a.cols;
  const int64_t n = args.transpose_b ? args.b.rows : args.b.cols;
  DSV3_CHECK((args.transpose_b ? args.b.cols : args.b.rows) == k, "gemm: a and b differ in k");
  DSV3_CHECK(args.c.rows == m && args.c.cols == n, "gemm: c is [m, n]");
  ctx.backend->gemm(ctx, args);
}

void grouped_gemm(const Context& ctx, const GroupedGemm& args) {
  DSV3_CHECK(is_valid(args.a) && is_valid(args.b) && is_valid(args.c), "grouped_gemm: views");
  DSV3_CHECK(is_act(args.a.dtype) && args.b.dtype == args.a.dtype,
             "grouped_gemm: a and b are both f32 or both bf16");
  DSV3_CHECK(args.c.dtype == DType::kF32 || args.c.dtype == args.a.dtype,
             "grouped_gemm: c is f32 or a's dtype");
  const int64_t k = args.transpose_b ? args.b.cols : args.b.rows,
                n = args.transpose_b ? args.b.rows : args.b.cols;
  DSV3_CHECK(args.a.cols == k, "grouped_gemm: a and b differ in k");
  DSV3_CHECK(args.c.rows == args.a.rows && args.c.cols == n, "grouped_gemm: c is [rows, n]");
  DSV3_CHECK(!args.offsets.empty() && args.offsets.size == args.b.groups + 1,
             "grouped_gemm: offsets are [G + 1]");
  ctx.backend->grouped_gemm(ctx, args);
}

void grouped_gemm_weight_grad(const Context& ctx, const GroupedGemmWeightGrad& args) {
  DSV3_CHECK(is_valid(args.a) && is_valid(args.b) && is_valid(args.c),
             "grouped_gemm_weight_grad: views");
  DSV3_CHECK(is_act(args.a.dtype) && args.b.dtype == args.a.dtype,
             "grouped_gemm_weight_grad: a and b are both f32 or both bf16");
  DSV3_CHECK(args.c.dtype == DType::kF32, "grouped_gemm_weight_grad: c is f32");
  DSV3_CHECK(args.a.rows == args.b.rows, "grouped_gemm_weight_grad: a and b differ in rows");
  DSV3_CHECK(args.c.rows == args.a.cols && args.c.cols == args.b.cols,
             "grouped_gemm_weight_grad: c is [G, m, n]");
  DSV3_CHECK(!args.offsets.empty() && args.offsets.size == args.c.groups + 1,
             "grouped_gemm_weight_grad: offsets are [G + 1]");
  ctx.backend->grouped_gemm_weight_grad(ctx, args);
}

}  // namespace dsv3::ops
