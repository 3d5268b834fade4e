// Calibration: what `dsv3ctl calibrate` measured on a machine, and seconds of an op by it.
//
// Laws: PURE. A file is outside bytes: parse_calibration() bounds every count and takes only finite
// numbers ≥ 0. Between measured points seconds and work are both interpolated, linear in every
// size, and the call's own work is divided by their rate: a time a·mnk + b·mk + c·nk + d·mn + e (a
// product, its traffic, its start) is then met exactly. Above the largest size the rate is the
// largest's, below the smallest a call takes no less than the smallest. An op without points is
// taken at the peak's or the copy's speed.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "cluster/plan/device_model.h"
#include "cluster/plan/step_ops.h"

namespace dsv3::plan {

// Its name in the state directory.
inline constexpr std::string_view kCalibrationFile = "calibration.json";

inline constexpr int64_t kCalibrationPointsMax = 20'000;
inline constexpr int64_t kCalibrationSetsMax = 16;

// The sizes by which calls of one op are told apart; unused ones are 1.
//   products            m, n, k as in the profile, 2 when added to; of grouped ones rows of a
//                       group, n, k, groups
//   attention           tokens of a sequence, dq + dv, sequences · heads
//   everything else     rows, width; of a cast also the bytes of an element, read and written
using CurveSizes = std::array<double, 4>;
// Which of them, and their values, for this op.
CurveSizes curve_sizes(const StepOp& op);

struct CalibrationPoint {
  std::string op;
  std::string role;
  DType dtype = DType::kF32;
  CurveSizes sizes{1, 1, 1, 1};
  double work = 0;  // of a call: FLOPs, or bytes where there are none
  double seconds = 0;
};

// A sum over the ranks, from start to end.
struct AllReducePoint {
  double bytes = 0;  // of the buffer
  double seconds = 0;
};

// What a call takes in a step of what it takes alone (caches that other calls filled, what is
// outside of ops), and beside that (threads that slept meanwhile): fitted to the steps of a
// reference model.
struct InStep {
  double factor = 1;
  double call_s = 0;
};
// Of two steps: `measured_s` of each, `alone_s` the sum of its calls, `calls` their number. Where
// two unknowns fit badly (a call that takes less than nothing) the first step's factor alone.
struct ReferenceStep {
  double measured_s = 0, alone_s = 0, calls = 0;
};
InStep fit_in_step(const ReferenceStep& large, const ReferenceStep& small);

// One way to share the machine: so many ranks at work at once, each with so many threads.
struct CalibrationSet {
  int64_t ranks = 1;
  int64_t threads = 1;
  double peak_bf16_flops_per_s = 0;
  double peak_f32_flops_per_s = 0;
  double copy_bytes_per_s = 0;
  InStep in_step_f32, in_step_bf16;
  std::vector<CalibrationPoint> points;
  std::vector<AllReducePoint> all_reduce;  // ascending bytes; empty for one rank
};

struct Calibration {
  std::string machine;  // "AMD EPYC"
  std::string date;     // "2026-11-22"
  int64_t cores = 1;
  std::vector<CalibrationSet> sets;  // at least one
};

// JSON of schema_version 1, and back. kInvalid names what is missing, out of bounds or of a wrong
// type.
std::string calibration_json(const Calibration& calibration);
Result<Calibration> parse_calibration(const std::string& json);

// Seconds of an op alone in one way of sharing: points grouped and sorted once.
class Curves {
 public:
  explicit Curves(const CalibrationSet& set);
  ~Curves();
  double seconds(const StepOp& op) const;

 private:
  struct Curve;
  const Curve* find(const StepOp& op) const;
  std::vector<Curve> curves_;
  CalibrationSet limits_;  // without points
};

// A device of `ranks` ranks that share the calibrated machine: the set for as many as it is, else
// the nearest by threads, its times scaled by the cores that a rank has here and had there.
// `dtype` is training.dtype. The sum over the
// ranks becomes node_link as a ring would need it: 2 (n − 1) / n · bytes / bytes_per_s.
DeviceModel calibrated_device_model(std::shared_ptr<const Calibration> calibration,
                                    const std::string& dtype, int64_t ranks = 1);

}  // namespace dsv3::plan
