// The sizes of a sweep, and that each row is the plan of that size with the failures' share.
#include "cluster/plan/sweep.h"

#include <gtest/gtest.h>

#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/parse.h"

namespace dsv3::plan {
namespace {

spec::JobSpec preset(const std::string& name) {
  auto job = spec::load_valid(name);
  EXPECT_TRUE(job.ok()) << job.status().to_string();
  return job.ok() ? *job : spec::JobSpec{};
}

SweepRequest request(int64_t from, int64_t to) {
  SweepRequest r;
  r.gpus_from = from;
  r.gpus_to = to;
  return r;
}

TEST(Sweep, SizesAreTheEndsAndThePowersOfTwoAndThreeTimesThem) {
  const std::vector<int64_t> large = {2048, 3072, 4096, 6144, 8192, 12288, 16384};
  EXPECT_EQ(sweep_sizes(2048, 16384), large);
  const std::vector<int64_t> odd = {5, 6, 8, 12, 16, 20};
  EXPECT_EQ(sweep_sizes(5, 20), odd);
  EXPECT_EQ(sweep_sizes(8, 8), std::vector<int64_t>{8});
  const std::vector<int64_t> small = {1, 2, 3};
  EXPECT_EQ(sweep_sizes(1, 3), small);
}

TEST(Sweep, EachRowIsThePlanOfThatSize) {
  const spec::JobSpec job = preset("5b");
  const auto rows = sweep(job, request(8, 32));
  ASSERT_EQ(rows.size(), 5u);  // 8 12 16 24 32
  for (const SweepRow& row : rows) {
    const Plan alone = plan(job, cluster_of_gpus(row.gpus, 80, ""));
    EXPECT_EQ(row.plan.feasible, alone.feasible) << row.gpus;
    EXPECT_EQ(row.plan.layout, alone.layout) << row.gpus;
    EXPECT_EQ(row.nodes, (row.gpus + 7) / 8);
    EXPECT_TRUE(row.plan.ranks.empty());
  }
}

TEST(Sweep, ARowThatDoesNotFitSaysSoAndHasNoInterval) {
  const auto rows = sweep(preset("671b"), request(32, 256));
  ASSERT_EQ(rows.front().gpus, 32);
  EXPECT_FALSE(rows.front().plan.feasible);
  EXPECT_FALSE(rows.front().interval_s.has_value());
  EXPECT_FALSE(rows.front().effective_time_ratio.has_value());
  EXPECT_FALSE(rows.front().plan.reason.empty());
  EXPECT_TRUE(rows.back().plan.feasible);
  EXPECT_GT(rows.back().interval_s.value_or(0), 0);
}

TEST(Sweep, ACheckpointTakesItsBytesOverTheStorage) {
  spec::JobSpec job = preset("671b");
  job.checkpoint.async = false;
  SweepRequest r = request(256, 256);
  r.storage_bytes_per_s = 100e9;
  const auto rows = sweep(job, r);
  const auto counts = spec::count_params(job.model);
  const double bytes = 12.0 * static_cast<double>(counts.total + counts.mtp);
  const bool bf16 = rows[0].plan.layout.moments_dtype == "bf16";
  EXPECT_NEAR(rows[0].checkpoint_s, (bf16 ? bytes * 8 / 12 : bytes) / 100e9, 1e-6);
  EXPECT_EQ(rows[0].checkpoint_write_s, 0);
  r.failures.checkpoint_s = 7;
  EXPECT_EQ(sweep(job, r)[0].checkpoint_s, 7);
}

// Written in the background: training waits for 256 copies of 20 GB/s at once, and the next
// checkpoint for the write.
TEST(Sweep, AnAsynchronousCheckpointStopsTrainingForItsCopy) {
  spec::JobSpec job = preset("671b");
  SweepRequest r = request(256, 256);
  r.storage_bytes_per_s = 100e9;
  job.checkpoint.async = false;
  const SweepRow still = sweep(job, r)[0];
  job.checkpoint.async = true;
  const SweepRow behind = sweep(job, r)[0];
  EXPECT_NEAR(behind.checkpoint_write_s, still.checkpoint_s, 1e-9);
  EXPECT_NEAR(behind.checkpoint_s, still.checkpoint_s * 100e9 / (256 * 20e9), 1e-9);
  EXPECT_GT(behind.effective_time_ratio, still.effective_time_ratio);
  r.storage_bytes_per_s = 1e9;  // hours: they bound the interval
  const SweepRow slow = sweep(job, r)[0];
  EXPECT_GE(slow.interval_s.value_or(0), slow.checkpoint_write_s);
}

TEST(Sweep, FailuresMakeItLongerAndDearerByTheirRatio) {
  SweepRequest r = request(256, 1024);
  r.gpu_name = "h100";
  r.options.tokens = 1'000'000'000'000;
  for (const SweepRow& row : sweep(preset("671b"), r)) {
    ASSERT_TRUE(row.effective_time_ratio.has_value()) << row.gpus;
    EXPECT_GT(*row.effective_time_ratio, 0.5);
    EXPECT_LT(*row.effective_time_ratio, 1);
    EXPECT_EQ(row.effective_days.has_value(), row.plan.predicted.days.has_value());
    if (!row.effective_days) continue;
    EXPECT_NEAR(*row.effective_days * *row.effective_time_ratio, *row.plan.predicted.days,
                1e-9 * *row.effective_days);
    EXPECT_GT(*row.effective_days, *row.plan.predicted.days);
  }
}

TEST(Sweep, CsvHasOneCellAColumnAndNothingForTheUnknown) {
  const auto rows = sweep(preset("671b"), request(32, 256));
  const std::string csv = sweep_csv(rows);
  const auto lines = split(csv, '\n');
  ASSERT_EQ(lines.size(), rows.size() + 2);  // header, and after the last line break
  const size_t columns = split(lines[0], ',').size();
  for (size_t i = 0; i < rows.size(); ++i) {
    size_t cells = 1;
    bool quoted = false;
    for (const char c : lines[i + 1]) {
      quoted = c == '"' ? !quoted : quoted;
      cells += c == ',' && !quoted ? 1u : 0u;
    }
    EXPECT_EQ(cells, columns) << lines[i + 1];
    EXPECT_TRUE(lines[i + 1].starts_with(std::to_string(rows[i].gpus) + ","));
  }
  EXPECT_NE(lines[1].find(",false,"), std::string::npos);
}

}  // namespace
}  // namespace dsv3::plan
