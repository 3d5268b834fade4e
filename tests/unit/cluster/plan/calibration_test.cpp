// A calibration: read back as written, refused when it is not one, and times between and beyond
// what was measured.
#include "cluster/plan/calibration.h"

#include <gtest/gtest.h>

#include <limits>

namespace dsv3::plan {
namespace {

StepOp product(int64_t m, int64_t n, int64_t k) {
  StepOp op{.op = "gemm", .role = "forward", .cls = OpClass::kGemm, .shape = {m, n, k}};
  op.flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k);
  return op;
}
// A machine of 1 GFLOP/s where every element of the operands and every call costs something.
double made_up_seconds(double m, double n, double k) {
  return 2e-9 * m * n * k + 3e-9 * m * k + 5e-9 * n * k + 7e-9 * m * n + 11e-6;
}
CalibrationPoint point_of(const StepOp& op, double seconds) {
  return {.op = std::string(op.op),
          .role = std::string(op.role),
          .dtype = op.dtype,
          .sizes = curve_sizes(op),
          .work = op.flops > 0 ? op.flops : op.bytes,
          .seconds = seconds};
}

CalibrationSet made_up_set() {
  CalibrationSet set{.ranks = 1,
                     .threads = 2,
                     .peak_bf16_flops_per_s = 4e9,
                     .peak_f32_flops_per_s = 2e9,
                     .copy_bytes_per_s = 1e10};
  for (const int64_t m : {16, 128, 1024}) {
    for (const int64_t n : {16, 1024}) {
      for (const int64_t k : {16, 512}) {
        set.points.push_back(
            point_of(product(m, n, k), made_up_seconds(double(m), double(n), double(k))));
      }
    }
  }
  return set;
}
Calibration made_up() {
  Calibration calibration{.machine = "a \"test\" machine", .date = "2026-11-22", .cores = 2};
  calibration.sets.push_back(made_up_set());
  calibration.sets.push_back(made_up_set());
  calibration.sets[1].ranks = 2;
  calibration.sets[1].threads = 1;
  calibration.sets[1].in_step_bf16 = {1.25, 1e-5};
  calibration.sets[1].all_reduce = {{1024, 4e-5}, {1 << 24, 4e-3}};
  for (CalibrationPoint& point : calibration.sets[1].points) point.seconds *= 3;
  return calibration;
}

TEST(Curves, MeetAProductAndItsTrafficBetweenThePoints) {
  const Curves curves(made_up_set());
  for (const auto& [m, n, k] : {std::tuple{16, 16, 16}, std::tuple{100, 700, 300},
                                std::tuple{1024, 1024, 512}, std::tuple{333, 17, 512}}) {
    EXPECT_NEAR(curves.seconds(product(m, n, k)), made_up_seconds(m, n, k),
                1e-9 * made_up_seconds(m, n, k))
        << m << " " << n << " " << k;
  }
}

TEST(Curves, KeepTheLargestRateAboveAndTheSmallestTimeBelow) {
  const Curves curves(made_up_set());
  EXPECT_NEAR(curves.seconds(product(4096, 1024, 512)), 4 * made_up_seconds(1024, 1024, 512), 1e-9);
  EXPECT_NEAR(curves.seconds(product(1, 1024, 512)), made_up_seconds(16, 1024, 512), 1e-12);
}

// A part of a rank's experts may be one, where the fewest that were measured are four.
TEST(Curves, FewerGroupsThanMeasuredTakeTheirShare) {
  const auto experts = [](int64_t groups) {
    StepOp op = product(64 * groups, 128, 256);
    op.op = "grouped_gemm";
    op.cls = OpClass::kGroupedGemm;
    op.groups = groups;
    return op;
  };
  CalibrationSet set = made_up_set();
  set.points = {point_of(experts(4), 4e-3), point_of(experts(16), 16e-3)};
  const Curves curves(set);
  EXPECT_NEAR(curves.seconds(experts(1)), 1e-3, 1e-12);
  EXPECT_NEAR(curves.seconds(experts(2)), 2e-3, 1e-12);
}

TEST(Curves, FillAHoleAtTheNearestRate) {
  CalibrationSet set = made_up_set();
  const CalibrationPoint largest = set.points.back();
  set.points.pop_back();
  const Curves curves(set);
  // m = 128 is three octaves away, k = 16 five and n = 16 six.
  const double rate = 2.0 * 128 * 1024 * 512 / made_up_seconds(128, 1024, 512);
  EXPECT_NEAR(curves.seconds(product(1024, 1024, 512)), largest.work / rate, 1e-9);
}

TEST(Curves, AnOpWithoutPointsGoesAtThePeakOrTheCopysSpeed) {
  const Curves curves(made_up_set());
  StepOp norm{.op = "rms_norm_forward", .cls = OpClass::kMemory, .shape = {10, 10}};
  norm.bytes = 1e6;
  EXPECT_DOUBLE_EQ(curves.seconds(norm), 1e-4);
  StepOp attention{.op = "mla_attention_forward",
                   .cls = OpClass::kAttentionForward,
                   .dtype = DType::kBf16,
                   .shape = {1, 64, 2}};
  attention.flops = 8e9;
  EXPECT_DOUBLE_EQ(curves.seconds(attention), 2);
  EXPECT_EQ(curves.seconds(StepOp{.op = "router_loss"}), 0) << "no work, no time";
}

TEST(CalibratedModel, TakesTheSetOfItsRanksOrTheNearestByThreads) {
  const auto calibration = std::make_shared<const Calibration>(made_up());
  const DeviceModel one = calibrated_device_model(calibration, "fp32");
  const DeviceModel two = one.shared_by(2), four = one.shared_by(4);
  const StepOp op = product(100, 100, 100);
  EXPECT_NEAR(two.seconds(op), 3 * one.seconds(op), 1e-12);
  EXPECT_NEAR(four.seconds(op), 2 * two.seconds(op), 1e-12) << "half a core for each";
  EXPECT_TRUE(two.measured);
  EXPECT_TRUE(two.links_share_cores);
  // A ring of two sends every byte once each way: 2 (2 − 1) / 2 · 16 MiB in 4 ms.
  EXPECT_DOUBLE_EQ(two.node_link.bytes_per_s, (1 << 24) / 4e-3);
  EXPECT_DOUBLE_EQ(two.node_link.latency_s, 2e-5);
  EXPECT_GT(one.node_link.bytes_per_s, 0) << "not measured, but no division by it is by zero";
  EXPECT_DOUBLE_EQ(four.node_link.bytes_per_s, two.node_link.bytes_per_s / 2);
}

// Four ranks on two cores were measured while they took turns: that is in their times once.
TEST(CalibratedModel, RanksThatTakeTurnsAreNotSlowedAgain) {
  Calibration calibration = made_up();
  CalibrationSet& crowd = calibration.sets.emplace_back(made_up_set());
  crowd.ranks = 4;
  for (CalibrationPoint& point : crowd.points) point.seconds *= 7;
  crowd.threads = 1;
  crowd.all_reduce = {{1024, 4e-5}, {1 << 24, 8e-3}};
  const auto with = std::make_shared<const Calibration>(calibration);
  const StepOp op = product(100, 100, 100);
  const double alone = made_up_seconds(100, 100, 100);
  EXPECT_NEAR(calibrated_device_model(with, "fp32", 4).seconds(op), 7 * alone, 1e-12);
  // A ring of four: 2 · 3 / 4 of 16 MiB in 8 ms.
  EXPECT_DOUBLE_EQ(calibrated_device_model(with, "fp32", 4).node_link.bytes_per_s,
                   1.5 * (1 << 24) / 8e-3);
  EXPECT_NEAR(calibrated_device_model(with, "fp32", 8).seconds(op), 14 * alone, 1e-12)
      << "a quarter of a core where a half was measured";
  EXPECT_NEAR(calibrated_device_model(with, "fp32", 3).seconds(op), 0.75 * 7 * alone, 1e-12);
  // Without a set of their own: two ranks' times, twice.
  const auto without = std::make_shared<const Calibration>(made_up());
  EXPECT_NEAR(calibrated_device_model(without, "fp32", 4).seconds(op), 2 * 3 * alone, 1e-12);
}

TEST(CalibratedModel, CountsWhatAStepAddsToItsOps) {
  const auto calibration = std::make_shared<const Calibration>(made_up());
  const StepOp op = product(100, 100, 100);
  EXPECT_NEAR(calibrated_device_model(calibration, "bf16", 2).seconds(op),
              1.25 * calibrated_device_model(calibration, "fp32", 2).seconds(op) + 1e-5, 1e-12);
}

TEST(CalibratedModel, FitsWhatACallTakesAndWhatEachAdds) {
  // 1.1 of what they take alone and 40 µs a call.
  const InStep fit =
      fit_in_step({1.1 * 0.5 + 800 * 40e-6, 0.5, 800}, {1.1 * 0.05 + 700 * 40e-6, 0.05, 700});
  EXPECT_NEAR(fit.factor, 1.1, 1e-9);
  EXPECT_NEAR(fit.call_s, 40e-6, 1e-12);
  // A small step that took less than its calls alone: noise; the large one's factor remains.
  const InStep noise = fit_in_step({0.6, 0.5, 800}, {0.04, 0.05, 700});
  EXPECT_DOUBLE_EQ(noise.factor, 1.2);
  EXPECT_EQ(noise.call_s, 0);
  EXPECT_DOUBLE_EQ(fit_in_step({0.6, 0.5, 800}, {0.6, 0.5, 800}).factor, 1.2) << "the same step";
}

TEST(CalibrationFile, IsReadBackAsWritten) {
  const Calibration calibration = made_up();
  const std::string json = calibration_json(calibration);
  const auto read = parse_calibration(json);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(calibration_json(*read), json);
  EXPECT_EQ(read->machine, calibration.machine);
  EXPECT_EQ(read->sets[1].points[3].seconds, calibration.sets[1].points[3].seconds);
  EXPECT_EQ(read->sets[1].all_reduce.size(), 2U);
}

TEST(CalibrationFile, RefusesWhatIsNone) {
  const std::string good = calibration_json(made_up());
  const auto refused = [&](const std::string& text, const std::string& word) {
    const auto read = parse_calibration(text);
    if (read.ok()) return ::testing::AssertionFailure() << "read: " << text.substr(0, 80);
    if (read.status().message().find(word) == std::string::npos)
      return ::testing::AssertionFailure() << read.status().message() << " lacks " << word;
    return ::testing::AssertionSuccess();
  };
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_TRUE(refused("", "not JSON"));
  EXPECT_TRUE(refused("[1, 2]", "not an object"));
  EXPECT_TRUE(refused("{}", "schema_version"));
  EXPECT_TRUE(refused(with("\"schema_version\":1", "\"schema_version\":2"), "schema_version"));
  EXPECT_TRUE(refused(with("\"cores\":2", "\"cores\":-3"), "cores"));
  EXPECT_TRUE(refused(with("\"cores\":2", "\"cores\":2.5"), "cores"));
  EXPECT_TRUE(refused(with("\"copy_bytes_per_s\":", "\"copy_bytes_per_s\":-"), "copy_bytes_per_s"));
  EXPECT_TRUE(refused(with("\"dtype\":\"f32\"", "\"dtype\":\"f31\""), "dtype"));
  EXPECT_TRUE(refused(with("\"sizes\":[16.0,", "\"sizes\":["), "sizes"));
  EXPECT_TRUE(refused(with("\"sizes\":[16.0,", "\"sizes\":[0,"), "sizes"));
  EXPECT_TRUE(refused(with("\"sizes\":[16.0,", "\"sizes\":[1e400,"), ""));
  EXPECT_TRUE(refused(with("\"seconds\":", "\"seconds\":0,\"old\":"), "seconds"));
  EXPECT_TRUE(refused(std::string(100, '['), ""));
}

TEST(CalibrationFile, RefusesSizesThatMakeAHugeGrid) {
  Calibration calibration = made_up();
  for (int64_t i = 1; i <= 60; ++i)
    calibration.sets[0].points.push_back(point_of(product(i * 1000, i * 999, i * 998), 1));
  EXPECT_FALSE(parse_calibration(calibration_json(calibration)).ok());
}

}  // namespace
}  // namespace dsv3::plan
