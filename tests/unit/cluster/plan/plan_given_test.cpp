// What a job gives itself: sizes that are taken as they stand, what is raised above its words, and
// what can't be.
#include <gtest/gtest.h>

#include "cluster/plan/memory.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/plan_choice.h"
#include "cluster/plan/search.h"
#include "cluster/plan/search_reasons.h"
#include "cluster/plan/shard_map.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::free_job;
constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

double peak_gib(const Plan& plan) {
  return static_cast<double>(plan.predicted.peak_memory_bytes) / kGib;
}

// Published peaks of the configuration guide's own layouts, one sequence a micro-batch.
TEST(PlanGiven, AWholeLayoutIsTakenAsItStands) {
  spec::JobSpec ten = free_job("10b");
  ten.parallel.tensor_parallel_size = 2;
  ten.parallel.pipeline_parallel_size = 2;
  ten.parallel.expert_parallel_size = 2;
  const Plan made = plan(ten, cluster_of_gpus(8, 80, "h100"));
  EXPECT_EQ(to_string(made.layout), "TP2 PP2 EP2 ZeRO-1 recompute none");
  EXPECT_NEAR(peak_gib(made), 36.7, 0.2);
  EXPECT_TRUE(has(made.why, "taken as they stand, with micro-batches of 1 and 1f1b")) << made.why;

  spec::JobSpec five = free_job("5b");
  five.parallel.pipeline_parallel_size = 4;
  EXPECT_NEAR(peak_gib(plan(five, cluster_of_gpus(4, 40, ""))), 30.0, 0.03 * 30.0);

  spec::JobSpec longer = free_job("10b");
  longer.parallel.tensor_parallel_size = 4;
  longer.parallel.pipeline_parallel_size = 2;
  longer.training.seq_length = 32768;
  EXPECT_NEAR(peak_gib(plan(longer, cluster_of_gpus(8, 80, ""))), 59.8, 0.03 * 59.8);
}

TEST(PlanGiven, WhatIsLeftFreeIsStillSearched) {
  spec::JobSpec job = free_job("10b");
  job.parallel.tensor_parallel_size = 2;
  EXPECT_FALSE(is_given_whole({.job = job, .world = 8}));
  job.parallel.pipeline_parallel_size = 2;
  EXPECT_FALSE(is_given_whole({.job = job, .world = 8}));
  EXPECT_TRUE(is_given_whole({.job = job, .world = 4}));  // nothing is left for the others
  EXPECT_FALSE(is_given_whole({.job = job, .world = 4, .fixed_sizes = false}));
  job.parallel.expert_parallel_size = 1;  // data ranks follow
  EXPECT_TRUE(is_given_whole({.job = job, .world = 8}));
  // Nobody cuts a job by leaving everything at one.
  spec::JobSpec plain = free_job("small");
  plain.parallel = spec::ParallelSpec{};
  EXPECT_FALSE(is_given_whole({.job = plain, .world = 1}));
}

TEST(PlanGiven, AnExpertTensorSizeIsKept) {
  spec::JobSpec job = free_job("10b");
  job.parallel.expert_tensor_parallel_size = 4;
  for (const Layout& axes : axes_of({.job = job, .world = 16})) {
    EXPECT_EQ(axes.tp, 4);
    EXPECT_EQ(axes.etp, 4);
  }
  const Plan made = plan(job, cluster_of_gpus(16, 80, "h100"));
  ASSERT_TRUE(made.feasible) << made.reason;
  EXPECT_EQ(made.layout.etp, 4);
  job.parallel.tensor_parallel_size = 2;  // contradicts it
  const Plan none = plan(job, cluster_of_gpus(16, 80, "h100"));
  EXPECT_FALSE(none.feasible);
  EXPECT_TRUE(has(none.reason, "expert_tensor_parallel_size 4 is neither 1 nor TP 2"))
      << none.reason;
}

