// ClusterSpec: the machines a plan is made for. Plain data; where the facts come from is
// cluster/inventory's business.
//
// Law: memory_bytes is what a job may use of a device (a card's label, less what the driver keeps;
// a machine's RAM within its control group), so that the planner compares with one number and knows
// nothing of drivers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::plan {

enum class DeviceKind { kCpu, kCuda };

// "cpu", "cuda".
const char* device_kind_name(DeviceKind kind);

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  std::string name;                // "NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) …"
  std::string uuid;                // of a GPU; "" for CPUs
  int64_t memory_bytes = 0;        // usable by a job
  int sm_version = 0;              // 90 for compute capability 9.0; 0 for CPUs
  int cores = 0;                   // of a CPU; 0 for GPUs
  bool multiplies_in_bf16 = true;  // false: a CPU whose kernels compute bf16 jobs in fp32
};

struct Node {
  std::string name;
  std::vector<Device> devices;  // the CPU (all cores as one device) first, then GPUs in their order
};

struct ClusterSpec {
  std::vector<Node> nodes;
};

// A card sold as `label_gb` GB holds 0.98 × label GiB: 80 → 78.4 GiB (PLAN.md, Memory).
int64_t usable_gpu_bytes(double label_gb);
// Its inverse: what a card with that much is sold as, GB.
double gpu_label_gb(int64_t usable_bytes);
// `gpus` equal cards on nodes of `gpus_per_node` ("node-0", …), for `--gpus N --gpu-memory GB --gpu
// NAME`. sm_version 0: unknown.
ClusterSpec cluster_of_gpus(int64_t gpus, double label_gb, const std::string& gpu_name,
                            int sm_version = 0, int64_t gpus_per_node = 8);
int64_t count_devices(const ClusterSpec& cluster, DeviceKind kind);
// The smallest memory_bytes of that kind; 0 when there is none.
int64_t smallest_memory_bytes(const ClusterSpec& cluster, DeviceKind kind);

}  // namespace dsv3::plan
