// The coordinator's own life: up, down, one per state folder, and what there is to say while there
// is none.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <memory>
#include <set>

#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

TEST(Coordinator, WithoutOneQuestionsExit3AndSayHowToStartOne) {
  const Home home;
  const Outcome outcome = home.ctl({"status"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("dsv3ctl up"), std::string::npos) << outcome.err;
  const Outcome as_json = home.ctl({"nodes", "--json"});
  EXPECT_EQ(as_json.code, 3);
  EXPECT_EQ(as_json.out, "");
  const Json object = Json::parse(as_json.err, nullptr, false);
  ASSERT_TRUE(object.is_object()) << as_json.err;
  expect_fields(object["error"], kError, "error");
  EXPECT_EQ(object["error"]["code"], "no_coordinator");
}

TEST(Coordinator, UpTwiceFindsTheFirst) {
  const Home home;
  const Json first = home.json({"up"});
  expect_fields(first, {{"started", "bool"}, {"pid", "int"}, {"state_dir", "string"}}, "up");
  EXPECT_EQ(first["started"], true);
  EXPECT_EQ(first["state_dir"], home.state_dir());
  const Json second = home.json({"up"});
  EXPECT_EQ(second["started"], false);
  EXPECT_EQ(second["pid"], first["pid"]);
  EXPECT_EQ(home.processes("dsv3d").size(), 1u);
}

TEST(Coordinator, UpsAtTheSameTimeAllFindTheOneThatCameFirst) {
  const Home home;
  std::vector<std::unique_ptr<Running>> ups;
  for (int i = 0; i < 4; ++i)
    ups.push_back(std::make_unique<Running>(home.ctl_words({"up", "--json"}), home.environment()));
  int started = 0;
  std::set<int64_t> pids;
  for (const auto& up : ups) {
    const Outcome outcome = up->finish(30);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const Json object = Json::parse(outcome.out);
    started += object["started"].get<bool>() ? 1 : 0;
    pids.insert(object["pid"].get<int64_t>());
  }
  EXPECT_EQ(pids.size(), 1u);
  EXPECT_EQ(started, 1);
}

TEST(Coordinator, ASecondOneOnTheSameStateIsAConflict) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const pid_t pid = home.coordinator_pid();
  const Outcome second = run(
      {std::string(DSV3_BIN_DIR) + "/dsv3d", "--state-dir", home.state_dir()}, home.environment());
  EXPECT_FALSE(second.timed_out) << "it went on beside the first";
  EXPECT_EQ(second.code, 7) << second.err;
  EXPECT_NE(second.err.find(home.state_dir()), std::string::npos) << second.err;
  EXPECT_EQ(home.coordinator_pid(), pid) << "the first must not notice";
}

TEST(Coordinator, DownLeavesNoProcessAndNoWayToIt) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const Outcome down = home.ctl({"down"});
  EXPECT_EQ(down.code, 0) << down.err;
  EXPECT_TRUE(home.processes().empty());
  EXPECT_EQ(home.ctl({"status"}).code, 3);
  EXPECT_EQ(home.ctl({"down"}).code, 3);
  const Json again = home.json({"up"});
  EXPECT_EQ(again["started"], true);
  const Json down_json = home.json({"down"});
  EXPECT_EQ(down_json["stopped"], true);
}

TEST(Coordinator, SigtermEndsItCleanly) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  ASSERT_EQ(::kill(home.coordinator_pid(), SIGTERM), 0);
  EXPECT_TRUE(wait_until([&] { return home.processes("dsv3d").empty(); }));
  EXPECT_EQ(home.ctl({"status"}).code, 3);
}

TEST(Coordinator, AnEmptyStatusSaysWhatToDo) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const Outcome status = home.ctl({"status"});
  EXPECT_EQ(status.code, 0);
  EXPECT_NE(status.out.find("dsv3ctl submit"), std::string::npos) << status.out;
  const Json object = home.json({"status"});
  EXPECT_TRUE(object["jobs"].is_array() && object["jobs"].empty()) << object;
  const Json nodes = home.json({"nodes"});
  ASSERT_EQ(nodes["nodes"].size(), 1u) << "this machine is known before its first job";
  EXPECT_EQ(nodes["nodes"][0]["state"], "IDLE");
  EXPECT_TRUE(nodes["nodes"][0]["last_heard_s"].is_null())
      << "no agent has been heard, which is not 0 seconds ago";
}

TEST(Coordinator, ARelativeStateDirIsTheSameFolderFromAnywhere) {
  const Home home;
  const std::string relative = std::filesystem::relative(home.path() + "/rel").string();
  const Json up = home.json({"--state-dir", relative, "up"});
  EXPECT_EQ(up["state_dir"], home.path() + "/rel");
  EXPECT_EQ(home.ctl({"--state-dir", home.path() + "/rel", "status"}).code, 0);
  EXPECT_EQ(home.ctl({"--state-dir", relative, "down"}).code, 0);
}

TEST(Coordinator, UpInTheForegroundStaysUntilASignal) {
  const Home home;
  Running up(home.ctl_words({"up", "--foreground"}), home.environment());
  EXPECT_TRUE(wait_until([&] { return home.ctl({"status"}).code == 0; }));
  EXPECT_EQ(home.coordinator_pid(), up.pid());
  ::kill(up.pid(), SIGTERM);
  EXPECT_EQ(up.finish(20).code, 0);
}

TEST(Coordinator, KeysAreForTheirOwnerOnly) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  int keys = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(home.state_dir() + "/keys")) {
    if (entry.path().extension() != ".key") continue;
    ++keys;
    EXPECT_EQ(entry.status().permissions(),
              std::filesystem::perms::owner_read | std::filesystem::perms::owner_write)
        << entry.path();
  }
  EXPECT_GT(keys, 0);
}

}  // namespace
}  // namespace dsv3::e2e
