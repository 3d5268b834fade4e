// The smallest number of devices against trying every number.
#include <gtest/gtest.h>

#include "cluster/plan/search.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

bool fits_on(const MemoryModel& memory, int64_t world, int64_t bytes) {
  const StateChoice state = state_choices(memory.job, memory.device).back();
  const std::optional<Candidate> least = smallest(memory, {world, bytes}, state);
  return least && least->peak_bytes <= fit_limit(bytes);
}

void expect_smallest(const spec::JobSpec& job, double label_gb, int64_t per_node = 8) {
  const MemoryModel memory(job, DeviceKind::kCuda, per_node);
  const int64_t bytes = usable_gpu_bytes(label_gb);
  const std::optional<int64_t> found = smallest_world(memory, bytes, /*free_otherwise=*/false);
  ASSERT_TRUE(found.has_value()) << job.model.name << " on cards of " << label_gb;
  for (int64_t world = 1; world < *found; ++world) {
    EXPECT_FALSE(fits_on(memory, world, bytes))
        << job.model.name << " on " << world << " x " << label_gb << ", said " << *found;
  }
  EXPECT_TRUE(fits_on(memory, *found, bytes)) << job.model.name << " on " << *found;
}

TEST(SmallestWorld, IsTheFirstOfAllNumbersThatFits) {
  for (const char* preset : {"small", "1b", "5b", "10b", "15b", "20b"}) {
    for (const double label_gb : {12.0, 16.0, 24.0, 40.0, 80.0}) {
      expect_smallest(table_job(preset), label_gb);
      spec::JobSpec shared = table_job(preset);  // not every number of data ranks will do
      shared.training.global_batch_size = 36;
      expect_smallest(shared, label_gb);
    }
  }
  expect_smallest(table_job("671b"), 80);
  expect_smallest(table_job("671b"), 141, 4);
}

TEST(SmallestWorld, KeepsTheSizesThatAreGiven) {
  spec::JobSpec job = table_job("20b");
  job.parallel.tensor_parallel_size = 8;
  expect_smallest(job, 24);
  job.parallel.pipeline_parallel_size = 3;
  expect_smallest(job, 24);
  spec::JobSpec eight = table_job("20b");
  eight.parallel.tensor_parallel_size = 8;
  EXPECT_EQ(smallest_world(MemoryModel(eight, DeviceKind::kCuda), usable_gpu_bytes(80)), 8);
  // More than a node has: with no number of devices, unless the size is freed.
  const MemoryModel narrow(eight, DeviceKind::kCuda, 4);
  EXPECT_EQ(smallest_world(narrow, usable_gpu_bytes(80), false), std::nullopt);
  EXPECT_EQ(smallest_world(narrow, usable_gpu_bytes(80)), 4);
}

TEST(SmallestWorld, IsAbsentWhereOneLayerIsTooLarge) {
  const MemoryModel memory(table_job("671b"), DeviceKind::kCuda);
  EXPECT_EQ(smallest_world(memory, usable_gpu_bytes(4)), std::nullopt);
}

}  // namespace
}  // namespace dsv3::plan
