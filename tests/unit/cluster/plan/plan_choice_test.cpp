// What a plan says of its choice: why, how long, what it costs, and that it can be written back.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "cluster/plan/capability.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/search.h"
#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::free_job;
constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

ClusterSpec cpu_machine(double ram_gib, int cores) {
  Device cpu{.kind = DeviceKind::kCpu, .name = "Test CPU", .cores = cores};
  cpu.memory_bytes = static_cast<int64_t>(ram_gib * kGib);
  return {{{.name = "box", .devices = {cpu}}}};
}

TEST(PlanTimes, FollowFromTheStep) {
  const spec::JobSpec job = free_job("20b");
  const Plan made = plan(job, cluster_of_gpus(32, 80, "h100"), {.tokens = 1'000'000'000'000});
  ASSERT_TRUE(made.feasible) << made.reason;
  ASSERT_TRUE(made.predicted.step_s.has_value());
  const double tokens_per_s = 768 * 4096 / *made.predicted.step_s;
  EXPECT_DOUBLE_EQ(*made.predicted.tokens_per_s, tokens_per_s);
  EXPECT_DOUBLE_EQ(*made.predicted.tokens_per_s_per_gpu, tokens_per_s / 32);
  const double flops = spec::flops_per_token(job.model, 4096).total_with_mtp;
  EXPECT_NEAR(*made.predicted.mfu, tokens_per_s * flops / (32 * 989e12), 1e-12);
  EXPECT_GT(*made.predicted.mfu, 0.15);
  EXPECT_LT(*made.predicted.mfu, 0.6);
  EXPECT_NEAR(*made.predicted.days, 1e12 / tokens_per_s / 86400, 1e-9);
  const double usd = *gpu_device_model("h100", "bf16")->usd_per_hour;
  EXPECT_NEAR(*made.predicted.cost_usd, *made.predicted.days * 24 * 32 * usd, 1e-6);
  double sum = 0;
  for (const TimeLine& line : made.time) sum += line.seconds;
  EXPECT_NEAR(sum, *made.predicted.step_s, 1e-9 * sum);
}

TEST(PlanTimes, WithoutATokenBudgetTheJobsOwnStepsCount) {
  spec::JobSpec job = free_job("5b");
  job.training.max_steps = 500;
  const Plan made = plan(job, cluster_of_gpus(8, 80, "a100-80"), {.usd_per_gpu_hour = 2.5});
  ASSERT_TRUE(made.predicted.days.has_value());
  EXPECT_NEAR(*made.predicted.days, 500 * *made.predicted.step_s / 86400, 1e-9);
  EXPECT_NEAR(*made.predicted.cost_usd, *made.predicted.days * 24 * 8 * 2.5, 1e-6);
}

TEST(PlanTimes, AreUnknownWhereTheDeviceIs) {
  const Plan made = plan(free_job("5b"), cluster_of_gpus(8, 80, "Abacus 3000"));
  ASSERT_TRUE(made.feasible);
  EXPECT_FALSE(made.predicted.step_s.has_value());
  EXPECT_FALSE(made.predicted.cost_usd.has_value());
  EXPECT_TRUE(made.time.empty());
  EXPECT_FALSE(made.timed_by.has_value());
  for (const Rejected& other : made.rejected) EXPECT_FALSE(other.step_s.has_value());
  EXPECT_FALSE(made.why.empty());
  const DeviceModel h100 = *gpu_device_model("h100", "bf16");
  const Plan given = plan(free_job("5b"), cluster_of_gpus(8, 80, "Abacus 3000"), {.device = &h100});
  EXPECT_TRUE(given.predicted.step_s.has_value());
}

