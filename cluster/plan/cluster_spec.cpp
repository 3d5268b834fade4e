// The arithmetic on ClusterSpec; see cluster_spec.h.
#include "cluster/plan/cluster_spec.h"

#include <algorithm>

#include "base/check.h"

namespace dsv3::plan {

const char* device_kind_name(DeviceKind kind) {
  return kind == DeviceKind::kCuda ? "cuda" : "cpu";
}

namespace {

constexpr double kUsableShare = 0.98;
constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

}  // namespace

int64_t usable_gpu_bytes(double label_gb) {
  return static_cast<int64_t>(kUsableShare * label_gb * kGib);
}

double gpu_label_gb(int64_t usable_bytes) {
  return static_cast<double>(usable_bytes) / (kUsableShare * kGib);
}

ClusterSpec cluster_of_gpus(int64_t gpus, double label_gb, const std::string& gpu_name,
                            int sm_version, int64_t gpus_per_node) {
  DSV3_CHECK(gpus >= 0 && gpus_per_node >= 1);
  ClusterSpec cluster;
  for (int64_t gpu = 0; gpu < gpus; ++gpu) {
    if (gpu % gpus_per_node == 0) {
      cluster.nodes.push_back({.name = "node-" + std::to_string(gpu / gpus_per_node)});
    }
    Device device{.kind = DeviceKind::kCuda, .name = gpu_name};
    device.memory_bytes = usable_gpu_bytes(label_gb);
    device.sm_version = sm_version;
    cluster.nodes.back().devices.push_back(std::move(device));
  }
  return cluster;
}

int64_t count_devices(const ClusterSpec& cluster, DeviceKind kind) {
  int64_t count = 0;
  for (const Node& node : cluster.nodes) {
    count += std::count_if(node.devices.begin(), node.devices.end(),
                           [kind](const Device& device) { return device.kind == kind; });
  }
  return count;
}

int64_t smallest_memory_bytes(const ClusterSpec& cluster, DeviceKind kind) {
  int64_t smallest = 0;
  for (const Node& node : cluster.nodes) {
    for (const Device& device : node.devices) {
      if (device.kind != kind) continue;
      smallest = smallest == 0 ? device.memory_bytes : std::min(smallest, device.memory_bytes);
    }
  }
  return smallest;
}

}  // namespace dsv3::plan
