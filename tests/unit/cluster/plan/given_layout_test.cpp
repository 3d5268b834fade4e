// The layout of a job taken as it stands, against the words of the configuration.
#include "cluster/plan/given_layout.h"

#include <gtest/gtest.h>

#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

TEST(GivenLayout, WhatIsFreeIsOneAndDataRanksAreWhatIsLeft) {
  spec::JobSpec job = table_job("small");  // every size free
  EXPECT_EQ(layout_as_given(job, 0).world_size(), 1);
  EXPECT_EQ(layout_as_given(job, 6).dp, 6);
  job.parallel.tensor_parallel_size = 2;
  job.parallel.pipeline_parallel_size = 3;
  EXPECT_EQ(layout_as_given(job, 0).world_size(), 6);
  EXPECT_EQ(layout_as_given(job, 24).dp, 4);
  EXPECT_EQ(layout_as_given(job, 5).world_size(), 6) << "the caller sees that it is not 5";
  job.parallel.data_parallel_size = 2;
  EXPECT_EQ(layout_as_given(job, 24).world_size(), 12) << "what is given is kept";
}

TEST(GivenLayout, KeepsEveryWord) {
  spec::JobSpec job = table_job("small");  // 12 layers
  job.parallel.context_parallel_size = 2;
  job.parallel.tensor_parallel_size = 2;
  job.parallel.expert_parallel_size = 4;
  job.parallel.pipeline_parallel_size = 2;
  job.parallel.expert_tensor_parallel_size = 2;
  job.parallel.zero_stage = 2;
  job.parallel.recompute = "full";
  job.parallel.pipeline_schedule = "interleaved";
  job.training.micro_batch_size = 2;
  job.training.global_batch_size = 48;
  const Layout layout = layout_as_given(job, 64);
  EXPECT_EQ(to_string(layout),
            "TP2 CP2 PP2 EP4 DP2 ETP2 ZeRO-2 recompute full interleaved VPP2 MBS2");
  EXPECT_EQ(layout.grad_accumulation, 3);
  EXPECT_EQ(check_layout(job, layout, 0),
            "interleaved stages need micro-batches as multiples of PP 2, there are 3");
  job.parallel.pipeline_schedule = "auto";
  EXPECT_EQ(layout_as_given(job, 64).schedule, "1f1b");
}

}  // namespace
}  // namespace dsv3::plan
