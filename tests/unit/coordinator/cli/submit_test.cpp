// What `submit` sends: absolute paths, the whole resolved spec, the plan and the placement of its
// ranks.
#include "coordinator/cli/submit.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "configs/spec/parse.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "tests/unit/coordinator/cli/command_line.h"

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