TEST(PlanTimes, WithoutANameAUsualCardOfThatMemoryIsAssumedAndSaid) {
  const auto timed_by = [](double label_gb) {
    return plan(free_job("1b"), cluster_of_gpus(8, label_gb, "")).timed_by.value_or(TimedBy{});
  };
  EXPECT_EQ(timed_by(80).name, gpu_device_model("h100", "bf16")->name);
  EXPECT_EQ(timed_by(24).name, gpu_device_model("rtx4090", "bf16")->name);
  EXPECT_EQ(timed_by(40).name, gpu_device_model("a100-40", "bf16")->name);
  EXPECT_EQ(timed_by(141).name, gpu_device_model("h200", "bf16")->name);
  EXPECT_TRUE(timed_by(80).assumed);
  const Plan named = plan(free_job("1b"), cluster_of_gpus(8, 80, "h100"));
  EXPECT_FALSE(named.timed_by->assumed);
  EXPECT_EQ(plan(free_job("1b"), cluster_of_gpus(8, 80, "")).predicted.step_s,
            named.predicted.step_s);
  const auto read = parse_plan(plan_json(named));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->timed_by, named.timed_by);
}

TEST(PlanTimes, Fp8IsFasterAndMfuIsOfBf16) {
  spec::JobSpec job = free_job("671b");
  job.training.global_batch_size = 15360;
  const ClusterSpec cluster = cluster_of_gpus(2048, 80, "h800");
  const Plan bf16 = plan(job, cluster);
  job.training.dtype = "fp8";
  const Plan fp8 = plan(job, cluster);
  ASSERT_TRUE(bf16.feasible && fp8.feasible);
  EXPECT_LT(*fp8.predicted.step_s, *bf16.predicted.step_s);
  EXPECT_NEAR(*fp8.predicted.mfu * *fp8.predicted.step_s,
              *bf16.predicted.mfu * *bf16.predicted.step_s, 1e-6);
}

TEST(PlanWhy, SaysHowManyWereComparedTheMarginAndTheNext) {
  const Plan made = plan(free_job("10b"), cluster_of_gpus(16, 80, "h100"));
  for (const char* part :
       {"fastest of ", " legal layouts", "94 %", "GiB", "; next of those tried is ", "slower"}) {
    EXPECT_NE(made.why.find(part), std::string::npos) << part << ": " << made.why;
  }
  EXPECT_FALSE(made.rejected.empty());
}

TEST(PlanWhy, SaysWhatWasGivenUp) {
  const Plan lowered = plan(free_job("671b"), cluster_of_gpus(128, 80, "h100"));
  ASSERT_TRUE(lowered.feasible) << lowered.reason;
  EXPECT_EQ(lowered.layout.moments_dtype, "bf16");
  EXPECT_NE(lowered.why.find("bf16 moments, bf16 gradients"), std::string::npos) << lowered.why;
  const Plan roomy = plan(free_job("671b"), cluster_of_gpus(256, 80, "h100"));
  ASSERT_TRUE(roomy.feasible);
  EXPECT_EQ(roomy.layout.moments_dtype, "fp32");
  EXPECT_EQ(roomy.layout.grads_dtype, "fp32");
  EXPECT_EQ(roomy.why.find("bf16"), std::string::npos) << roomy.why;
}

TEST(PlanRefusal, SaysWhatOffloadingWouldAllow) {
  const Plan few = plan(free_job("671b"), cluster_of_gpus(64, 80, "h100"));
  EXPECT_FALSE(few.feasible);
  EXPECT_NE(few.reason.find("parallel.offload_optimizer: true"), std::string::npos) << few.reason;
  const Plan too_few = plan(free_job("671b"), cluster_of_gpus(32, 80, "h100"));
  EXPECT_EQ(too_few.reason.find("offload_optimizer"), std::string::npos) << too_few.reason;
}

TEST(PlanOnCpus, EveryAxisIsOpen) {
  spec::JobSpec job = free_job("small");
  job.cluster.devices = "cpu";
  job.cluster.ranks_per_node = 4;
  // So few tokens a step that summing all gradients takes as long as computing them.
  job.training.seq_length = 256;
  job.training.global_batch_size = 8;
  const Plan made = plan(job, cpu_machine(256, 16));
  ASSERT_TRUE(made.feasible) << made.reason;
  EXPECT_TRUE(made.runnable);
  EXPECT_EQ(made.layout.world_size(), 4);
  EXPECT_LT(made.layout.dp, 4) << to_string(made.layout);
  EXPECT_LT(made.layout.zero_stage, 3);
  EXPECT_FALSE(made.predicted.step_s.has_value());
  const DeviceModel cpu = generic_cpu_model(16);
  const Plan timed = plan(job, cpu_machine(256, 16), {.device = &cpu});
  EXPECT_EQ(timed.layout, made.layout);
  EXPECT_TRUE(timed.predicted.step_s.has_value());
  EXPECT_FALSE(timed.predicted.tokens_per_s_per_gpu.has_value());
  EXPECT_NE(timed.why.find("run today"), std::string::npos) << timed.why;
}

