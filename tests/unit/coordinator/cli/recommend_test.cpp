// recommend, migrate and plan --sweep as commands: bad input, contradictions, and the fields that
// CLI.md promises.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/text.h"
#include "configs/spec/parse.h"
#include "tests/unit/coordinator/cli/command_line.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(RecommendCommand, The32GpuAnswerSaysWhyTheTableIsWrong) {
  const Outcome outcome = command_line({"recommend", "--gpus", "32", "--gpu-memory", "80"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.starts_with("20b\n")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "671b") && contains(outcome.out, "GiB")) << outcome.out;
}

TEST(RecommendCommand, JsonHasTheFieldsOfTheInterface) {
  const Outcome outcome =
      command_line({"recommend", "--gpus", "32", "--gpu", "h100", "--tokens", "300B", "--use-case",
                    "frontier", "--price", "2.5", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json said = Json::parse(outcome.out);
  EXPECT_EQ(said["schema_version"], 1);
  EXPECT_EQ(said["config"], "20b");
  EXPECT_EQ(said["table_choice"], "671b");
  EXPECT_EQ(said["fits"], true);
  EXPECT_EQ(said["tokens"], 300'000'000'000);
  EXPECT_EQ(said["larger"], "671b");
  EXPECT_GT(said["gpus_needed_for_larger"], 32);
  EXPECT_EQ(said["table"]["by_hardware"], "671b");
  EXPECT_EQ(said["table"]["by_use_case"], Json::array({"671b"}));
  EXPECT_EQ(said["table"]["by_budget"], Json::array());
  EXPECT_EQ(said["hardware"]["gpus"], 32);
  EXPECT_TRUE(said["layout"].is_object() && said["predicted"].is_object());
  EXPECT_TRUE(said["predicted"]["days"].is_number()) << said["predicted"];
  ASSERT_TRUE(said["predicted"]["cost_usd"].is_number());
  EXPECT_NEAR(said["predicted"]["cost_usd"].get<double>(),
              said["predicted"]["days"].get<double>() * 24 * 32 * 2.5, 1);
  for (const char* field : {"reason", "alternatives", "rejected", "next"})
    EXPECT_TRUE(said.contains(field)) << field;
}

TEST(RecommendCommand, WhatCannotBeIsRefusedInOneSentence) {
  struct Case {
    Words words;
    int code;
    const char* part;
  };
  const Case cases[] = {
      {{"--gpus", "0", "--gpu-memory", "80"}, 2, "--gpus"},
      {{"--gpus", "-8", "--gpu-memory", "80"}, 2, "--gpus"},
      {{"--gpus", "1000000000", "--gpu-memory", "80"}, 2, "--gpus"},
      {{"--gpus", "eight", "--gpu-memory", "80"}, 2, "takes a number"},
      {{"--gpus", "8", "--gpu-memory", "0"}, 2, "--gpu-memory"},
      {{"--gpus", "8", "--gpu-memory", "-1"}, 2, "--gpu-memory"},
      {{"--gpus", "8", "--gpu-memory", "1e9"}, 2, "--gpu-memory"},
      {{"--gpus", "8", "--gpu-memory", "much"}, 2, "takes a number"},
      {{"--gpus", "8", "--gpu", "h10"}, 2, "did you mean 'h100'?"},
      {{"--gpus", "8", "--gpu", "a100"}, 2, "--gpu-memory GB"},
      {{"--gpu", "h100"}, 2, "--gpu needs --gpus or --hostfile"},
      {{"--gpus", "8", "--gpu", "a100-40", "--gpu-memory", "80"}, 2, "has 40 GB"},
      {{"--gpus", "8", "--gpus", "16", "--gpu", "h100"}, 2, "--gpus is given 2 times"},
      {{"--gpus", "8", "--gpu", "h100", "--use-case", "fun"}, 2, "'fun' is not one of learning"},
      {{"--gpus", "8", "--gpu", "h100", "--budget", "hgih"}, 2, "did you mean 'high'?"},
      {{"--gpus", "8", "--gpu", "h100", "--budget", "-5"}, 2, "--budget takes"},
      {{"--gpus", "8", "--gpu", "h100", "--budget", "0"}, 2, "--budget takes"},
      {{"--gpus", "8", "--gpu", "h100", "--budget", ""}, 2, "--budget is empty"},
      {{"--gpus", "8", "--gpu", "h100", "--budget", "low", "--budget", "20K"}, 2, "given 2 times"},
      {{"--gpus", "8", "--gpu", "h100", "--tokens", "many"}, 2, "--tokens takes a number"},
      {{"--gpus", "8", "--gpu", "h100", "--tokens", "0"}, 2, "out of range"},
      {{"--gpus", "8", "--gpu", "h100", "--tokens", "1e40"}, 2, "out of range"},
      {{"--gpus", "8", "--gpu", "h100", "--price", "0"}, 2, "--price"},
      {{"--gpus", "8", "--gpu-memory", "80", "--hostfile", "hosts"}, 2, "together"},
      {{"--gpus", "1", "--gpu-memory", "8"}, 6, ""},
      {{"--gpus", "8", "--gpu", "h100", "--budget", "1"}, 6, ""},
  };
  for (const Case& c : cases) {
    Words words = {"recommend"};
    words.insert(words.end(), c.words.begin(), c.words.end());
    const Outcome outcome = command_line(words);
    std::string line;
    for (const std::string& word : c.words) line += word + " ";
    EXPECT_EQ(outcome.code, c.code) << line << outcome.err;
    EXPECT_TRUE(contains(outcome.err, c.part)) << line << outcome.err;
    if (c.code == 2) {
      EXPECT_EQ(outcome.out, "") << line;
    }
    if (c.code == 2) {
      EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    }
  }
}

TEST(RecommendCommand, TheLargerOneIsSaidInOneSentenceAndItsNumberIsNotThere) {
  const Json said =
      Json::parse(command_line({"recommend", "--gpus", "24", "--gpu-memory", "80", "--json"}).out);
  EXPECT_EQ(said["larger"], "671b");
  EXPECT_GE(said["gpus_needed_for_larger"], 96);
  EXPECT_EQ(said["gpus_used"], 24);
  const Outcome text = command_line({"recommend", "--gpus", "24", "--gpu-memory", "80"});
  EXPECT_TRUE(contains(text.out, "larger       671b: the table asks for 32 x 80 GB")) << text.out;
  const Json one =
      Json::parse(command_line({"recommend", "--gpus", "1", "--gpu-memory", "16", "--json"}).out);
  EXPECT_EQ(one["larger"], "1b");
  EXPECT_TRUE(one["gpus_needed_for_larger"].is_null() || one["gpus_needed_for_larger"] > 1) << one;
}

TEST(RecommendCommand, NothingFitsNamesTheSmallestThatWould) {
  const Outcome outcome = command_line({"recommend", "--gpus", "1", "--gpu-memory", "4", "--json"});
  EXPECT_EQ(outcome.code, 6);
  const Json said = Json::parse(outcome.out);
  EXPECT_EQ(said["error"], "NO_CONFIG_FITS");
  EXPECT_TRUE(said["config"].is_null() && said["next"].is_null());
  EXPECT_TRUE(contains(said["reason"].get<std::string>(), "small")) << said["reason"];
  EXPECT_TRUE(contains(said["reason"].get<std::string>(), "x 4 GB")) << said["reason"];
}

// Without a coordinator and without a GPU (this machine may have one: then a preset is named).
TEST(RecommendCommand, WithoutWordsItLooksAtThisMachineAndNeverAsks) {
  const TemporaryFolder folder;
  const Outcome outcome = command_line({"--state-dir", folder / "state", "recommend", "--json"});
  const Json said = Json::parse(outcome.out);
  EXPECT_EQ(said["hardware"]["from"], "this machine");
  if (said["hardware"]["gpus"] == 0) {
    EXPECT_EQ(outcome.code, 0) << outcome.out;
    EXPECT_EQ(said["config"], "demo");
    EXPECT_TRUE(contains(said["reason"].get<std::string>(), "no GPUs")) << said["reason"];
    EXPECT_EQ(said["next"], "dsv3ctl submit demo --wait");
  }
}

TEST(MigrateCommand, WritesAFileThatLoadsAndFitsAndIsNotOverwritten) {
  const TemporaryFolder folder;
  const std::string file = folder / "5b-here.yaml";
  const Words words = {"migrate", "1b", "5b", "--gpus", "8", "--gpu", "a100-40", "--out", file};
  const Outcome first = command_line(words);
  ASSERT_EQ(first.code, 0) << first.err;
  const auto loaded = spec::load_valid(file);
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_EQ(loaded->model.name, "5b");
  EXPECT_GE(loaded->parallel.tensor_parallel_size, 1) << "settled";
  EXPECT_EQ(command_line({"plan", file, "--gpus", "8", "--gpu", "a100-40"}).code, 0);
  const std::string text = text_of(file);
  EXPECT_TRUE(contains(text, "#   model.vocab_size: 32768 -> 65536 (another vocabulary")) << text;
  const Outcome again = command_line(words);
  EXPECT_EQ(again.code, 7);
  EXPECT_TRUE(contains(again.err, "--force")) << again.err;
  EXPECT_EQ(text_of(file), text);
  Words forced = words;
  forced.emplace_back("--force");
  EXPECT_EQ(command_line(forced).code, 0);
}

TEST(MigrateCommand, JsonSaysEachChangeWithItsReason) {
  const Outcome outcome = command_line({"migrate", "1b", "5b", "--gpus", "8", "--gpu", "h100",
                                        "--set", "training.seq_length=8192", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json said = Json::parse(outcome.out);
  EXPECT_EQ(said["feasible"], true);
  EXPECT_EQ(said["checkpoints_carry_over"], false);
  EXPECT_TRUE(said["file"].is_null());
  bool sequence = false;
  for (const Json& change : said["changes"]) {
    EXPECT_FALSE(change["why"].get<std::string>().empty()) << change;
    sequence = sequence || (change["key"] == "training.seq_length" && change["to"] == "8192");
  }
  EXPECT_TRUE(sequence);
  EXPECT_GE(said["advice"].size(), 6u);
}

TEST(MigrateCommand, WhatDoesNotFitIsSaidAndNotWritten) {
  const TemporaryFolder folder;
  const std::string file = folder / "671b.yaml";
  const Outcome told = command_line({"migrate", "20b", "671b", "--gpus", "32", "--gpu", "h100"});
  EXPECT_EQ(told.code, 6) << told.err;
  EXPECT_TRUE(contains(told.out, "it needs")) << told.out;
  const Outcome refused =
      command_line({"migrate", "20b", "671b", "--gpus", "32", "--gpu", "h100", "--out", file});
  EXPECT_EQ(refused.code, 6);
  EXPECT_TRUE(contains(refused.err, "GPUs would hold it")) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(MigrateCommand, ToItselfNothingChanges) {
  const Outcome here = command_line({"migrate", "1b", "1b", "--gpus", "2", "--gpu", "h100"});
  EXPECT_EQ(here.code, 0) << here.err;
  EXPECT_TRUE(contains(here.out, "nothing changes")) << here.out;
  EXPECT_FALSE(contains(here.out, "learning_rate")) << here.out;
}

TEST(MigrateCommand, AFolderAsOutIsNamedAndNoTemporaryNameIs) {
  const TemporaryFolder folder;
  const auto to = [](const std::string& out) {
    return command_line({"migrate", "1b", "5b", "--gpus", "8", "--gpu", "h100", "--out", out});
  };
  const Outcome is_folder = to(folder / "");
  EXPECT_EQ(is_folder.code, 2);
  EXPECT_TRUE(contains(is_folder.err, "is a folder")) << is_folder.err;
  const Outcome no_folder = to(folder / "none/x.yaml");
  EXPECT_EQ(no_folder.code, 5);
  EXPECT_TRUE(contains(no_folder.err, "there is no folder")) << no_folder.err;
  std::ofstream(folder / "file") << "text";
  const Outcome below_file = to(folder / "file/x.yaml");
  EXPECT_NE(below_file.code, 0);
  for (const Outcome& outcome : {is_folder, no_folder, below_file})
    EXPECT_FALSE(contains(outcome.err, ".tmp.")) << outcome.err;
}

TEST(MigrateCommand, BadInput) {
  const TemporaryFolder folder;
  const std::string llama = folder / "config.json";
  std::ofstream(llama) << R"({"model_type": "llama", "hidden_size": 4096})";
  const std::vector<std::pair<Words, int>> cases = {
      {{"1b"}, 2},
      {{"1b", "nosuch"}, 5},
      {{"1b", "5b", "--gpus", "0"}, 2},
      {{"1b", "5b", "--gpus", "8", "--gpu", "h10"}, 2},
      {{"1b", "5b", "--gpu", "h100"}, 2},
      {{"1b", "5b", "--gpus", "8", "--out", ""}, 2},
      {{"1b", "5b", "--gpus", "8", "--set", "training.nosuch=1"}, 2},
      {{"1b", "5b", "--gpus", "8", "--set", "model.moe.num_experts_per_token=99"}, 2},
      {{llama, "5b", "--gpus", "8"}, 2},
      {{"1b", llama, "--gpus", "8"}, 2},
      {{"1b", "5b", "--gpus", "8", "--gpu", "h100", "--out", "/nonexistent/x.yaml"}, 5},
  };
  for (const auto& [more, code] : cases) {
    Words words = {"migrate"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = command_line(words);
    std::string line;
    for (const std::string& word : more) line += word + " ";
    EXPECT_EQ(outcome.code, code) << line << outcome.err;
    EXPECT_FALSE(outcome.err.empty()) << line;
  }
}

TEST(SweepCommand, TableJsonAndCsvHaveTheSameRows) {
  const Words words = {"plan", "671b", "--gpus", "128..512", "--gpu", "h100", "--sweep"};
  const Outcome table = command_line(words);
  ASSERT_EQ(table.code, 0) << table.err;
  for (const std::string& line : split(table.out, '\n'))
    EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }),
              80)
        << line;
  EXPECT_TRUE(contains(table.out, "From 128 to 512 GPUs")) << table.out;
  EXPECT_TRUE(contains(table.out, "6335 h (what Llama 3's 419 interruptions")) << table.out;
  Words with = words;
  with.emplace_back("--json");
  const Json said = Json::parse(command_line(with).out);
  ASSERT_EQ(said["rows"].size(), 5u);  // 128 192 256 384 512
  with.back() = "--csv";
  const auto lines = split(command_line(with).out, '\n');
  ASSERT_EQ(lines.size(), 7u);
  for (size_t i = 0; i < 5; ++i)
    EXPECT_TRUE(lines[i + 1].starts_with(said["rows"][i]["gpus"].dump() + ",")) << lines[i + 1];
  EXPECT_GT(said["rows"][4]["effective_time_ratio"], 0.5);
  EXPECT_GT(said["rows"][4]["effective_days"], said["rows"][4]["predicted"]["days"]);
}

// The layout of each number stands below its line, whole.
TEST(SweepCommand, LayoutsAreNotCut) {
  const Outcome table = command_line({"plan", "671b", "--gpus", "512", "--gpu", "h100", "--sweep"});
  const auto csv = split(
      command_line({"plan", "671b", "--gpus", "512", "--gpu", "h100", "--sweep", "--csv"}).out,
      '\n');
  const std::string layout = split(csv[1], ',')[3];
  std::string words;  // without line breaks and the blanks around them
  for (const std::string& word : split(table.out, '\n'))
    words += " " + word.substr(std::min(word.size(), word.find_first_not_of(' ')));
  EXPECT_TRUE(contains(words, layout)) << table.out;
}

TEST(SweepCommand, MoreFailuresAreLessEffectiveAndNothingFitsIs6) {
  const auto ratio = [](const char* mtbf) {
    const Outcome outcome = command_line(
        {"plan", "671b", "--gpus", "512", "--gpu", "h100", "--sweep", "--mtbf", mtbf, "--json"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Json::parse(outcome.out)["rows"][0]["effective_time_ratio"].get<double>();
  };
  EXPECT_LT(ratio("500"), ratio("50000"));
  EXPECT_EQ(command_line({"plan", "671b", "--gpus", "8..16", "--gpu", "h100", "--sweep"}).code, 6);
}

}  // namespace
}  // namespace dsv3::cli
