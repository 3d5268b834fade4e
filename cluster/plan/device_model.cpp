// Rooflines by table and shares; see device_model.h.
#include "cluster/plan/device_model.h"

#include <fmt/core.h>

#include <algorithm>

#include "cluster/plan/calibration.h"
#include "cluster/plan/gpu_rates.h"

namespace dsv3::plan {
namespace {

// What others measured on Hopper, as shares of 989 TFLOP/s and 4.8 TB/s (H200):
// - GEMM 794.5 TFLOP/s for the best large shape (ml-engineering's MAMF table); the fall-off below
//   takes 1/33 of it at a smallest side of 4,096.
// - grouped GEMM of MoE layers 501 forward, 413 forward and backward together (Liger #1294,
//   grouped_gemm #37): 3 / (1/501 + 2/x) = 413 gives x = 380 for each backward product.
// - causal attention 192/128 with cuDNN: 599 forward and 404 backward at 4,096 tokens, 643 and 442
//   at 8,192 (cudnn-frontend's benchmark): P s / (s + c) through both points gives P 694, c 650
//   and P 488, c 850.
// - RMSNorm 3.75 TB/s, AdamW 3.79 TB/s (5.8 ms per 1e9 parameters of 22 bytes), permute 2.4 and
//   unpermute 2.95 TB/s (TileOPs, Liger).
// - FP8 products 1,453 of 1,979 TFLOP/s where bf16's reach 794.5 of 989 (MAMF table).
constexpr double kHopperTflops = 989, kHopperTbPerS = 4.8;
constexpr Efficiency kHopper = {.gemm = 820 / kHopperTflops,
                                .grouped_forward = 501 / kHopperTflops,
                                .grouped_backward = 380 / kHopperTflops,
                                .attention_forward = 694 / kHopperTflops,
                                .attention_backward = 488 / kHopperTflops,
                                .memory = 3.75 / kHopperTbPerS,
                                .scatter = 2.6 / kHopperTbPerS,
                                .fp8 = (1453.0 / 1979) / (794.5 / kHopperTflops)};
constexpr double kForwardHalfTokens = 650, kBackwardHalfTokens = 850;
// The smallest side (or rows of an expert) at which a product reaches half of its best: a tile's.
constexpr double kGemmHalfSide = 128;
// Grouped products were measured at some hundred rows an expert; only fewer take more.
constexpr double kGroupHalfRows = 32;
constexpr double kLaunchSeconds = 4e-6;

// An AVX-512 core does 32 f32 FLOPs a cycle or more; memory is shared by few cores before it is
// full.
constexpr double kCoreFlopsPerS = 60e9, kCoreBytesPerS = 12e9, kHostBytesPerS = 150e9;

double share_of(double size, double half) {
  return size / (size + half);
}

// The part of the device's peak that this product reaches.
double efficiency_in_bf16(const Efficiency& best, const StepOp& op) {
  const auto side = [&](int i) { return static_cast<double>(op.shape[static_cast<size_t>(i)]); };
  switch (op.cls) {
    case OpClass::kGemm:
      return best.gemm * share_of(std::min({side(0), side(1), side(2)}), kGemmHalfSide);
    case OpClass::kGroupedGemm: {
      const bool weight = op.op == "grouped_gemm_weight_grad";
      const double rows = side(weight ? 2 : 0) / static_cast<double>(op.groups);
      const double large = op.role == "forward" ? best.grouped_forward : best.grouped_backward;
      return large * share_of(rows, kGroupHalfRows);
    }
    case OpClass::kAttentionForward:
      return best.attention_forward * share_of(side(1), kForwardHalfTokens);
    case OpClass::kAttentionBackward:
      return best.attention_backward * share_of(side(1), kBackwardHalfTokens);
    case OpClass::kMemory:
    case OpClass::kOptimizer:
      return 1;
  }
  return 1;
}

bool moves_rows(std::string_view op) {
  return op == "permute_rows" || op == "unpermute_sum" || op.starts_with("embedding");
}

}  // namespace

double DeviceModel::peak_of(const StepOp& op) const {
  if (op.dtype == DType::kF32) return peak_f32_flops_per_s;
  return op.fp8 && peak_fp8_flops_per_s > 0 ? peak_fp8_flops_per_s : peak_flops_per_s;
}

double DeviceModel::seconds(const StepOp& op) const {
  if (curves) return curves->seconds(op) + overhead_s;
  const double memory = moves_rows(op.op) ? efficiency.scatter : efficiency.memory;
  const double memory_s = op.bytes / (memory_bytes_per_s * memory);
  double compute_s = 0;
  if (op.flops > 0) {
    const bool in_fp8 = op.fp8 && peak_fp8_flops_per_s > 0;
    const double share = efficiency_in_bf16(efficiency, op) * (in_fp8 ? efficiency.fp8 : 1);
    compute_s = op.flops / (peak_of(op) * share);
  }
  return std::max(compute_s, memory_s) + overhead_s;
}

double seconds(const DeviceModel& device, const std::vector<StepOp>& ops) {
  double sum = 0;
  for (const StepOp& op : ops) sum += op.calls * device.seconds(op);
  return sum;
}

std::optional<DeviceModel> gpu_device_model(std::string_view gpu_name, std::string_view dtype) {
  const std::optional<GpuRates> rates = gpu_rates(gpu_name);
  if (!rates) return std::nullopt;
  DeviceModel model;
  model.name = rates->card;
  model.dtype = dtype;
  model.source = fmt::format(
      "data sheet of {}; shares of its peaks as others measured them on Hopper", rates->card);
  model.peak_f32_flops_per_s = rates->fp32_tflops * 1e12;
  model.peak_flops_per_s = (dtype == "fp32" ? rates->fp32_tflops : rates->bf16_tflops) * 1e12;
  model.peak_fp8_flops_per_s = rates->fp8_tflops * 1e12;
  model.memory_bytes_per_s = rates->memory_gb_per_s * 1e9;
  model.overhead_s = kLaunchSeconds;
  model.efficiency = kHopper;
  model.node_link = {rates->peer_gb_per_s * 1e9, 5e-6};
  model.network_link = {rates->network_gb_per_s * 1e9, 10e-6};
  model.host_link = {25e9, 10e-6};
  if (rates->usd_per_hour > 0) model.usd_per_hour = rates->usd_per_hour;
  return model;
}

DeviceModel generic_cpu_model(int64_t cores) {
  const double n = static_cast<double>(std::max<int64_t>(cores, 1));
  DeviceModel model;
  model.cores = std::max<int64_t>(cores, 1);
  model.name = fmt::format("a CPU with {} cores", model.cores);
  model.source = "a rough model of any CPU; `dsv3ctl calibrate` measures this one";
  model.peak_flops_per_s = model.peak_f32_flops_per_s = n * kCoreFlopsPerS;
  model.memory_bytes_per_s = std::min(n * kCoreBytesPerS, kHostBytesPerS);
  model.overhead_s = 5e-6;
  model.efficiency = {.gemm = 0.7,
                      .grouped_forward = 0.6,
                      .grouped_backward = 0.6,
                      .attention_forward = 0.4,
                      .attention_backward = 0.4,
                      .memory = 0.7,
                      .scatter = 0.5};
  model.node_link = {1e9, 50e-6};
  model.network_link = {1e9, 100e-6};
  model.links_share_cores = true;
  return model;
}

DeviceModel DeviceModel::shared_by(int64_t ranks) const {
  if (cores == 0 || ranks <= 1) return *this;
  if (calibration) return calibrated_device_model(calibration, dtype, ranks);
  DeviceModel part = *this;
  const auto n = static_cast<double>(ranks);
  part.peak_flops_per_s /= n;
  part.peak_f32_flops_per_s /= n;
  part.memory_bytes_per_s /= n;
  return part;
}

}  // namespace dsv3::plan
