// Interpolating what was measured; see calibration.h.
#include "cluster/plan/calibration.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

namespace dsv3::plan {
namespace {

constexpr size_t kNumSizes = std::tuple_size_v<CurveSizes>;

double work_of(const StepOp& op) {
  return op.flops > 0 ? op.flops : op.bytes;
}

// Where a value stands between two of an axis: lower index and share of the upper one.
struct Between {
  size_t lower = 0;
  double share = 0;
};
Between find_between(const std::vector<double>& axis, double value) {
  if (value <= axis.front()) return {0, 0};
  if (value >= axis.back()) return {axis.size() - 1, 0};
  const auto above = std::upper_bound(axis.begin(), axis.end(), value);
  const auto lower = static_cast<size_t>(above - axis.begin()) - 1;
  return {lower, (value - axis[lower]) / (axis[lower + 1] - axis[lower])};
}

const CalibrationSet& set_for(const Calibration& calibration, int64_t ranks) {
  const auto distance = [&](const CalibrationSet& set) {
    if (set.ranks == ranks) return -1.0;
    const double threads = std::max(1.0, static_cast<double>(calibration.cores) /
                                             static_cast<double>(std::max<int64_t>(ranks, 1)));
    return std::abs(std::log(static_cast<double>(set.threads) / threads)) +
           // Of two with as many threads the one with more company.
           1e-3 * std::abs(std::log(static_cast<double>(set.ranks) / static_cast<double>(ranks)));
  };
  return *std::min_element(
      calibration.sets.begin(), calibration.sets.end(),
      [&](const CalibrationSet& a, const CalibrationSet& b) { return distance(a) < distance(b); });
}

// How much longer a call takes with `ranks` ranks at work than when the set was measured: by the
// cores that a rank has. Where more ranks than cores were measured, their turns are in its times.
double slower_than(const CalibrationSet& set, int64_t cores, int64_t ranks) {
  if (set.ranks == ranks) return 1;
  const auto cores_of_rank = [cores](int64_t sharers) {
    const double each = static_cast<double>(cores) / static_cast<double>(sharers);
    return each >= 1 ? std::floor(each) : each;
  };
  const double then = std::min(static_cast<double>(set.threads), cores_of_rank(set.ranks));
  return then / cores_of_rank(ranks);
}

// The ring's line through the smallest and the largest sum. Without sums, a round share of the
// copy's speed: a sum over sockets copies each byte several times, in and out of the kernel.
Link link_of(const CalibrationSet& set, double slower) {
  constexpr double kShareOfCopy = 0.08, kLatencyS = 20e-6;
  if (set.all_reduce.empty()) return {set.copy_bytes_per_s * kShareOfCopy / slower, kLatencyS};
  const double n = static_cast<double>(std::max<int64_t>(set.ranks, 2));
  const double share = 2 * (n - 1) / n;
  const AllReducePoint& large = set.all_reduce.back();
  return {.bytes_per_s = share * large.bytes / large.seconds / slower,
          .latency_s = slower * set.all_reduce.front().seconds / (2 * (n - 1))};
}

}  // namespace

CurveSizes curve_sizes(const StepOp& op) {
  const auto side = [&](size_t i) { return static_cast<double>(op.shape[i]); };
  const auto groups = static_cast<double>(op.groups);
  switch (op.cls) {
    case OpClass::kGemm:
      return {side(0), side(1), side(2), op.accumulate ? 2.0 : 1.0};
    case OpClass::kGroupedGemm:
      // Rows first, whichever side of the product they are.
      if (op.op == "grouped_gemm_weight_grad") return {side(2) / groups, side(0), side(1), groups};
      return {side(0) / groups, side(1), side(2), groups};
    case OpClass::kAttentionForward:
    case OpClass::kAttentionBackward:
      return {side(1), static_cast<double>(op.qk_dim + op.v_dim), side(0) * side(2), 1};
    case OpClass::kMemory:
    case OpClass::kOptimizer:
      // A cast's bytes an element tell which way it goes.
      return {std::max(side(0), 1.0), std::max(side(1), 1.0),
              op.op == "cast" ? op.bytes / std::max(side(0) * side(1), 1.0) : 1.0, 1};
  }
  return {1, 1, 1, 1};
}

// A grid of what was measured. Holes (what was too large to measure) are filled with the nearest
// point's rate.
struct Curves::Curve {
  struct Cell {
    double work = 0;  // 0: a hole
    double seconds = 0;
  };
  using Position = std::array<size_t, kNumSizes>;

