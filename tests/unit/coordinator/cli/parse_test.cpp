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
  EXPECT_TRUE(contains(outcome.err, "Usage: dsv3ctl COMMAND")) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

TEST(CommandLine, HelpAndVersionAreWordsToo) {
  EXPECT_EQ(command_line({"help"}).out, command_line({"--help"}).out);
  EXPECT_EQ(command_line({"help", "submit"}).out, command_line({"submit", "--help"}).out);
  EXPECT_EQ(command_line({"version"}).out, command_line({"--version"}).out);
  EXPECT_EQ(command_line({"help", "sumbit"}).err,
            "dsv3ctl: unknown command 'sumbit'; did you mean 'submit'?\n");
}

TEST(CommandLine, AnUnknownOptionNamesTheNearestOne) {
  EXPECT_EQ(command_line({"submit", "demo", "--st", "a=1"}).err,
            "dsv3ctl: unknown option '--st'; did you mean '--set'?\n");
  EXPECT_EQ(command_line({"plan", "demo", "--gpsu=8"}).err,
            "dsv3ctl: unknown option '--gpsu'; did you mean '--gpus'?\n");
  EXPECT_EQ(command_line({"-v"}).err, "dsv3ctl: unknown option '-v'; see 'dsv3ctl --help'\n");
  EXPECT_EQ(command_line({"status", "a", "b"}).code, 2);
}

TEST(CommandLine, AKeyOfAnotherSectionIsNamedWhole) {
  const auto said = [](const char* set) {
    return command_line({"validate", "demo", "--set", set}).err;
  };
  EXPECT_TRUE(contains(said("tensor_parallel_size=2"), "'parallel.tensor_parallel_size'"));
  EXPECT_TRUE(contains(said("moe.n_grup=2"), "'model.moe.n_group'"));
  EXPECT_TRUE(contains(said("training.max_step=2"), "'max_steps'"));
}

TEST(CommandLine, ANumberAndAChoiceSayWhatTheyTake) {
  EXPECT_TRUE(contains(command_line({"plan", "15b", "--gpus", "eight"}).err,
                       "--gpus takes a number, not 'eight'"));
  EXPECT_TRUE(
      contains(command_line({"completion", "tcsh"}).err, "'tcsh' is not one of bash, zsh, fish"));
}

TEST(CommandLine, AMissingWordComesWithAnExample) {
  EXPECT_EQ(command_line({"logs"}).err,
            "dsv3ctl: JOB is required; for example 'dsv3ctl logs demo-1'; see 'dsv3ctl logs "
            "--help'\n");
}

TEST(CommandLine, AnUnknownGpuIsRefusedEverywhere) {
  const Outcome plan = command_line({"plan", "10b", "--gpus", "8", "--gpu", "b101"});
  EXPECT_EQ(plan.code, 2);
  EXPECT_TRUE(contains(plan.err, "the GPU 'b101' is not known")) << plan.err;
  EXPECT_TRUE(contains(plan.err, "did you mean 'b100'?")) << plan.err;
  EXPECT_EQ(command_line({"validate", "10b", "--gpus", "8", "--gpu", "abacus"}).code, 2);
  const Outcome choice =
      command_line({"recommend", "--gpus", "8", "--gpu-memory", "80", "--gpu", "h101"});
  EXPECT_EQ(choice.code, 2);
  EXPECT_TRUE(contains(choice.err, "did you mean 'h100'?")) << choice.err;
}

TEST(CommandLine, AnUnknownGpuIsOneSentenceForPlanAndRecommend) {
  const std::string said = "dsv3ctl: --gpu: the GPU 'h10' is not known; did you mean 'h100'?\n";
  EXPECT_EQ(command_line({"plan", "10b", "--gpus", "8", "--gpu", "h10"}).err, said);
  EXPECT_EQ(command_line({"recommend", "--gpus", "8", "--gpu", "h10"}).err, said);
  EXPECT_EQ(command_line({"recommend", "--gpu", "h10"}).err, said);
}

TEST(CommandLine, AGpuThatIsKnownBringsItsMemory) {
  const Outcome named = command_line({"recommend", "--gpus", "8", "--gpu", "h100", "--json"});
  EXPECT_EQ(named.code, 0) << named.err;
  const Json said = Json::parse(named.out);
  EXPECT_EQ(said["next"], "dsv3ctl plan 10b --gpus 8 --gpu h100");
  const Outcome sized = command_line({"recommend", "--gpus", "8", "--gpu-memory", "80", "--json"});
  EXPECT_EQ(said["reason"], Json::parse(sized.out)["reason"]);
  const auto predicted_for = [](const char* gpu, const char* memory) {
    return Json::parse(
        command_line({"recommend", "--gpus", "8", "--gpu", gpu, "--gpu-memory", memory, "--json"})
            .out)["predicted"];
  };
  for (const auto& [gpu, memory] : {std::pair{"a100-40", "40"}, {"NVIDIA A100 80GB PCIe", "80"}}) {
    const Outcome open = command_line({"recommend", "--gpus", "8", "--gpu", gpu, "--json"});
    ASSERT_EQ(open.code, 0) << open.err;
    EXPECT_EQ(Json::parse(open.out)["predicted"], predicted_for(gpu, memory)) << gpu;
  }
  EXPECT_EQ(command_line({"recommend", "--gpus", "8", "--gpu", "RTX 3080"}).code, 2);
  const Outcome open = command_line({"recommend", "--gpus", "8", "--gpu", "v100"});
  EXPECT_EQ(open.code, 2);
  EXPECT_TRUE(contains(open.err, "--gpu v100 needs --gpu-memory")) << open.err;
  const Outcome none = command_line({"recommend", "--gpus", "8"});
  EXPECT_EQ(none.code, 2);
  EXPECT_TRUE(contains(none.err, "--gpu-memory or --gpu is required")) << none.err;
  EXPECT_TRUE(contains(command_line({"recommend", "--help"}).out, "--budget WORD|USD"));
}

TEST(CommandLine, GpusOfAPlanNeedTheirNumber) {
  const Outcome outcome = command_line({"plan", "15b", "--gpu-memory", "80"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(contains(outcome.err, "--gpu-memory needs --gpus N or --hostfile FILE"))
      << outcome.err;
}

TEST(CommandLine, WhatPeopleReadFits80Columns) {
  const std::vector<std::vector<std::string>> lines = {
      {"explain", "model.moe"},
      {"explain"},
      {"explain", "parallel"},
      {"params", "671b"},
      {"configs", "list"},
      {"recommend", "--gpus", "8", "--gpu-memory", "80"},
      {"recommend", "--gpus", "1", "--gpu-memory", "8"},
      {"plan", "15b", "--gpus", "8"},
      {"plan", "15b", "--gpus", "1"}};
  for (const auto& words : lines) {
    for (const std::string& line : split(command_line(words).out, '\n'))
      EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }),
                80)
          << words[0] << ": " << line;
  }
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
