// --hostfile in the verbs that plan: the same answer as --gpus, and what is refused.
#include <nlohmann/json.hpp>

#include "tests/unit/coordinator/cli/command_line.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::json;

TEST(HostfileOption, PlansOverTheHostsByTheirNames) {
  const TemporaryFolder folder;
  const auto plan_on = [&](const std::string& text) {
    overwrite(folder / "hosts", text);
    const Outcome outcome = command_line({"plan", "10b", "--hostfile", folder / "hosts", "--json"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Json::parse(outcome.out);
  };
  const Json counted = Json::parse(command_line({"plan", "10b", "--gpus", "8", "--json"}).out);
  const Json one = plan_on("node-a slots=8\n");
  EXPECT_EQ(one["layout"], counted["layout"]);
  const Json two = plan_on("node-a slots=4\nnode-b slots=4 # new\n");
  EXPECT_EQ(two["gpus"], 8);
  EXPECT_LE(two["layout"]["ep"], 4);  // experts are exchanged within a node
  EXPECT_EQ(two["ranks"][3]["node"], "node-a");
  EXPECT_EQ(two["ranks"][4]["node"], "node-b");
}

TEST(HostfileOption, RecommendsForWhatTheFilterLeaves) {
  const TemporaryFolder folder;
  overwrite(folder / "hosts", "a slots=8\nb slots=8\nc slots=4\n");
  const std::string hosts = folder / "hosts";
  const Outcome counted = command_line({"recommend", "--gpus", "16", "--gpu-memory", "80"});
  const Outcome listed =
      command_line({"recommend", "--hostfile", hosts, "--exclude", "c", "--gpu-memory", "80"});
  EXPECT_EQ(listed.code, 0) << listed.err;
  const auto above_next = [](const std::string& out) { return out.substr(0, out.find("\nnext")); };
  EXPECT_EQ(above_next(listed.out), above_next(counted.out));
  const Outcome uneven = command_line({"recommend", "--hostfile", hosts, "--gpu-memory", "80"});
  EXPECT_EQ(uneven.code, 2);
  EXPECT_TRUE(contains(uneven.err, "'c' 4")) << uneven.err;
  EXPECT_TRUE(contains(uneven.err, "--exclude")) << uneven.err;
}

// What it says to do next is about the same machines.
TEST(HostfileOption, TheNextCommandRepeatsTheHosts) {
  const TemporaryFolder folder;
  const std::string hosts = folder / "my hosts";
  overwrite(hosts, "a slots=8\nb slots=8\nc slots=4\n");
  const std::vector<std::string> words = {"recommend", "--hostfile", hosts,  "--include",
                                          "a@b",       "--gpu",      "h100", "--json"};
  const Outcome outcome = command_line(words);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json said = Json::parse(outcome.out);
  EXPECT_EQ(said["next"], "dsv3ctl plan " + said["config"].get<std::string>() + " --hostfile '" +
                              hosts + "' --include a@b --gpu h100");
  const Outcome plain = command_line({words.begin(), words.end() - 1});
  EXPECT_TRUE(contains(plain.out, said["next"].get<std::string>() + "\n")) << plain.out;
}

TEST(HostfileOption, AnEmptyWordIsRefused) {
  const TemporaryFolder folder;
  overwrite(folder / "hosts", "a slots=8\nb slots=8\n");
  const std::string hosts = folder / "hosts";
  for (const std::vector<std::string>& verb :
       {std::vector<std::string>{"plan", "10b"}, {"recommend", "--gpu-memory", "80"}}) {
    for (const char* option : {"--include", "--exclude", "--gpu", "--hostfile"}) {
      std::vector<std::string> words = verb;
      if (option != std::string("--hostfile")) words.insert(words.end(), {"--hostfile", hosts});
      words.insert(words.end(), {option, ""});
      const Outcome outcome = command_line(words);
      EXPECT_EQ(outcome.code, 2) << verb[0] << option;
      EXPECT_EQ(outcome.err,
                "dsv3ctl: " + std::string(option) + " is empty; give a value, or leave it out\n");
    }
  }
  EXPECT_EQ(command_line({"validate", "10b", "--gpu", ""}).code, 2);
}

TEST(HostfileOption, RefusesContradictionsAndNamesTheLine) {
  const TemporaryFolder folder;
  overwrite(folder / "hosts", "a slots=8\n-b slots=8\n");
  const std::string hosts = folder / "hosts";
  const Outcome bad = command_line({"plan", "10b", "--hostfile", hosts});
  EXPECT_EQ(bad.code, 2);
  EXPECT_TRUE(contains(bad.err, hosts + ":2:1: '-b' is no host")) << bad.err;
  EXPECT_EQ(command_line({"plan", "10b", "--hostfile", hosts, "--gpus", "8"}).code, 2);
  EXPECT_EQ(command_line({"plan", "10b", "--include", "a"}).code, 2);
  EXPECT_EQ(command_line({"plan", "10b", "--hostfile", "/nonexistent/hosts"}).code, 5);
  EXPECT_EQ(command_line({"plan", "10b", "--hostfile", folder.path()}).code, 2);
  const Outcome none = command_line({"recommend", "--gpu-memory", "80"});
  EXPECT_EQ(none.code, 2);
  EXPECT_TRUE(contains(none.err, "--gpus or --hostfile")) << none.err;
}

}  // namespace
}  // namespace dsv3::cli