TEST(PlanGiven, WhatIsRaisedIsSaid) {
  const Plan made = plan(free_job("671b"), cluster_of_gpus(128, 80, "h100"));
  ASSERT_TRUE(made.feasible);
  EXPECT_NE(made.layout.recompute, "none");
  EXPECT_TRUE(has(made.why, "ecompute raised from none to " + made.layout.recompute)) << made.why;
  EXPECT_TRUE(has(made.why, "with these sizes nothing less fits")) << made.why;
  spec::JobSpec asked = free_job("671b");
  asked.parallel.recompute = made.layout.recompute;
  asked.parallel.zero_stage = made.layout.zero_stage;
  EXPECT_FALSE(has(plan(asked, cluster_of_gpus(128, 80, "h100")).why, "raised"));
}

TEST(PlanGiven, TensorRanksAcrossNodesAreRefusedForThatReason) {
  spec::JobSpec job = free_job("10b");
  job.parallel.tensor_parallel_size = 8;
  const Plan made = plan(job, cluster_of_gpus(8, 80, "h100", 0, /*gpus_per_node=*/4));
  EXPECT_FALSE(made.feasible);
  EXPECT_TRUE(has(made.reason, "TP 8 is more than the 4 devices of a node")) << made.reason;
  EXPECT_EQ(made.layout.tp, 8);
  EXPECT_TRUE(made.ledger.empty());
  EXPECT_FALSE(made.gpus_needed.has_value());
  EXPECT_EQ(would_hold(made), "");
  EXPECT_TRUE(parse_plan(plan_json(made)).ok());
}

TEST(PlanGiven, CardsAreCountedOnNodesLikeTheClusters) {
  spec::JobSpec job = free_job("671b");
  job.parallel.tensor_parallel_size = 8;
  const Plan narrow = plan(job, cluster_of_gpus(16, 80, "h100", 0, /*gpus_per_node=*/16));
  ASSERT_TRUE(narrow.gpus_needed.has_value());
  const MemoryModel memory(job, DeviceKind::kCuda, 16);
  EXPECT_EQ(narrow.gpus_needed, smallest_world(memory, usable_gpu_bytes(80)));
}

TEST(PlanGiven, WhatNoNumberHoldsIsSaid) {
  const Plan made = plan(free_job("671b"), cluster_of_gpus(8, 4, ""));
  EXPECT_FALSE(made.feasible);
  EXPECT_FALSE(made.gpus_needed.has_value());
  EXPECT_EQ(would_hold(made), "no number of 4 GB GPUs up to 4,096");
}

TEST(PlanGiven, ACalibratedCpuSaysNothingOfGpus) {
  const DeviceModel cpu = generic_cpu_model(8);
  const ClusterSpec cluster = cluster_of_gpus(8, 80, "h100");
  const Plan with = plan(free_job("10b"), cluster, {.device = &cpu});
  EXPECT_EQ(plan_json(with), plan_json(plan(free_job("10b"), cluster)));
  EXPECT_TRUE(has(with.timed_by.value_or(TimedBy{}).name, "h100"));
}

ClusterSpec with_host(ClusterSpec cluster, double gib) {
  for (Node& node : cluster.nodes) {
    Device cpu{.kind = DeviceKind::kCpu, .name = "Host", .cores = 64};
    cpu.memory_bytes = static_cast<int64_t>(gib * kGib);
    node.devices.insert(node.devices.begin(), cpu);
  }
  return cluster;
}

TEST(PlanGiven, AnOffloadedOptimizerNeedsRoomOnItsNode) {
  spec::JobSpec job = free_job("671b");
  job.parallel.offload_optimizer = true;
  const ClusterSpec gpus = cluster_of_gpus(64, 80, "h100");
  const Plan roomy = plan(job, with_host(gpus, 4096));
  ASSERT_TRUE(roomy.feasible) << roomy.reason;
  EXPECT_TRUE(roomy.layout.offload_optimizer);
  const int64_t host = host_bytes_of_node(MemoryModel(job, DeviceKind::kCuda), roomy.layout);
  // 671e9 (and MTP's) of 12 bytes on eight nodes, and what a stage has more than the mean.
  EXPECT_GT(static_cast<double>(host), 671e9 * 12 / 8);
  EXPECT_LT(static_cast<double>(host), 1.5 * 671e9 * 12 / 8);
  EXPECT_TRUE(has(roomy.why, "the optimizer in host memory (")) << roomy.why;
  const Plan tight = plan(job, with_host(gpus, 256));
  EXPECT_FALSE(tight.feasible);
  EXPECT_TRUE(has(tight.reason, "of a node that has 256.00 GiB")) << tight.reason;
}

