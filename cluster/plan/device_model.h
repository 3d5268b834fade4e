// DeviceModel: how fast one device does an op, and how fast devices talk: rooflines, from a table
// of known GPUs or measured on the machine at hand (`dsv3ctl calibrate`).
//
// Laws: PURE. Every figure carries where it comes from. What is predicted by a model whose
// efficiencies were not measured with our runtime says so (`measured` is false). An op takes at
// least overhead_s, and without a calibration never less than its FLOPs at peak_of() it. MFU is
// told of peak_flops_per_s, which in FP8 jobs is bf16's, as in the published figures.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cluster/plan/cluster_spec.h"
#include "cluster/plan/step_ops.h"

namespace dsv3::plan {

struct Calibration;
class Curves;

// Between two ranks, one direction.
struct Link {
  double bytes_per_s = 0;
  double latency_s = 0;
};

// What of a device's peaks its kernels reach: shares of 1 for large shapes. How they fall off for
// small ones is efficiency()'s in the .cpp.
struct Efficiency {
  double gemm = 0;
  double grouped_forward = 0;
  double grouped_backward = 0;
  double attention_forward = 0;
  double attention_backward = 0;
  double memory = 0;   // norms, SwiGLU, AdamW
  double scatter = 0;  // permute, unpermute, embedding
  double fp8 = 1;      // products in FP8: of the above, as a share of their own peak
};

struct DeviceModel {
  std::string name;                    // "h100", "AMD EPYC …, 2 threads"
  std::string source;                  // one line: table of …, or calibrated when
  bool measured = false;               // by our own runtime on that device
  double peak_flops_per_s = 0;         // dense, of the dtype; bf16's of fp8: what MFU divides by
  double peak_fp8_flops_per_s = 0;     // of products in FP8; 0: they go as bf16's
  double peak_f32_flops_per_s = 0;     // of f32 products (the router)
  double memory_bytes_per_s = 0;       // read plus written
  double overhead_s = 0;               // of a call
  Efficiency efficiency;               // without a calibration
  Link node_link;                      // NVLink, PCIe; sockets of one machine
  Link network_link;                   // between nodes, per device
  Link host_link;                      // to host memory; 0: it is host memory
  bool links_share_cores = false;      // communication takes the compute's time: nothing hides it
  std::optional<double> usd_per_hour;  // a usual cloud price of one device
  // Of the machine at hand; null: rooflines by the shares above.
  std::shared_ptr<const Calibration> calibration;
  std::shared_ptr<const Curves> curves;
  std::string dtype = "bf16";  // training.dtype, which the rates are for
  int64_t cores = 0;           // of a CPU model: shared by the ranks of a job; 0: a GPU

  // The FLOP/s that this op can't exceed: of f32, FP8 or the compute dtype.
  double peak_of(const StepOp& op) const;
  // Seconds of one call.
  double seconds(const StepOp& op) const;
  // This machine's model where `ranks` ranks of a job share its cores; a GPU's own model.
  DeviceModel shared_by(int64_t ranks) const;
};

double seconds(const DeviceModel& device, const std::vector<StepOp>& ops);

// Of a GPU in the table ("h100", "NVIDIA H100 80GB HBM3"); `dtype` is training.dtype. Absent: not
// known.
std::optional<DeviceModel> gpu_device_model(std::string_view gpu_name, std::string_view dtype);

// A machine of which nothing is known but its cores (≥ 1): for ranking layouts, not for times.
DeviceModel generic_cpu_model(int64_t cores);

}  // namespace dsv3::plan