TEST(PlanOnCpus, GivesUpPrecisionOnlyForARun) {
  spec::JobSpec job = free_job("small");
  job.cluster.devices = "cpu";
  job.parallel = spec::ParallelSpec{};
  const Plan roomy = plan(job, cpu_machine(64, 4));
  ASSERT_TRUE(roomy.feasible);
  EXPECT_EQ(roomy.layout.moments_dtype, "fp32");
  // Between what fp32 and what bf16 moments need.
  const MemoryModel memory(job, DeviceKind::kCpu);
  Layout low = roomy.layout;
  low.moments_dtype = "bf16";
  low.recompute = "full";
  low.micro_batch = 1;
  const double between =
      (static_cast<double>(peak_bytes(memory, low, 0)) / kFitShare + 4.0 * 2e8) / kGib;
  const Plan tight = plan(job, cpu_machine(between, 4));
  ASSERT_TRUE(tight.feasible) << tight.reason;
  EXPECT_TRUE(tight.runnable);
  EXPECT_EQ(tight.layout.moments_dtype, "bf16");
  EXPECT_NE(tight.why.find("bf16 moments"), std::string::npos) << tight.why;
}

TEST(PlanOnCpus, SaysWhatALayoutThatRunsWouldNeed) {
  spec::JobSpec job = free_job("5b");
  job.cluster.devices = "cpu";
  const Plan refused = plan(job, cpu_machine(24, 2));
  ASSERT_FALSE(refused.feasible);
  EXPECT_TRUE(refused.not_runnable.empty());
  EXPECT_EQ(refused.layout.recompute, "full");
  const double enough = static_cast<double>(refused.predicted.peak_memory_bytes) / kFitShare / kGib;
  const Plan roomy = plan(job, cpu_machine(enough + 0.1, 2));
  EXPECT_TRUE(roomy.feasible && roomy.runnable) << roomy.reason;
  EXPECT_EQ(roomy.layout.moments_dtype, "fp32");
}

std::set<std::string> missing(const spec::JobSpec& job, const Layout& layout) {
  std::set<std::string> names;
  for (const Capability& row : missing_capabilities(job, layout, DeviceKind::kCpu)) {
    names.insert(row.name);
  }
  return names;
}

TEST(CapabilityOfChoice, LooksAtTheLayoutNotAtWhatTheJobAllows) {
  spec::JobSpec job = free_job("small");
  job.parallel.offload_optimizer = true;  // allowed, not taken
  using Names = std::set<std::string>;
  EXPECT_EQ(missing(job, {}), Names{});
  EXPECT_EQ(missing(job, {.moments_dtype = "bf16"}), Names{});  // AdamW has them
  EXPECT_EQ(missing(job, {.grads_dtype = "bf16"}), Names{"bf16_gradients"});
  EXPECT_EQ(missing(job, {.offload_optimizer = true}), Names{});
  EXPECT_EQ(missing(job, {.tp = 2, .cp = 2, .pp = 2, .ep = 2, .dp = 2}), Names{});
  EXPECT_EQ(missing(job, {.pp = 2, .schedule = "zero_bubble", .recompute = "full"}), Names{});
  EXPECT_EQ(missing(job, {.dp = 2, .zero_stage = 2}), Names{});
  EXPECT_EQ(missing(job, {.pp = 2, .dp = 2, .zero_stage = 2}), Names{"zero2_pipeline"});
  EXPECT_EQ(missing(job, {.dp = 2, .zero_stage = 3}), Names{"zero3"});
  EXPECT_EQ(missing(job, {.pp = 2, .zero_stage = 3}), Names{});  // nothing to cut
}

