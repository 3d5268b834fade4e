// The measured GEMM peak; see peak.h.
#include "runtime/train/peak.h"

#include <algorithm>

#include "base/clock.h"
#include "kernels/ops/ops.h"

namespace dsv3::train {

double measure_peak_flops_per_s(tensor::Arena& arena, DType dtype) {
  constexpr int64_t kSize = 1024;
  constexpr int kRuns = 6;
  const tensor::Scope scope(arena);
  const tensor::Tensor a = arena.push("peak", dtype, {kSize, kSize});
  const tensor::Tensor b = arena.push("peak", dtype, {kSize, kSize});
  const tensor::Tensor c = arena.push("peak", dtype, {kSize, kSize});
  for (const tensor::Tensor& t : {a, b}) {
    arena.device().backend().fill_zero(t.data, static_cast<size_t>(t.bytes()), arena.device().stream());
  }
  int64_t best_ns = 0;
  for (int run = 0; run <= kRuns; ++run) {
    arena.device().synchronize();
    const int64_t begin_ns = system_clock().steady_ns();
    ops::gemm(arena.context(), {.a = a, .b = b, .c = c, .transpose_b = true});
    arena.device().synchronize();
    const int64_t ns = std::max<int64_t>(system_clock().steady_ns() - begin_ns, 1);
    if (run > 0) best_ns = best_ns == 0 ? ns : std::min(best_ns, ns);  // the first builds the primitive
  }
  return 2.0 * kSize * kSize * kSize / (static_cast<double>(best_ns) * 1e-9);
}

}  // namespace dsv3::train
