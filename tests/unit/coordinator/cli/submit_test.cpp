// What `submit` sends: absolute paths, the whole resolved spec, the plan and the placement of its
// ranks.
#include "coordinator/cli/submit.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "configs/spec/parse.h"
#include "coordinator/cli/fleet.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "tests/unit/coordinator/cli/command_line.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::cli {
namespace {

spec::JobSpec demo() {
  auto parsed = spec::load("demo");
  EXPECT_TRUE(parsed.ok() && parsed->ok());
  return parsed->job;
}

plan::Plan two_ranks() {
  plan::Plan plan;
  plan.feasible = true;
  plan.layout.dp = 2;
  plan.ranks.resize(3);
  plan.ranks[0].node = "b";
  plan.ranks[1].node = "a";
  plan.ranks[1].global_rank = 1;
  plan.ranks[2].node = "b";
  plan.ranks[2].global_rank = 2;
  return plan;
}

TEST(SettlePaths, MakesPathsAbsoluteFromTheCurrentFolder) {
  spec::JobSpec job = demo();
  job.data.path = {{"data/mine", 1.0}, {"/abs/x", 2.0}, {"a/../b", 1.0}};
  job.checkpoint.path = "ckpt";
  job.checkpoint.load = "../old";
  settle_paths(Globals{.state_dir = "/state"}, &job);
  const std::string here = std::filesystem::current_path().string();
  EXPECT_EQ(job.data.path[0].first, here + "/data/mine");
  EXPECT_EQ(job.data.path[1].first, "/abs/x");
  EXPECT_EQ(job.data.path[1].second, 2.0);
  EXPECT_EQ(job.data.path[2].first, here + "/b");
  EXPECT_EQ(job.checkpoint.path, here + "/ckpt");
  EXPECT_EQ(job.checkpoint.load, (std::filesystem::current_path().parent_path() / "old").string());
}

TEST(SettlePaths, PutsTheDemosDataIntoTheStateFolderAndLeavesEmptyPathsEmpty) {
  spec::JobSpec job = demo();
  ASSERT_EQ(job.data.path[0].first, kDemoData);
  settle_paths(Globals{.state_dir = "/state"}, &job);
  EXPECT_EQ(job.data.path[0].first, "/state/data/demo");
  EXPECT_EQ(job.checkpoint.path, "");
  EXPECT_EQ(job.checkpoint.load, "");
}

// Without a coordinator it looks at this machine itself (with GPUs nothing is taken yet: 6).
TEST(SubmitDryRun, AutoNeedsNoCoordinatorAndPeopleGetThePlansText) {
  const TemporaryFolder folder;
  const std::vector<std::string> words = {"--state-dir", folder / "state", "submit", "auto",
                                          "--dry-run"};
  const Outcome text = command_line(words);
  if (text.code == 6) GTEST_SKIP() << "there are GPUs here: " << text.err;
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_TRUE(text.out.starts_with("demo\n")) << text.out;
  EXPECT_TRUE(contains(text.out, "\nlayout ")) << text.out;
  EXPECT_TRUE(contains(text.out, "dsv3-agent")) << text.out;
  EXPECT_FALSE(contains(text.out, "{")) << text.out;
  std::vector<std::string> as_json = words;
  as_json.emplace_back("--json");
  const auto said = nlohmann::json::parse(command_line(as_json).out);
  EXPECT_EQ(said["config"], "demo");
  EXPECT_EQ(said["plan"]["feasible"], true);
  EXPECT_TRUE(contains(said["launch_script"].get<std::string>(), "dsv3-agent"));
  const Outcome bad = command_line({"--state-dir", folder / "state", "submit", "auto", "--dry-run",
                                    "--set", "training.nosuch=1"});
  EXPECT_EQ(bad.code, 2) << bad.err;
}

TEST(Fleet, CoresGoToTheNodeOfThisMachineAlone) {
  const auto cpu = [](const char* name, int cores) {
    plan::Device device;
    device.name = name;
    device.cores = cores;
    return device;
  };
  plan::ClusterSpec cluster;
  cluster.nodes = {{"here", {cpu("EPYC", 0)}}, {"there", {cpu("EPYC", 0)}}};
  plan::Node local{"here", {cpu("EPYC", 8)}};
  local.devices[0].multiplies_in_bf16 = false;
  take_cores(local, &cluster);
  EXPECT_EQ(cluster.nodes[0].devices[0].cores, 8);
  EXPECT_FALSE(cluster.nodes[0].devices[0].multiplies_in_bf16);
  EXPECT_EQ(cluster.nodes[1].devices[0].cores, 0);
}

TEST(SubmitRequest, CarriesTheWholeSpecSoThatItReadsBackTheSame) {
  spec::JobSpec job = demo();
  job.training.learning_rate = 0.1;  // no finite binary fraction
  job.training.max_steps = 17;
  settle_paths(Globals{.state_dir = "/state"}, &job);
  const wire::Envelope envelope = submit_request(job, two_ranks(), "local");
  ASSERT_TRUE(envelope.has_submit());
  const wire::SubmitRequest& request = envelope.submit();
  const spec::Parsed back = spec::parse_yaml(request.spec_yaml(), "spec.yaml");
  ASSERT_TRUE(back.ok()) << request.spec_yaml();
  EXPECT_TRUE(back.job == job) << request.spec_yaml();
  EXPECT_EQ(request.max_steps(), 17);
  EXPECT_EQ(request.name(), "demo");
  EXPECT_EQ(request.launcher(), "local");
  EXPECT_EQ(request.working_dir(), std::filesystem::current_path().string());
}

TEST(SubmitRequest, CarriesPlanAndLayoutAsJson) {
  const wire::Envelope envelope = submit_request(demo(), two_ranks(), "local");
  const auto plan = nlohmann::json::parse(envelope.submit().plan_json());
  const auto layout = nlohmann::json::parse(envelope.submit().layout_json());
  EXPECT_EQ(plan["layout"], layout);
  EXPECT_EQ(layout["dp"], 2);
  EXPECT_EQ(plan["ranks"].size(), 3u);
}

TEST(SubmitRequest, GroupsRanksByNode) {
  const wire::Envelope envelope = submit_request(demo(), two_ranks(), "local");
  ASSERT_EQ(envelope.submit().nodes_size(), 2);
  const wire::NodePlacement& a = envelope.submit().nodes(0);
  const wire::NodePlacement& b = envelope.submit().nodes(1);
  EXPECT_EQ(a.node(), "a");
  EXPECT_EQ(std::vector<uint32_t>(a.ranks().begin(), a.ranks().end()), (std::vector<uint32_t>{1}));
  EXPECT_EQ(b.node(), "b");
  EXPECT_EQ(std::vector<uint32_t>(b.ranks().begin(), b.ranks().end()),
            (std::vector<uint32_t>{0, 2}));
}

TEST(SubmitRequest, EachHasAKeyOfItsOwn) {
  const auto key = [] {
    return submit_request(demo(), two_ranks(), "local").submit().request_key();
  };
  const std::string first = key();
  EXPECT_EQ(first.size(), 32u);
  EXPECT_NE(first, key());
}

TEST(SubmitRequest, AModelWithoutANameIsCalledJob) {
  spec::JobSpec job = demo();
  job.model.name.clear();
  EXPECT_EQ(submit_request(job, two_ranks(), "local").submit().name(), "job");
}

}  // namespace
}  // namespace dsv3::cli
