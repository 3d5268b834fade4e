// What the command line refuses, and how it says so. Nothing here reaches a coordinator.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::json;

// An empty folder: no coordinator can be running there.
struct EmptyStateDir {
  EmptyStateDir() {
    path = testing::TempDir() + "dsv3-cli-XXXXXX";
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
  }
  ~EmptyStateDir() { std::filesystem::remove_all(path); }
  std::string path;
};

TEST(CommandLine, AnUnknownVerbNamesTheNearestOne) {
  const Outcome outcome = command_line({"statsu"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "dsv3ctl: unknown command 'statsu'; did you mean 'status'?\n");
  EXPECT_EQ(outcome.out, "");
}

TEST(CommandLine, AnUnknownVerbFarFromAllPointsToTheHelp) {
  const Outcome outcome = command_line({"xyzzyplugh"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "dsv3ctl: unknown command 'xyzzyplugh'; see 'dsv3ctl --help'\n");
}

TEST(CommandLine, NoVerbIsAUsageError) {
  const Outcome outcome = command_line({});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(contains(outcome.err, "dsv3ctl --help")) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

TEST(CommandLine, AMissingFileIsNamed) {
  for (const char* verb : {"submit", "validate", "params", "plan"}) {
    const Outcome outcome = command_line({verb});
    EXPECT_EQ(outcome.code, 2) << verb;
    EXPECT_TRUE(contains(outcome.err, "FILE is required")) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, std::string("dsv3ctl ") + verb + " --help")) << outcome.err;
    EXPECT_EQ(outcome.out, "") << verb;
  }
}

TEST(CommandLine, ABadNumberIsShownWithItsOption) {
  const Outcome outcome = command_line({"plan", "15b", "--gpus", "x"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(contains(outcome.err, "--gpus")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "x")) << outcome.err;
  EXPECT_EQ(command_line({"wait", "demo-1", "--timeout", "soon"}).code, 2);
  EXPECT_EQ(command_line({"experts", "demo-1", "--step", "1.5"}).code, 2);
}

TEST(CommandLine, AGraceIsSecondsAndNotNegative) {
  for (const char* value : {"-1", "nan", "soon"}) {
    const Outcome outcome = command_line({"cancel", "demo-1", "--grace", value});
    EXPECT_EQ(outcome.code, 2) << value << ": " << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "--grace")) << outcome.err;
  }
}

TEST(CommandLine, AnUnknownOptionAndAnUnknownChoiceAreRefused) {
  EXPECT_EQ(command_line({"status", "--jsno"}).code, 2);
  const Outcome launcher = command_line({"submit", "demo", "--launcher", "kubernetes"});
  EXPECT_EQ(launcher.code, 2);
  EXPECT_TRUE(contains(launcher.err, "kubernetes")) << launcher.err;
  EXPECT_EQ(command_line({"completion", "tcsh"}).code, 2);
}

TEST(CommandLine, AUsageErrorIsAnObjectWithJson) {
  const Outcome outcome = command_line({"--json", "statsu"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  const Json error = Json::parse(outcome.err, nullptr, false);
  ASSERT_TRUE(error.is_object()) << outcome.err;
  const Json file = Json::parse(command_line({"submit", "--json"}).err, nullptr, false);
  ASSERT_TRUE(file.is_object());
  for (const char* field : {"code", "message", "hint", "where"})
    EXPECT_TRUE(file["error"].contains(field)) << field;
  EXPECT_EQ(file["error"]["code"], "invalid");
}

TEST(CommandLine, ThereIsHelpWithAnExampleForEveryVerb) {
  for (const Verb& verb : all_verbs()) {
    if (verb.group.empty()) continue;  // hidden
    const Outcome outcome = command_line({verb.name, "--help"});
    EXPECT_EQ(outcome.code, 0) << verb.name;
    EXPECT_EQ(outcome.err, "") << verb.name;
    EXPECT_TRUE(contains(outcome.out, "\n  dsv3ctl " + verb.name) ||
                contains(outcome.out, "dsv3ctl " + verb.name + " "))
        << verb.name;
    EXPECT_FALSE(verb.summary.empty()) << verb.name;
  }
}

TEST(CommandLine, TheOverviewNamesEveryVerbButTheHiddenOnes) {
  const Outcome outcome = command_line({"--help"});
  EXPECT_EQ(outcome.code, 0);
  for (const Verb& verb : all_verbs()) {
    EXPECT_EQ(contains(outcome.out, "\n  " + verb.name + " "), !verb.group.empty()) << verb.name;
  }
}

TEST(CommandLine, TheVersionIsOneLineOnStdout) {
  const Outcome outcome = command_line({"--version"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_TRUE(outcome.out.starts_with("dsv3ctl ")) << outcome.out;
  EXPECT_EQ(split(outcome.out, '\n').size(), 2u) << outcome.out;
}

TEST(CommandLine, EveryVerbThatNeedsACoordinatorSaysHowToStartOne) {
  const EmptyStateDir dir;
  const std::vector<std::vector<std::string>> lines = {{"status"},
                                                       {"status", "demo-1"},
                                                       {"nodes"},
                                                       {"sql", "SELECT 1"},
                                                       {"down"},
                                                       {"logs", "demo-1"},
                                                       {"metrics", "demo-1"},
                                                       {"events", "demo-1"},
                                                       {"experts", "demo-1"},
                                                       {"wait", "demo-1"},
                                                       {"cancel", "demo-1"},
                                                       {"resume", "demo-1"},
                                                       {"checkpoint", "demo-1"}};
  for (const auto& line : lines) {
    std::vector<std::string> words = {"--state-dir", dir.path};
    words.insert(words.end(), line.begin(), line.end());
    const Outcome outcome = command_line(words);
    EXPECT_EQ(outcome.code, 3) << line[0];
    EXPECT_EQ(outcome.out, "") << line[0];
    EXPECT_TRUE(contains(outcome.err, dir.path)) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "dsv3ctl up")) << outcome.err;
    words.emplace_back("--json");
    const Json error = Json::parse(command_line(words).err, nullptr, false);
    ASSERT_TRUE(error.is_object()) << line[0];
    EXPECT_EQ(error["error"]["code"], "no_coordinator") << line[0];
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path))
      << "a question left something in the state folder";
}

TEST(CommandLine, OptionsMayStandBeforeAndBehindTheVerb) {
  const EmptyStateDir dir;
  EXPECT_EQ(command_line({"status", "--state-dir", dir.path}).code, 3);
  EXPECT_EQ(command_line({"--state-dir", dir.path, "status"}).code, 3);
  EXPECT_EQ(command_line({"--state-dir=" + dir.path, "status"}).code, 3);
}

TEST(CommandLine, DataWithoutItsCommandIsAUsageError) {
  const Outcome outcome = command_line({"data", "perpare", "--input", "x"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(contains(outcome.err, "unknown data command 'perpare'")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "dsv3ctl data prepare")) << outcome.err;
  EXPECT_EQ(command_line({"data"}).code, 2);
}

}  // namespace
}  // namespace dsv3::cli