TEST(PlanGiven, TensorRanksShareTheTokensEvenly) {
  spec::JobSpec job = free_job("10b");
  job.training.seq_length = 4;
  EXPECT_TRUE(has(check_layout(job, {.tp = 8}, 8), "seq_length/CP 4 is not divisible by TP 8"));
  EXPECT_EQ(check_layout(job, {.tp = 4}, 8), "");
  job.training.seq_length = 100;
  EXPECT_TRUE(has(check_layout(job, {.tp = 4, .cp = 2}, 8), "seq_length/CP 50"));
  EXPECT_TRUE(has(check_layout(job, {.tp = 4, .cp = 2}, 8), "seq_length 96 or 104 would do"));
  EXPECT_EQ(check_layout(job, {.cp = 2}, 8), "");
  EXPECT_EQ(check_layout(job, {.cp = 3}, 8),
            "seq_length 100 is not divisible by 2·CP 6: 96 or 102 would do");
  EXPECT_TRUE(has(check_layout(job, {.cp = 64}, 8), "2·CP 128: 128 would do"));
}

TEST(PlanGiven, TensorRanksShareEveryWidth) {
  spec::JobSpec job = free_job("10b");
  job.model.moe.first_k_dense = 1;
  EXPECT_EQ(check_layout(job, {.tp = 2}, 8), "");
  job.model.dense_intermediate_size = 1001;
  EXPECT_TRUE(has(check_layout(job, {.tp = 2}, 8), "dense_intermediate_size 1001"));
  job.model.moe.first_k_dense = 0;  // then there is none
  EXPECT_EQ(check_layout(job, {.tp = 2}, 8), "");
  job.model.moe.num_shared_experts = 1;
  job.model.moe.expert_intermediate_size = 1003;
  EXPECT_TRUE(has(check_layout(job, {.tp = 2}, 8), "shared experts 1003"));
  job.model.moe.num_shared_experts = 0;
  EXPECT_EQ(check_layout(job, {.tp = 2}, 8), "");
  job.model.mtp_layers = 1;
  job.model.d_model += 1;
  EXPECT_TRUE(has(check_layout(job, {.tp = 2}, 8), "d_model"));
}

TEST(PlanGiven, APlanOfAbsurdlyManyRanksIsNotRead) {
  Plan made = plan(free_job("10b"), cluster_of_gpus(16, 80, "h100"));
  made.layout.dp = int64_t{1} << 20;
  made.layout.tp = made.layout.pp = made.layout.ep = 1;
  EXPECT_TRUE(parse_plan(plan_json(made)).ok());
  made.layout.tp = int64_t{1} << 20;
  EXPECT_EQ(parse_plan(plan_json(made)).status().code(), Code::kInvalid);
}

struct Timed {
  spec::JobSpec job = free_job("10b");
  DeviceModel h100 = *gpu_device_model("h100", "bf16");
  TimeModel time{job, h100, 8};
  Candidate of(const Layout& layout) const { return {layout, 0, 0, time.step_seconds(layout)}; }
};

// Both terms where they nearly cancel, and never a difference of nothing.
TEST(SearchReasons, TellTheNetEffect) {
  const Timed timed;
  const Layout one{.ep = 8, .micro_batch = 1, .grad_accumulation = 96};
  std::vector<Candidate> all;
  for (const int64_t tp : {1, 2, 4, 8}) {
    for (const int64_t ep : {1, 2, 4, 8}) {
      for (const int64_t cp : {1, 2}) {
        if (tp * cp * ep > 8) continue;
        const int64_t dp = 8 / tp / cp / ep;
        all.push_back(timed.of({.tp = tp,
                                .cp = cp,
                                .ep = ep,
                                .dp = dp,
                                .micro_batch = 1,
                                .grad_accumulation = 96 * tp * cp}));
      }
    }
  }
  int cancel = 0;
  for (const Candidate& a : all) {
    for (const Candidate& b : all) {
      if (b.step_s < a.step_s) continue;
      const std::string reason = slower_reason(timed.time, a, b);
      EXPECT_FALSE(reason.starts_with("0.0")) << reason;
      EXPECT_TRUE(has(reason, "slower: ") || reason.starts_with("as fast")) << reason;
      cancel += has(reason, " +") && has(reason, ", ") && has(reason, " −");
    }
  }
  EXPECT_GT(cancel, 0);
  EXPECT_TRUE(slower_reason(timed.time, timed.of(one), timed.of(one)).starts_with("as fast"));
}

