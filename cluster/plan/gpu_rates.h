// What is known of GPUs' speed: peaks from data sheets, links of the usual machine, a usual price.
//
// Law: data only; what of a peak is reached is device_model.h's Efficiency and comes from
// measurements that others published (each with its source in device_model.cpp). Nothing here was
// measured by our runtime.
#pragma once

#include <optional>
#include <string_view>

namespace dsv3::plan {

// One device; all per second, decimal.
struct GpuRates {
  std::string_view card;  // as spec::is_card() takes it
  double bf16_tflops;     // dense (without sparsity), tensor cores; fp16 where there is no bf16
  double fp8_tflops;      // 0: none, fp8 jobs are taken at bf16's rate
  double fp32_tflops;     // outside of tensor cores
  double memory_gb_per_s;
  double peer_gb_per_s;     // to another GPU of the node, one direction: NVLink, else PCIe
  double network_gb_per_s;  // to another node, per GPU, one direction
  double usd_per_hour;      // per GPU, a round figure from memory, of no list; 0: not usual
};

// The row of a card named as on a price list or as NVML does; absent: not in the table.
std::optional<GpuRates> gpu_rates(std::string_view name);

}  // namespace dsv3::plan
