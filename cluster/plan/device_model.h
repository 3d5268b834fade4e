// DeviceModel: how fast one device does an op, and how fast devices talk: rooflines, from a table
// of known GPUs or measured on the machine at hand (`dsv3ctl calibrate`).
//
// Laws: PURE. Every figure carries where it comes from. What is predicted by a model whose
// efficiencies were not measured with our runtime says so (`measured` is false).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/step_ops.h"

namespace dsv3::plan {

// Between two ranks, one direction.
struct Link {
  double bytes_per_s = 0;
  double latency_s = 0;
};

struct DeviceModel {
  std::string name;                    // "h100", "AMD EPYC …, 2 threads"
  std::string source;                  // one line: table of …, or calibrated when
  bool measured = false;               // by our own runtime on that device
  double peak_flops_per_s = 0;         // dense, of the compute dtype: what MFU is a share of
  double memory_bytes_per_s = 0;       // read plus written
  Link node_link;                      // NVLink, PCIe; sockets of one machine
  Link network_link;                   // between nodes, per device
  std::optional<double> usd_per_hour;  // a usual cloud price of one device
  // … per-class efficiencies and calibration curves follow here

  // Seconds of one call.
  double seconds(const StepOp& op) const;
};

double seconds(const DeviceModel& device, const std::vector<StepOp>& ops);

// Of a GPU in the table ("h100", "NVIDIA H100 80GB HBM3"); `dtype` is training.dtype. Absent: not
// known.
std::optional<DeviceModel> gpu_device_model(std::string_view gpu_name, std::string_view dtype);

}  // namespace dsv3::plan
