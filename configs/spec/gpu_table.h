// What is known of GPUs by name: their compute capability (sm version) and memory. One small table.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dsv3::spec {

// Compute capability ×10 of a card named as on a price list or as NVML does ("h100", "a100-80",
// "RTX 4090", "NVIDIA H100 80GB HBM3"): 80, 89, 90, 100 …; 0 when the name is not known.
int gpu_sm_version(std::string_view name);

// Memory of the card in GB, as on its label; 0 when the name is not known or leaves it open.
int gpu_label_gb(std::string_view name);

// Whether `name`, written in any of these ways, names `card` ("h100", "rtx4090", "a100 80": lower
// case, a blank only between digits). "H100 PCIe" is both "h100pcie" and "h100": ask for the
// longer name first.
bool is_card(std::string_view name, std::string_view card);

// For a name that is not known: "did you mean 'h100'?", or some that are.
std::string known_gpus_hint(std::string_view name);

}  // namespace dsv3::spec
