// Pools, timing and the order of measurements; see calibrate.h.
#include "runtime/train/calibrate.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/rng.h"
#include "runtime/train/calibrate_bench.h"
#include "runtime/train/peak.h"

namespace dsv3::train {
namespace {

// More than the last-level caches of the processors we know.
constexpr int64_t kColdBytes = int64_t{128} << 20;
constexpr int64_t kWarmBytes = int64_t{96} << 20;
constexpr int64_t kAlignBytes = 64;

constexpr int64_t kPointNs = 1'000'000;     // calls of a pass are repeated so long at least,
constexpr int64_t kPointMaxNs = 8'000'000;  // and no longer than that
constexpr size_t kCallsMin = 4, kCallsMax = 64;
// What takes so long is not called beforehand again: what it builds once is built.
constexpr double kLongSeconds = 1e-3;

tensor::Tensor random_pool(tensor::Arena& arena, DType dtype, int64_t bytes) {
  constexpr int64_t kBlock = 1 << 18;  // elements that are drawn; the rest repeats them
  const int64_t elements = bytes / static_cast<int64_t>(dtype_bytes(dtype));
  const tensor::Tensor pool = arena.persistent("calibration", dtype, {elements});
  const CounterRng rng(0, name_key("calibration"));
  std::vector<float> block(kBlock);
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<float>(rng.uniform(i)) - 0.5F;
  const tensor::Scope scope(arena);
  const tensor::Tensor staging = arena.push("calibration", DType::kF32, {kBlock});
  arena.device().backend().copy_to_device(staging.data, block.data(), block.size() * sizeof(float),
                                          arena.device().stream());
  for (int64_t at = 0; at < elements; at += kBlock) {
    const int64_t count = std::min(kBlock, elements - at);
    ops::cast(arena.context(), {.x = ops::ConstMatrix(staging.data, DType::kF32, 1, count),
                                .y = ops::Matrix(static_cast<std::byte*>(pool.data) +
                                                     at * static_cast<int64_t>(dtype_bytes(dtype)),
                                                 dtype, 1, count)});
  }
  arena.device().synchronize();
  return pool;
}

int64_t aligned(int64_t bytes) {
  return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
}

}  // namespace

Bench::Bench(tensor::Arena& arena, comm::Communicator* group, plan::CalibrationSet* set)
    : arena_(arena),
      group_(group),
      set_(set),
      cold_f32_{random_pool(arena, DType::kF32, kColdBytes)},
      cold_bf16_{random_pool(arena, DType::kBf16, kColdBytes)},
      warm_f32_(random_pool(arena, DType::kF32, kWarmBytes)),
      warm_bf16_(random_pool(arena, DType::kBf16, kWarmBytes)) {}

bool Bench::fits(double bytes) const {
  return bytes <= static_cast<double>(kColdBytes) / 2;
}

void* Bench::take_cold(DType dtype, int64_t elements) {
  Pool& pool = dtype == DType::kF32 ? cold_f32_ : cold_bf16_;
  const int64_t bytes = aligned(elements * static_cast<int64_t>(dtype_bytes(dtype)));
  DSV3_CHECK(bytes <= kColdBytes, "a pool is smaller than an operand");
  if (pool.used + bytes > kColdBytes) pool.used = 0;
  void* data = static_cast<std::byte*>(pool.memory.data) + pool.used;
  pool.used += bytes;
  return data;
}

void* Bench::take_warm(DType dtype, int64_t elements) {
  const bool f32 = dtype == DType::kF32;
  int64_t& used = f32 ? warm_used_.f32 : warm_used_.bf16;
  const int64_t bytes = aligned(elements * static_cast<int64_t>(dtype_bytes(dtype)));
  DSV3_CHECK(used + bytes <= kWarmBytes, "a pool is smaller than an operand");
  void* data = static_cast<std::byte*>((f32 ? warm_f32_ : warm_bf16_).data) + used;
  used += bytes;
  return data;
}

ops::Matrix Bench::cold(DType dtype, int64_t rows, int64_t cols) {
  return {take_cold(dtype, rows * cols), dtype, rows, cols};
}
ops::Matrix Bench::warm(DType dtype, int64_t rows, int64_t cols) {
  return {take_warm(dtype, rows * cols), dtype, rows, cols};
}
ops::Vector<float> Bench::cold(int64_t size) {
  return {static_cast<float*>(take_cold(DType::kF32, size)), size};
}
ops::Vector<float> Bench::warm(int64_t size) {
  return {static_cast<float*>(take_warm(DType::kF32, size)), size};
}
ops::Stack Bench::cold_stack(DType dtype, int64_t groups, int64_t rows, int64_t cols) {
  return {take_cold(dtype, groups * rows * cols), dtype, groups, rows, cols};
}

double Bench::seconds_together(const std::function<void()>& call) {
  constexpr int kCalls = 9;
  call();
  std::vector<double> times;
  for (int i = 0; i < kCalls; ++i) {
    group_->barrier("calibrate");
    const int64_t begin_ns = system_clock().steady_ns();
    call();
    times.push_back(static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9);
  }
  std::nth_element(times.begin(), times.begin() + kCalls / 4, times.end());
  return times[kCalls / 4];
}

double Bench::seconds(const std::function<void()>& call) {
  const device::Device& device = arena_.device();
  const bool again = next_ < set_->points.size();
  if (!again || set_->points[next_].seconds < kLongSeconds) {
    call();
    device.synchronize();
  }
  if (group_ != nullptr) group_->barrier("calibrate");
  std::vector<int64_t> times_ns;
  const int64_t started_ns = system_clock().steady_ns();
  int64_t now_ns = started_ns;
  do {
    const int64_t begin_ns = system_clock().steady_ns();
    call();
    device.synchronize();
    now_ns = system_clock().steady_ns();
    times_ns.push_back(std::max<int64_t>(now_ns - begin_ns, 1));
  } while (times_ns.size() < kCallsMax && now_ns - started_ns < kPointMaxNs &&
           (times_ns.size() < kCallsMin || now_ns - started_ns < kPointNs));
  const auto quartile = times_ns.begin() + static_cast<std::ptrdiff_t>(times_ns.size() / 4);
  std::nth_element(times_ns.begin(), quartile, times_ns.end());
  return static_cast<double>(*quartile) * 1e-9;
}

void Bench::add(std::string_view name, std::string_view role, DType dtype, const plan::StepOp& like,
                double seconds) {
  plan::StepOp op = like;
  op.op = name;
  const double work = op.flops > 0 ? op.flops : op.bytes;
  if (next_ < set_->points.size()) {
    double& before = set_->points[next_++].seconds;
    before = std::min(before, seconds);
    return;
  }
  ++next_;
  set_->points.push_back({.op = std::string(name),
                          .role = std::string(role),
                          .dtype = dtype,
                          .sizes = plan::curve_sizes(op),
                          .work = work,
                          .seconds = seconds});
}

void Bench::measure_copy(std::string_view name, double bytes_moved, int64_t bytes,
                         const std::function<void()>& call) {
  plan::StepOp like;
  like.cls = plan::OpClass::kMemory;
  like.shape = {1, bytes / static_cast<int64_t>(sizeof(float)), 0};
  like.bytes = bytes_moved;
  add(name, "", DType::kF32, like, seconds(call));
}

namespace {

// Sums of gradients by size, as the ranks of a job wait for them.
void measure_sums(Bench& bench, comm::Communicator& group, bool quick, plan::CalibrationSet* set) {
  const std::vector<int64_t> few = {1 << 10, 1 << 22};
  const std::vector<int64_t> many = {1 << 8, 1 << 12, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24};
  for (const int64_t elements : quick ? few : many) {
    const double seconds = bench.seconds_together([&] {
      const ops::Vector<float> part = bench.cold(elements);
      group.all_reduce("calibrate", {part.data, elements, DType::kF32});
    });
    set->all_reduce.push_back({static_cast<double>(elements) * sizeof(float), seconds});
  }
}

}  // namespace

plan::CalibrationSet calibrate(device::Device& device, const CalibrateOptions& options) {
  tensor::Arena arena(device);
  plan::CalibrationSet set;
  set.ranks = options.group != nullptr ? options.group->size() : 1;
  set.threads = options.threads;
  const DType native = device.backend().matmul_dtype();
  set.peak_f32_flops_per_s = measure_peak_flops_per_s(arena, DType::kF32);
  set.peak_bf16_flops_per_s = measure_peak_flops_per_s(arena, native);
  set.copy_bytes_per_s = measure_copy_bytes_per_s(arena);
  arena.compact();
  Bench bench(arena, options.group, &set);
  std::vector<DType> dtypes = {DType::kF32};
  if (native != DType::kF32) dtypes.push_back(native);
  using Part = void (*)(Bench&, DType, bool);
  struct Named {
    const char* phase;
    Part part;
    int64_t share;  // of the time of a pass, as it was on a server's core
  };
  constexpr Named kParts[] = {{"products", measure_products, 6},
                              {"experts' products", measure_grouped_products, 3},
                              {"attention", measure_attention, 1},
                              {"rows", measure_rows, 1},
                              {"routing", measure_routing, 0}};
  const int rounds = options.quick ? 1 : options.passes;
  const int64_t reference_share = 7 * rounds;
  int64_t total = static_cast<int64_t>(dtypes.size()) * reference_share, done = 0;
  for (const Named& named : kParts)
    total += options.passes * static_cast<int64_t>(dtypes.size()) * named.share;
  const auto say = [&](const char* phase, int64_t share) {
    if (options.progress) options.progress(phase, done, total);
    done += share;
  };
  for (int pass = 0; pass < options.passes; ++pass) {
    bench.begin_pass();
    for (const DType dtype : dtypes) {
      for (const Named& named : kParts) {
        say(named.phase, named.share);
        named.part(bench, dtype, options.quick);
      }
    }
    say("the optimizer", 0);
    measure_optimizer(bench, options.quick);
  }
  say("steps of a reference model", reference_share);
  set.in_step_f32 = measure_in_step(device, options.group, DType::kF32, rounds, set);
  set.in_step_bf16 = set.in_step_f32;
  if (native != DType::kF32) {
    say("steps of a reference model", reference_share);
    set.in_step_bf16 = measure_in_step(device, options.group, native, rounds, set);
  }
  if (options.group != nullptr) measure_sums(bench, *options.group, options.quick, &set);
  return set;
}

}  // namespace dsv3::train
