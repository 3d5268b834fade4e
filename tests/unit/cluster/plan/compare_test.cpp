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

TEST(ParseLayout, BoundsEachSizeAndTheirProduct) {
  EXPECT_NE(refused("tp=16777216 cp=16777216 pp=16777216").find("more than 16777216 ranks"),
            std::string::npos);
  EXPECT_NE(refused("tp=16777216 cp=16777216 pp=16777216 ep=16777216", 8).find("more than"),
            std::string::npos);
  EXPECT_EQ(parsed("tp=4096 dp=4096", table_job("10b"), 0).world_size(), kRanksMax);
  EXPECT_NE(refused("tp=4096 dp=4097").find("TP4096 DP4097 makes more"), std::string::npos);
  EXPECT_NE(refused("mbs65537").find("from 1 to 65536"), std::string::npos);
  EXPECT_NE(refused("mbs65536 dp=256 accumulate=2").find("sequences"), std::string::npos);
}

TEST(ParseLayout, RefusesAFieldThatIsGivenTwice) {
  for (const char* text : {"TP2 TP4", "tp=2 tensor_parallel_size=2", "ZeRO-1 zero_stage=3",
                           "none full", "recompute selective full", "micro-batch 2 MBS4",
                           "bf16 moments moments=fp32", "offload offload_optimizer=false"})
    EXPECT_NE(refused(text).find("given two"), std::string::npos) << text;
}

TEST(ParseLayout, RanksAndBatchAgreeWithTheRest) {
  EXPECT_NE(refused("EP8 DP4", 8).find("EP8 DP4 makes 32 ranks, there are 8"), std::string::npos);
  EXPECT_NE(refused("TP2 DP1", 8).find("TP2 makes 2 ranks, there are 8"), std::string::npos);
  EXPECT_EQ(parsed("EP8 DP1", table_job("10b"), 8).dp, 1);
  spec::JobSpec job = table_job("10b");
  job.training.global_batch_size = 512;
  EXPECT_EQ(parsed("EP8 mbs2", job, 8).grad_accumulation, 32);
  EXPECT_EQ(parsed("EP8 mbs2 accumulate=32", job, 8).grad_accumulation, 32);
  for (const char* text :
       {"EP8 mbs2 accumulate=31", "EP8 mbs3 accumulate=21", "EP8 mbs65536 accumulate=16777216"}) {
    const auto layout = parse_layout(text, job, 8);
    ASSERT_FALSE(layout.ok()) << text;
    const std::string said = layout.status().message();
    EXPECT_NE(said.find("accumulation"), std::string::npos) << said;
    EXPECT_NE(said.find("is not global_batch_size 512"), std::string::npos) << said;
  }
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

// A step of four micro-batches takes longer than one of a single one, and less a sequence.
TEST(Compare, SpeedIsPerSequenceAndPerGpuWhereRanksDiffer) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const auto device = gpu_device_model("h100", "bf16");
  ASSERT_TRUE(device.has_value());
  const Layout one{.ep = 8}, four{.ep = 8, .grad_accumulation = 4},
      wide{.ep = 8, .dp = 4, .zero_stage = 3};
  const Comparison batches = compare(model, &*device, usable_gpu_bytes(80), one, four);
  EXPECT_LT(*batches.left.step_s, *batches.right.step_s);
  EXPECT_NE(batches.verdict.find("% slower"), std::string::npos) << batches.verdict;

  const Comparison ranks = compare(model, &*device, usable_gpu_bytes(80), one, wide);
  const TimeModel times(job, *device, 8);
  const double of_one = times.step_seconds(one) * 8 / 8;  // GPU seconds a sequence
  const double of_wide = times.step_seconds(wide) * 32 / 32;
  EXPECT_GT(*ranks.right.tokens_per_s, 2 * *ranks.left.tokens_per_s);
  EXPECT_LT(of_one, of_wide) << "DP crosses nodes";
  EXPECT_EQ(ranks.verdict.find("with 8 and 32 ranks, compared per GPU, the first is "), 0)
      << ranks.verdict;
  EXPECT_NE(ranks.verdict.find("% faster"), std::string::npos) << ranks.verdict;
}

TEST(Compare, AbsurdLayoutsAddUpAndDoNotFit) {
  spec::JobSpec job = table_job("671b");
  job.training.seq_length = int64_t{1} << 24;
  const MemoryModel model(job, DeviceKind::kCuda);
  const Layout most{.schedule = "afab", .micro_batch = 65536, .grad_accumulation = 256};
  Layout piped = most;
  piped.pp = 4;
  const Comparison both = compare(model, nullptr, usable_gpu_bytes(80), most, piped);
  EXPECT_GT(both.left.peak_bytes, int64_t{1} << 50);
  EXPECT_GT(both.right.peak_bytes, int64_t{1} << 50);
  EXPECT_FALSE(both.left.fits || both.right.fits);
}

}  // namespace
}  // namespace dsv3::plan
