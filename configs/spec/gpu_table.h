// What is known of GPUs by name: their compute capability (sm version). One small table.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dsv3::spec {

// Compute capability ×10 of a card named as on a price list or as NVML does ("h100", "a100-80",
// "RTX 4090", "NVIDIA H100 80GB HBM3"): 80, 89, 90, 100 …; 0 when the name is not known.
int gpu_sm_version(std::string_view name);

// The names that are known, for messages.
std::vector<std::string_view> gpu_names();

}  // namespace dsv3::spec
