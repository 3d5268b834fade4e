// The measured peaks; see peak.h.
#include "runtime/train/peak.h"

#include <algorithm>
#include <limits>
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

// The best time of `body` within a quarter of a second, after one call: long enough to meet a quiet
// moment of a shared machine.
template <typename Body>
double best_seconds(const device::Device& device, const Body& body) {
  constexpr int64_t kMeasureNs = 250'000'000;
  body();  // builds what is built once
  device.synchronize();
  int64_t best_ns = std::numeric_limits<int64_t>::max();
  const int64_t started_ns = system_clock().steady_ns();
  while (system_clock().steady_ns() - started_ns < kMeasureNs) {
    const int64_t begin_ns = system_clock().steady_ns();
    body();
    device.synchronize();
    best_ns = std::min(best_ns, std::max<int64_t>(system_clock().steady_ns() - begin_ns, 1));
  }
  return static_cast<double>(best_ns) * 1e-9;
}

}  // namespace

double measure_peak_flops_per_s(tensor::Arena& arena, DType dtype) {
  constexpr int64_t kSize = 1024;
  const tensor::Scope scope(arena);
  const tensor::Tensor a = arena.push("transient/peak", dtype, {kSize, kSize});
  const tensor::Tensor b = arena.push("transient/peak", dtype, {kSize, kSize});
  const tensor::Tensor c = arena.push("transient/peak", dtype, {kSize, kSize});
  fill_uniform(arena, a, 1);
  fill_uniform(arena, b, 2);
  const double seconds = best_seconds(arena.device(), [&] {
    ops::gemm(arena.context(), {.a = a, .b = b, .c = c, .transpose_b = true});
  });
  return 2.0 * kSize * kSize * kSize / seconds;
}

double measure_copy_bytes_per_s(tensor::Arena& arena) {
  constexpr int64_t kElements = 16 << 20;
  const tensor::Scope scope(arena);
  const tensor::Tensor from = arena.push("transient/peak", DType::kF32, {1, kElements});
  const tensor::Tensor to = arena.push("transient/peak", DType::kF32, {1, kElements});
  arena.device().backend().fill_zero(from.data, static_cast<size_t>(from.bytes()),
                                     arena.device().stream());
  const double seconds =
      best_seconds(arena.device(), [&] { ops::cast(arena.context(), {.x = from, .y = to}); });
  return 2.0 * static_cast<double>(from.bytes()) / seconds;
}

}  // namespace dsv3::train
