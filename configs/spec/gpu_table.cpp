// Compute capabilities, from NVIDIA's list of CUDA GPUs.
#include "configs/spec/gpu_table.h"

#include <algorithm>
#include <cctype>

namespace dsv3::spec {
namespace {

struct Gpu {
  std::string_view
      name;  // lower case, letters and digits only; matched anywhere in a name reduced the same way
  int sm;
};

// Longer names before those they contain ("gh200" before "h200", "l40s" before "l4").
constexpr Gpu kGpus[] = {
    {"gb300", 103},  {"gb200", 100},  {"gh200", 90},    {"b300", 103},    {"b200", 100},
    {"b100", 100},   {"h200", 90},    {"h800", 90},     {"h100", 90},     {"h20", 90},
    {"a100", 80},    {"a800", 80},    {"a30", 80},      {"a40", 86},      {"a10", 86},
    {"a6000", 86},   {"a5000", 86},   {"a4000", 86},    {"l40s", 89},     {"l40", 89},
    {"l4", 89},      {"6000ada", 89}, {"rtx5090", 120}, {"rtx5080", 120}, {"rtx4090", 89},
    {"rtx4080", 89}, {"rtx4070", 89}, {"rtx3090", 86},  {"rtx3080", 86},  {"rtx2080", 75},
    {"v100", 70},    {"t4", 75},      {"p100", 60},
};

}  // namespace

int gpu_sm_version(std::string_view name) {
  std::string reduced;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c))) {
      reduced += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  // "NVIDIA GeForce RTX 4090", "4090" and "geforce4090" are the same card.
  for (const Gpu& gpu : kGpus) {
    if (reduced.find(gpu.name) != std::string::npos) return gpu.sm;
    if (gpu.name.starts_with("rtx") && reduced.find(gpu.name.substr(3)) != std::string::npos)
      return gpu.sm;
  }
  return 0;
}

std::vector<std::string_view> gpu_names() {
  std::vector<std::string_view> names;
  for (const Gpu& gpu : kGpus) names.push_back(gpu.name);
  return names;
}

}  // namespace dsv3::spec
