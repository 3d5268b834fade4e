// Compute capabilities, from NVIDIA's list of CUDA GPUs.
#include "configs/spec/gpu_table.h"

#include <algorithm>
#include <cctype>

#include "base/text.h"

namespace dsv3::spec {
namespace {

struct Gpu {
  std::string_view
      name;  // lower case, letters and digits only; matched in a name reduced the same way
  int sm;
  int label_gb;  // memory; 0: sold with more than one size
};

// Longer names before those they contain ("gh200" before "h200", "l40s" before "l4").
constexpr Gpu kGpus[] = {
    {"gb300", 103, 0},   {"gb200", 100, 0},   {"gh200", 90, 0},     {"b300", 103, 0},
    {"b200", 100, 0},    {"b100", 100, 0},    {"h200", 90, 141},    {"h800", 90, 80},
    {"h100", 90, 80},    {"h20", 90, 96},     {"a100", 80, 0},      {"a800", 80, 80},
    {"a30", 80, 24},     {"a40", 86, 48},     {"a10", 86, 24},      {"a6000", 86, 48},
    {"a5000", 86, 24},   {"a4000", 86, 16},   {"l40s", 89, 48},     {"l40", 89, 48},
    {"l4", 89, 24},      {"6000ada", 89, 48}, {"rtx5090", 120, 32}, {"rtx5080", 120, 16},
    {"rtx4090", 89, 24}, {"rtx4080", 89, 16}, {"rtx4070", 89, 12},  {"rtx3090", 86, 24},
    {"rtx3080", 86, 0},  {"rtx2080", 75, 0},  {"v100", 70, 0},      {"t4", 75, 16},
    {"p100", 60, 0},
};

// Lower case, letters and digits only; where numbers would run together ("A100-80GB") a blank
// stays.
std::string reduced(std::string_view name) {
  std::string out;
  bool apart = false;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) == 0) {
      apart = true;
      continue;
    }
    const bool digits = !out.empty() && std::isdigit(static_cast<unsigned char>(out.back())) != 0 &&
                        std::isdigit(byte) != 0;
    if (apart && digits) out += ' ';
    out += static_cast<char>(std::tolower(byte));
    apart = false;
  }
  return out;
}

// "h100" is in "h100pcie" and not in "h1000".
bool names_card(const std::string& name, std::string_view card) {
  for (size_t at = name.find(card); at != std::string::npos; at = name.find(card, at + 1)) {
    const size_t next = at + card.size();
    if (next == name.size() || std::isdigit(static_cast<unsigned char>(name[next])) == 0)
      return true;
  }
  return false;
}

const Gpu* find_gpu(std::string_view name) {
  for (const Gpu& gpu : kGpus) {
    if (is_card(name, gpu.name)) return &gpu;
  }
  return nullptr;
}

}  // namespace

bool is_card(std::string_view name, std::string_view card) {
  const std::string words = reduced(name);
  // "NVIDIA GeForce RTX 4090", "4090" and "geforce4090" are the same card.
  return names_card(words, card) || (card.starts_with("rtx") && names_card(words, card.substr(3)));
}

int gpu_sm_version(std::string_view name) {
  const Gpu* gpu = find_gpu(name);
  return gpu == nullptr ? 0 : gpu->sm;
}

int gpu_label_gb(std::string_view name) {
  const Gpu* gpu = find_gpu(name);
  return gpu == nullptr ? 0 : gpu->label_gb;
}

std::string known_gpus_hint(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Gpu& gpu : kGpus) names.push_back(gpu.name);
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const std::string near = did_you_mean(lower, names);
  return near.empty() ? "known are for example h100, h200, a100-80, rtx4090"
                      : "did you mean '" + near + "'?";
}

}  // namespace dsv3::spec