TEST(LayoutOfChoice, NamesWhatIsNotUsual) {
  EXPECT_EQ(to_string(Layout{}), "one rank ZeRO-1 recompute none");
  EXPECT_EQ(to_string({.tp = 2,
                       .pp = 4,
                       .ep = 8,
                       .etp = 2,
                       .schedule = "interleaved",
                       .recompute = "full",
                       .micro_batch = 4,
                       .virtual_stages = 3,
                       .moments_dtype = "bf16",
                       .grads_dtype = "bf16",
                       .offload_optimizer = true}),
            "TP2 PP4 EP8 ETP2 ZeRO-1 recompute full interleaved VPP3 MBS4 moments bf16 gradients "
            "bf16 offload");
}

TEST(LayoutOfChoice, VirtualStagesDivideLayersAndMicroBatches) {
  const spec::JobSpec job = free_job("20b");  // 48 layers
  Layout layout{.pp = 4, .schedule = "interleaved", .grad_accumulation = 768, .virtual_stages = 3};
  EXPECT_EQ(check_layout(job, layout, 8), "");
  layout.virtual_stages = 5;
  EXPECT_NE(check_layout(job, layout, 8).find("num_layers 48"), std::string::npos);
  layout.virtual_stages = 1;  // would be 1F1B
  EXPECT_NE(check_layout(job, layout, 8).find("VPP"), std::string::npos);
  layout.virtual_stages = 3;
  layout.grad_accumulation = 6;
  EXPECT_NE(check_layout(job, layout, 8).find("multiples of PP 4"), std::string::npos);
  layout.schedule = "1f1b";
  EXPECT_NE(check_layout(job, layout, 8).find("3 virtual stages"), std::string::npos);
  layout.virtual_stages = 0;
  EXPECT_NE(check_layout(job, layout, 8), "");
}

TEST(PlanJsonOfChoice, RefusesAbsurdVirtualStages) {
  Plan made = plan(free_job("10b"), cluster_of_gpus(16, 80, "h100"));
  made.layout.virtual_stages = 0;
  EXPECT_EQ(parse_plan(plan_json(made)).status().code(), Code::kInvalid);
}

TEST(PlanSettled, FixesEverythingThatWasChosen) {
  const spec::JobSpec job = free_job("671b");
  const ClusterSpec cluster = cluster_of_gpus(128, 80, "h100");
  const Plan made = plan(job, cluster);
  ASSERT_TRUE(made.feasible);
  const spec::JobSpec fixed = settled(job, made);
  const spec::ParallelSpec& parallel = fixed.parallel;
  EXPECT_EQ(parallel.tensor_parallel_size, made.layout.tp);
  EXPECT_EQ(parallel.data_parallel_size, made.layout.dp);
  EXPECT_EQ(parallel.zero_stage, made.layout.zero_stage);
  EXPECT_EQ(fixed.training.micro_batch_size, made.layout.micro_batch);
  EXPECT_EQ(fixed.training.moments_dtype, "bf16");
  // Planned again, nothing is left to choose.
  const Plan again = plan(fixed, cluster);
  ASSERT_TRUE(again.feasible) << again.reason;
  EXPECT_EQ(again.layout, made.layout);
  EXPECT_EQ(again.predicted.peak_memory_bytes, made.predicted.peak_memory_bytes);
}

TEST(PlanJsonOfChoice, CarriesWhyTimeAndLosers) {
  const Plan made = plan(free_job("10b"), cluster_of_gpus(16, 80, "h100"));
  const std::string json = plan_json(made);
  const Result<Plan> read = parse_plan(json);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->why, made.why);
  EXPECT_EQ(read->time, made.time);
  ASSERT_EQ(read->rejected.size(), made.rejected.size());
  EXPECT_EQ(read->rejected.front().reason, made.rejected.front().reason);
  EXPECT_EQ(plan_json(*read), json);
}

}  // namespace
}  // namespace dsv3::plan
