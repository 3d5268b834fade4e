// What `submit auto` picks on machines that are not here: GPUs that the runtime can't use yet, and
// CPUs alone.
#include "coordinator/daemon/auto_pick.h"

#include <gtest/gtest.h>

#include "configs/spec/parse.h"

namespace dsv3::daemon {
namespace {

plan::ClusterSpec machine(int64_t gpus) {
  plan::ClusterSpec cluster;
  if (gpus > 0) cluster = plan::cluster_of_gpus(gpus, 80, "NVIDIA H100 80GB HBM3", 90, gpus);
  if (cluster.nodes.empty()) cluster.nodes.emplace_back();
  plan::Node& node = cluster.nodes[0];
  node.name = "here";
  plan::Device cpu;
  cpu.memory_bytes = int64_t{64} << 30;
  cpu.cores = 8;
  node.devices.insert(node.devices.begin(), cpu);
  return cluster;
}

wire::SubmitAutoRequest request() {
  wire::SubmitAutoRequest r;
  r.set_launcher("local");
  r.set_working_dir("/home/user");
  return r;
}

TEST(AutoPick, OnCpusTheDemoWithAbsolutePathsAndItsReason) {
  wire::SubmitAutoRequest r = request();
  r.set_request_key("key");
  r.add_overrides("checkpoint.path=ckpt");
  const auto pick = pick_job(machine(0), r, "/state");
  ASSERT_TRUE(pick.ok()) << pick.status().to_string();
  EXPECT_EQ(pick->config, "demo");
  EXPECT_NE(pick->why.find("no GPUs"), std::string::npos) << pick->why;
  const core::Submission& s = pick->submission;
  EXPECT_EQ(s.name, "demo");
  EXPECT_EQ(s.request_key, "key");
  EXPECT_EQ(s.launcher, "local");
  ASSERT_EQ(s.nodes.size(), 1u);
  EXPECT_EQ(s.nodes[0].node, "here");
  const spec::Parsed job = spec::parse_yaml(s.spec_yaml, "spec.yaml");
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job.job.data.path[0].first, "/state/data/demo");
  EXPECT_EQ(job.job.checkpoint.path, "/home/user/ckpt");
  const auto plan = plan::parse_plan(s.plan_json);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->feasible && plan->runnable);
  EXPECT_EQ(s.nodes[0].ranks.size(), plan->ranks.size());
}

// Holds until jobs run on GPUs: then this row of the capability table goes, and this test with it.
TEST(AutoPick, WithGpusTheTablesReasonIsGivenAndWhatRunsIsNamed) {
  const auto pick = pick_job(machine(8), request(), "/state");
  ASSERT_FALSE(pick.ok());
  EXPECT_EQ(pick.status().code(), Code::kDoesNotFit);
  EXPECT_NE(pick.status().message().find("10b"), std::string::npos) << pick.status().to_string();
  EXPECT_NE(pick.status().message().find("not run yet"), std::string::npos)
      << pick.status().to_string();
  EXPECT_NE(pick.status().hint().find("dsv3ctl submit demo"), std::string::npos)
      << pick.status().to_string();
}

TEST(AutoPick, TokensAreRoundedUpToWholeSteps) {
  wire::SubmitAutoRequest r = request();
  for (const auto& [tokens, steps] : {std::pair<int64_t, int64_t>{1, 1}, {2048, 1}, {2049, 2}}) {
    r.set_tokens(tokens);  // the demo's step: 8 × 256
    const auto pick = pick_job(machine(0), r, "/state");
    // A schedule that is longer than the run is an error of the configuration, and said as one.
    if (!pick.ok()) {
      EXPECT_EQ(pick.status().code(), Code::kInvalid) << pick.status().to_string();
      continue;
    }
    EXPECT_EQ(pick->submission.max_steps, steps);
  }
}

TEST(AutoPick, OverridesWithFaultsAreInvalid) {
  for (const char* text : {"training.nosuch=1", "model.num_layers=many", "nonsense",
                           "model.moe.num_experts_per_token=99"}) {
    wire::SubmitAutoRequest r = request();
    r.add_overrides(text);
    const auto pick = pick_job(machine(0), r, "/state");
    ASSERT_FALSE(pick.ok()) << text;
    EXPECT_EQ(pick.status().code(), Code::kInvalid) << text;
  }
}

}  // namespace
}  // namespace dsv3::daemon