  std::string op, role;
  DType dtype = DType::kF32;
  std::array<std::vector<double>, kNumSizes> axes;
  std::vector<Cell> cells;  // by position in the grid, the last axis fastest

  Cell& cell(const Position& at) {
    size_t index = 0;
    for (size_t i = 0; i < kNumSizes; ++i) index = index * axes[i].size() + at[i];
    return cells[index];
  }
  const Cell& cell(const Position& at) const { return const_cast<Curve*>(this)->cell(at); }
  Position position(size_t index) const {
    Position at{};
    for (size_t i = kNumSizes; i-- > 0;) {
      at[i] = index % axes[i].size();
      index /= axes[i].size();
    }
    return at;
  }
  double volume(const Position& at) const {
    double volume = 1;
    for (size_t i = 0; i < kNumSizes; ++i) volume *= axes[i][at[i]];
    return volume;
  }
  void set(const std::vector<const CalibrationPoint*>& points);
  void fill_hole(size_t hole, const std::vector<const CalibrationPoint*>& points);
  double seconds(const CurveSizes& sizes, double work) const;
};

void Curves::Curve::set(const std::vector<const CalibrationPoint*>& points) {
  size_t num_cells = 1;
  for (size_t i = 0; i < kNumSizes; ++i) {
    std::vector<double>& axis = axes[i];
    for (const CalibrationPoint* point : points) axis.push_back(point->sizes[i]);
    std::sort(axis.begin(), axis.end());
    axis.erase(std::unique(axis.begin(), axis.end()), axis.end());
    num_cells *= axis.size();
  }
  cells.resize(num_cells);
  for (const CalibrationPoint* point : points) {
    Position at{};
    for (size_t i = 0; i < kNumSizes; ++i) at[i] = find_between(axes[i], point->sizes[i]).lower;
    cell(at) = {point->work, point->seconds};
  }
  for (size_t i = 0; i < cells.size(); ++i) {
    if (cells[i].work == 0) fill_hole(i, points);
  }
}

void Curves::Curve::fill_hole(size_t hole, const std::vector<const CalibrationPoint*>& points) {
  const Position here = position(hole);
  double nearest = std::numeric_limits<double>::infinity();
  for (const CalibrationPoint* point : points) {
    double distance = 0, volume_there = 1;
    for (size_t i = 0; i < kNumSizes; ++i) {
      distance += std::abs(std::log(axes[i][here[i]] / point->sizes[i]));
      volume_there *= point->sizes[i];
    }
    if (distance >= nearest) continue;
    nearest = distance;
    const double larger = volume(here) / volume_there;
    cells[hole] = {point->work * larger, point->seconds * larger};
  }
}

double Curves::Curve::seconds(const CurveSizes& sizes, double work) const {
  std::array<Between, kNumSizes> between;
  for (size_t i = 0; i < kNumSizes; ++i) {
    between[i] = find_between(axes[i], sizes[i]);
    // Below the grid a call takes as long as the grid's smallest; but fewer groups, which are
    // products one after the other, take less.
    const bool groups = i + 1 == kNumSizes;
    if (!groups && sizes[i] < axes[i].front()) work *= axes[i].front() / sizes[i];
  }
  Cell sum;
  for (unsigned corner = 0; corner < 1U << kNumSizes; ++corner) {
    Position at{};
    double weight = 1;
    for (size_t i = 0; i < kNumSizes; ++i) {
      const bool upper = (corner >> i & 1U) != 0;
      at[i] = between[i].lower + (upper ? 1 : 0);
      weight *= upper ? between[i].share : 1 - between[i].share;
    }
    if (weight == 0) continue;
    sum.work += weight * cell(at).work;
    sum.seconds += weight * cell(at).seconds;
  }
  return sum.seconds * work / sum.work;
}

Curves::Curves(const CalibrationSet& set) : limits_(set) {
  limits_.points.clear();
  std::vector<std::vector<const CalibrationPoint*>> members;
  for (const CalibrationPoint& point : set.points) {
    size_t i = 0;
    while (i < curves_.size() && (curves_[i].op != point.op || curves_[i].role != point.role ||
                                  curves_[i].dtype != point.dtype)) {
      ++i;
    }
    if (i == curves_.size()) {
      curves_.push_back({point.op, point.role, point.dtype, {}, {}});
      members.emplace_back();
    }
    members[i].push_back(&point);
  }
  for (size_t c = 0; c < curves_.size(); ++c) curves_[c].set(members[c]);
}

Curves::~Curves() = default;

const Curves::Curve* Curves::find(const StepOp& op) const {
  const Curve* other_dtype = nullptr;
  for (const Curve& curve : curves_) {
    if (curve.op != op.op || curve.role != op.role) continue;
    if (curve.dtype == op.dtype) return &curve;
    other_dtype = &curve;
  }
  return other_dtype;
}

InStep fit_in_step(const ReferenceStep& large, const ReferenceStep& small) {
  const double alone = large.measured_s / large.alone_s;
  const double determinant = large.alone_s * small.calls - small.alone_s * large.calls;
  if (determinant == 0) return {alone, 0};
  const InStep fit = {
      (large.measured_s * small.calls - small.measured_s * large.calls) / determinant,
      (large.alone_s * small.measured_s - small.alone_s * large.measured_s) / determinant};
  constexpr double kFactorMin = 0.8;
  const bool sound = fit.factor >= kFactorMin && fit.call_s >= 0;  // NaN is not
  return sound ? fit : InStep{alone, 0};
}

double Curves::seconds(const StepOp& op) const {
  const double work = work_of(op);
  if (work <= 0) return 0;
  if (const Curve* curve = find(op)) return curve->seconds(curve_sizes(op), work);
  const double peak = op.dtype == DType::kF32 || limits_.peak_bf16_flops_per_s <= 0
                          ? limits_.peak_f32_flops_per_s
                          : limits_.peak_bf16_flops_per_s;
  return op.flops > 0 ? work / peak : work / limits_.copy_bytes_per_s;
}

DeviceModel calibrated_device_model(std::shared_ptr<const Calibration> calibration,
                                    const std::string& dtype, int64_t ranks) {
  ranks = std::max<int64_t>(ranks, 1);
  const CalibrationSet& set = set_for(*calibration, ranks);
  const double slower = slower_than(set, calibration->cores, ranks);
  DeviceModel model;
  model.cores = calibration->cores;
  model.dtype = dtype;
  model.name = fmt::format("{}, {} thread{}", calibration->machine, set.threads,
                           set.threads == 1 ? "" : "s");
  model.source = fmt::format("calibrated {}", calibration->date);
  model.measured = true;
  model.peak_f32_flops_per_s = set.peak_f32_flops_per_s / slower;
  model.peak_flops_per_s =
      dtype == "fp32" ? model.peak_f32_flops_per_s : set.peak_bf16_flops_per_s / slower;
  model.memory_bytes_per_s = set.copy_bytes_per_s / slower;
  model.node_link = link_of(set, slower);
  model.network_link = model.node_link;
  model.links_share_cores = true;
  CalibrationSet scaled = set;
  const InStep& added = dtype == "fp32" ? set.in_step_f32 : set.in_step_bf16;
  const double in_step = added.factor;
  model.overhead_s = added.call_s * slower;
  for (CalibrationPoint& point : scaled.points) point.seconds *= slower * in_step;
  scaled.peak_f32_flops_per_s /= slower * in_step;
  scaled.peak_bf16_flops_per_s /= slower * in_step;
  scaled.copy_bytes_per_s /= slower * in_step;
  model.curves = std::make_shared<Curves>(scaled);
  model.calibration = std::move(calibration);
  return model;
}

}  // namespace dsv3::plan
