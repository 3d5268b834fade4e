// Layouts read from text, and two of them side by side.
#include "cluster/plan/compare.h"

#include <gtest/gtest.h>

#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

Layout parsed(const std::string& text, const spec::JobSpec& job, int64_t world) {
  const auto layout = parse_layout(text, job, world);
  EXPECT_TRUE(layout.ok()) << text << ": " << layout.status().to_string();
  return layout.ok() ? *layout : Layout{};
}

std::string refused(const std::string& text, int64_t world = 0) {
  const auto layout = parse_layout(text, table_job("10b"), world);
  EXPECT_FALSE(layout.ok()) << text;
  return layout.ok() ? "" : layout.status().to_string();
}

TEST(ParseLayout, ReadsWhatToStringPrints) {
  spec::JobSpec job = table_job("10b");
  job.training.global_batch_size = 512;
  for (Layout layout :
       {Layout{.dp = 8}, Layout{.tp = 2, .pp = 4, .ep = 8, .recompute = "selective"},
        Layout{.tp = 2, .cp = 2, .dp = 2, .etp = 2, .zero_stage = 3, .recompute = "full"},
        Layout{.pp = 4, .dp = 2, .schedule = "interleaved", .micro_batch = 2, .virtual_stages = 2},
        Layout{.pp = 2,
        .schedule = "zero_bubble",
        .moments_dtype = "bf16",
        .grads_dtype = "bf16",
        .offload_optimizer = true}}) {
    layout.grad_accumulation = 512 / (layout.micro_batch * layout.dense_dp());
    EXPECT_EQ(parsed(to_string(layout), job, layout.world_size()), layout) << to_string(layout);
  }
}

TEST(ParseLayout, ReadsNamesAndValuesTooInAnyCase) {
  const spec::JobSpec job = table_job("10b");
  const Layout want{.tp = 2, .pp = 4, .ep = 8, .recompute = "selective", .grad_accumulation = 4};
  EXPECT_EQ(parsed("TP2 PP4 EP8 DP1 ZeRO-1 selective", job, 0), want);
  EXPECT_EQ(parsed("tp=2,pp=4, ep=8, zero_stage=1, recompute=selective", job, 64), want);
  EXPECT_EQ(parsed("tensor_parallel_size=2 pp4 ep8 zero1 recompute selective", job, 64), want);
  EXPECT_EQ(parsed("TP2 PP4", job, 64).dp, 8) << "what is left of the world";
  EXPECT_EQ(parsed("mbs2 accumulate=3", job, 8).grad_accumulation, 3);
  EXPECT_EQ(parsed("offload bf16 moments", job, 8).moments_dtype, "bf16");
}

TEST(ParseLayout, TakesFromTheJobWhatIsLeftOut) {
  spec::JobSpec job = table_job("10b");
  job.parallel.zero_stage = 2;
  job.parallel.recompute = "full";
  job.parallel.pipeline_schedule = "auto";
  job.training.micro_batch_size = 4;
  job.training.global_batch_size = 64;
  const Layout layout = parsed("DP8", job, 8);
  EXPECT_EQ(layout, (Layout{.dp = 8,
                            .zero_stage = 2,
                            .recompute = "full",
                            .micro_batch = 4,
                            .grad_accumulation = 2}));
}

TEST(ParseLayout, NamesWhatItDoesNotKnow) {
  EXPECT_NE(refused("TP2 selectiv").find("did you mean 'selective'"), std::string::npos);
  EXPECT_NE(refused("TP2 recompute partial").find("none, selective, full"), std::string::npos);
  EXPECT_NE(refused("zero=4").find("from 0 to 3"), std::string::npos);
  EXPECT_NE(refused("tp=0").find("'0'"), std::string::npos);
  EXPECT_NE(refused("tp=-1").find("'-1'"), std::string::npos);
  EXPECT_NE(refused("tp=99999999999999999999").find("tp takes"), std::string::npos);
  EXPECT_NE(refused("tensor_paralel_size=2").find("tensor_parallel_size"), std::string::npos);
  EXPECT_NE(refused(" , ").find("empty"), std::string::npos);
  EXPECT_NE(refused("TP2 PP3", 8).find("does not divide 8"), std::string::npos);
  EXPECT_NE(refused("recompute").find("can't be ''"), std::string::npos);
}

TEST(Compare, SaysWhatDiffersAndWhichFits) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const Layout left{.ep = 8}, right{.dp = 8};
  const Comparison both = compare(model, nullptr, usable_gpu_bytes(80), left, right);
  EXPECT_EQ(both.differences, (std::vector<LayoutDifference>{{"ep", "8", "1"}, {"dp", "1", "8"}}));
  EXPECT_EQ(both.left.peak_bytes, peak_bytes(model, left, 0));
  EXPECT_EQ(both.right.peak_bytes, sum_bytes(both.right.ledger));
  EXPECT_TRUE(both.left.fits);
  EXPECT_FALSE(both.right.fits);  // 84 GiB and more: every rank has all experts
  EXPECT_NE(both.verdict.find("only the first fits"), std::string::npos) << both.verdict;
  EXPECT_FALSE(both.left.step_s.has_value());
}

TEST(Compare, OfAnInvalidLayoutOnlyTheFaultIsKnown) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const Comparison both = compare(model, nullptr, usable_gpu_bytes(80), {.tp = 3}, {.pp = 64});
  EXPECT_NE(both.left.fault.find("num_heads 32"), std::string::npos);
  EXPECT_NE(both.right.fault.find("PP 64"), std::string::npos);
  EXPECT_EQ(both.left.peak_bytes, 0);
  EXPECT_NE(both.verdict.find("not valid"), std::string::npos);
}

TEST(Compare, TimesAreTheTimeModels) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const auto device = gpu_device_model("h100", "bf16");
  ASSERT_TRUE(device.has_value());
  const Layout left{.ep = 8}, right{.ep = 8, .recompute = "full"};
  const Comparison both = compare(model, &*device, usable_gpu_bytes(80), left, right);
  const TimeModel times(job, *device, 8);
  EXPECT_EQ(both.left.step_s, times.step_seconds(left));
  EXPECT_EQ(both.right.step_s, times.step_seconds(right));
  EXPECT_EQ(both.left.tokens_per_s, 8 * 4096 / *both.left.step_s);
  EXPECT_NE(both.verdict.find("% faster"), std::string::npos) << both.verdict;
}

}  // namespace
}  // namespace dsv3::plan
