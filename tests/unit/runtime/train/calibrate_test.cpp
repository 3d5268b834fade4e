// What is measured covers what a step asks for, and points are where the planner looks for them.
#include "runtime/train/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "runtime/train/calibrate_bench.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::train {
namespace {

plan::CalibrationSet measure_quickly() {
  const auto device = testing_support::cpu_device();
  tensor::Arena arena(*device);
  plan::CalibrationSet set{
      .peak_bf16_flops_per_s = 1e9, .peak_f32_flops_per_s = 1e9, .copy_bytes_per_s = 1e9};
  Bench bench(arena, nullptr, &set);
  std::vector<DType> dtypes = {DType::kF32};
  if (device->backend().matmul_dtype() != DType::kF32) dtypes.push_back(DType::kBf16);
  for (const DType dtype : dtypes) {
    measure_products(bench, dtype, true);
    measure_grouped_products(bench, dtype, true);
    measure_attention(bench, dtype, true);
    measure_rows(bench, dtype, true);
    measure_routing(bench, dtype, true);
  }
  measure_optimizer(bench, true);
  return set;
}

TEST(Calibrate, MeasuresEveryOpOfAStep) {
  const plan::CalibrationSet set = measure_quickly();
  const plan::Curves curves(set);
  // Some scalars each; nobody would see their time.
  const std::set<std::string_view> left_out = {"clip_scale", "router_bias_update"};
  spec::JobSpec job = testing_support::tiny_job();
  for (const char* dtype : {"fp32", "bf16"}) {
    if (std::string(dtype) == "bf16" &&
        testing_support::cpu_device()->backend().matmul_dtype() == DType::kF32)
      continue;
    job.training.dtype = dtype;
    for (const plan::StepOp& op : plan::step_ops(job, {})) {
      if (left_out.contains(op.op)) continue;
      EXPECT_TRUE(std::any_of(set.points.begin(), set.points.end(),
                              [&](const plan::CalibrationPoint& point) {
                                return point.op == op.op && point.role == op.role &&
                                       point.dtype == op.dtype;
                              }))
          << op.op << " " << op.role << " " << dtype_name(op.dtype);
      if (op.flops + op.bytes > 0) {
        EXPECT_GT(curves.seconds(op), 0) << op.op;
      }
    }
  }
}

// A second pass meets the same points in the same order and keeps the shorter times.
TEST(Calibrate, ASecondPassAddsNoPoints) {
  const auto device = testing_support::cpu_device();
  tensor::Arena arena(*device);
  plan::CalibrationSet set;
  Bench bench(arena, nullptr, &set);
  measure_routing(bench, DType::kF32, true);
  const plan::CalibrationSet once = set;
  bench.begin_pass();
  measure_routing(bench, DType::kF32, true);
  ASSERT_EQ(set.points.size(), once.points.size());
  for (size_t i = 0; i < set.points.size(); ++i) {
    EXPECT_EQ(set.points[i].sizes, once.points[i].sizes);
    EXPECT_LE(set.points[i].seconds, once.points[i].seconds);
  }
}

}  // namespace
}  // namespace dsv3::train
