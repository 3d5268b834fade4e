// The measured GEMM peak; see peak.h.
#include "runtime/train/peak.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "kernels/ops/ops.h"

namespace dsv3::train {
namespace {

// Zeros would flatter: processors clock higher when no bit flips.
void fill_uniform(tensor::Arena& arena, const tensor::Tensor& matrix, uint64_t key) {
  const tensor::Scope scope(arena);
  std::vector<float> values(static_cast<size_t>(matrix.num_elements()));
  const CounterRng rng(0, key);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(rng.uniform(i)) - 0.5f;
  }
  const tensor::Tensor staging = arena.push("transient/peak", DType::kF32, matrix.shape);
  arena.device().backend().copy_to_device(staging.data, values.data(),
                                          values.size() * sizeof(float), arena.device().stream());
  ops::cast(arena.context(), {.x = staging, .y = matrix});
  arena.device().synchronize();
}

}  // namespace

double measure_peak_flops_per_s(tensor::Arena& arena, DType dtype) {
  constexpr int64_t kSize = 1024;
  constexpr int kRuns = 6;
  const tensor::Scope scope(arena);
  const tensor::Tensor a = arena.push("transient/peak", dtype, {kSize, kSize});
  const tensor::Tensor b = arena.push("transient/peak", dtype, {kSize, kSize});
  const tensor::Tensor c = arena.push("transient/peak", dtype, {kSize, kSize});
  fill_uniform(arena, a, 1);
  fill_uniform(arena, b, 2);
  int64_t best_ns = 0;
  for (int run = 0; run <= kRuns; ++run) {
    arena.device().synchronize();
    const int64_t begin_ns = system_clock().steady_ns();
    ops::gemm(arena.context(), {.a = a, .b = b, .c = c, .transpose_b = true});
    arena.device().synchronize();
    const int64_t ns = std::max<int64_t>(system_clock().steady_ns() - begin_ns, 1);
    if (run > 0)
      best_ns = best_ns == 0 ? ns : std::min(best_ns, ns);  // the first builds the primitive
  }
  return 2.0 * kSize * kSize * kSize / (static_cast<double>(best_ns) * 1e-9);
}

}  // namespace dsv3::train