double line_of(const StepTime& time, const std::string& name) {
  for (const TimeLine& line : time.lines) {
    if (line.name == name) return line.seconds;
  }
  return 0;
}

TEST(StepExchange, GradientsAreNeverWhollyHidden) {
  Timed timed;
  const Layout layout{.dp = 8, .grad_accumulation = 96};
  const double hidden = line_of(timed.time.predict(layout), "dp");
  timed.job.parallel.overlap_grad_reduce = false;
  const double shown = line_of(TimeModel(timed.job, timed.h100, 8).predict(layout), "dp");
  EXPECT_NEAR(hidden, 0.1 * shown, 1e-9 * shown);
  // Stage 3 waits for the first layer's weights, too.
  Layout third = layout;
  third.zero_stage = 3;
  EXPECT_GT(line_of(timed.time.predict(third), "dp"), 96 * 2 * hidden);
}

// Gradient there and weight back over PCIe, and Adam's own traffic: 4 + 2·(4 + 2·4) + 2 bytes.
TEST(StepExchange, TheHostsAdamTouchesWhatTheDtypesSay) {
  const Timed timed;
  const double n = static_cast<double>(ShardedCounts(timed.job.model).stage({}, 0).total());
  const Layout plain{.grad_accumulation = 1, .offload_optimizer = true};
  Layout small = plain;
  small.moments_dtype = small.grads_dtype = "bf16";
  const auto offload = [&](const Layout& layout) {
    return line_of(timed.time.predict(layout), "offload");
  };
  const double pcie = timed.h100.host_link.bytes_per_s;
  EXPECT_NEAR(offload(plain), n * (6 / pcie + 30 / 25e9), 1e-9);
  EXPECT_NEAR(offload(small), n * (4 / pcie + 20 / 25e9), 1e-9);
}

TEST(SearchSpaceRules, ChunksOfOneLayerMustGainTwoPercent) {
  const spec::JobSpec job = free_job("20b");  // 48 layers
  const auto weight = [&](const char* schedule, int64_t pp, int64_t chunks) {
    return time_weight(job.model, {.pp = pp, .schedule = schedule, .virtual_stages = chunks});
  };
  EXPECT_DOUBLE_EQ(weight("interleaved", 8, 6), 1 / 0.98);
  EXPECT_DOUBLE_EQ(weight("interleaved", 8, 3), 1);
  EXPECT_DOUBLE_EQ(weight("1f1b", 48, 1), 1);
  EXPECT_DOUBLE_EQ(weight("zero_bubble", 8, 1), 1);
}

// What every tensor rank holds whole, by hand: 32 layers and MTP's of two norms, q_a and kv_a with
// theirs, 31 routers, and MTP's two norms and the last ones.
TEST(StepExchange, WholeTensorsGradientsAreSummedOverTensorRanks) {
  Timed timed;
  timed.job.parallel.overlap_grad_reduce = false;
  DeviceModel slow = timed.h100;
  slow.links_share_cores = true;
  slow.node_link = {1e9, 0};
  const double h = 3072, qr = 1536, r = 768, dr = 64;
  const double layer = 2 * h + qr * h + qr + (r + dr) * h + r;
  const double whole = 33 * layer + 31 * 32 * h + 2 * h + 2 * h;
  const Layout layout{.tp = 2, .dp = 1, .grad_accumulation = 1};
  Layout two = layout;
  two.grad_accumulation = 2;
  const TimeModel time(timed.job, slow, 8);
  const double once = line_of(time.predict(layout), "tp");
  const double step = 2 * once - line_of(time.predict(two), "tp");  // what a step has once
  EXPECT_NEAR(step, 2 * whole * 4 / 2 / 1e9, 1e-3 * step);
}

}  // namespace
}  // namespace dsv3::plan
