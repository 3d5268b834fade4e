// What the shells are told while a person types.
#include <algorithm>

#include "base/text.h"
#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

std::vector<std::string> candidates(std::vector<std::string> typed) {
  typed.insert(typed.begin(), {"--state-dir", "/nonexistent", "__complete", "--"});
  const Outcome outcome = command_line(typed);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  std::vector<std::string> lines = split(outcome.out, '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

bool has(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

TEST(Completion, OffersEveryVerbFirst) {
  const auto words = candidates({});
  for (const Verb& verb : all_verbs())
    EXPECT_EQ(has(words, verb.name), !verb.group.empty()) << verb.name;
}

TEST(Completion, OffersOptionsAndPresetsOfAVerb) {
  const auto words = candidates({"submit"});
  for (const char* word : {"--set", "--wait", "--dry-run", "--json", "--state-dir", "15b", "demo"})
    EXPECT_TRUE(has(words, word)) << word;
  EXPECT_FALSE(has(words, "bash"));
}

TEST(Completion, OffersTheChoicesOfAnOption) {
  EXPECT_TRUE(has(candidates({"submit", "--launcher"}), "slurm"));
  EXPECT_FALSE(has(candidates({"submit"}), "slurm"));
  EXPECT_TRUE(has(candidates({"explain"}), "model.moe.n_group"));
  EXPECT_TRUE(has(candidates({"submit", "--set"}), "training.max_steps"));
  EXPECT_TRUE(has(candidates({"completion"}), "zsh"));
  EXPECT_TRUE(has(candidates({"configs"}), "list"));
}

TEST(Completion, WithoutACoordinatorThereAreNoJobsAndNoComplaint) {
  const auto words = candidates({"logs"});
  EXPECT_TRUE(has(words, "--rank"));
  EXPECT_TRUE(has(words, "--follow"));
  for (const std::string& word : words) EXPECT_TRUE(word.starts_with("--")) << word;
}

TEST(Completion, AnUnknownVerbCompletesNothing) {
  EXPECT_TRUE(candidates({"nonsense"}).empty());
}

TEST(Completion, TypedOptionsAreWordsNotOptionsOfThisRun) {
  EXPECT_TRUE(
      has(candidates({"submit", "demo", "--set", "training.max_steps=5", "--json"}), "--wait"));
}

TEST(Completion, EachShellGetsAScriptThatAsksBack) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = command_line({"completion", shell});
    EXPECT_EQ(outcome.code, 0) << shell;
    EXPECT_TRUE(contains(outcome.out, " __complete -- ")) << shell;
  }
}

TEST(Completion, OfTheNewestVerbs) {
  const auto verbs = candidates({});
  for (const char* verb : {"resume", "import", "export", "score", "doctor", "man"})
    EXPECT_TRUE(has(verbs, verb)) << verb;
  EXPECT_EQ(candidates({"export", "--format"}), (std::vector<std::string>{"hf"}));
  EXPECT_TRUE(has(candidates({"data"}), "prepare"));
  EXPECT_TRUE(has(candidates({"man"}), "config"));
  EXPECT_FALSE(has(candidates({"man"}), "__complete"));
}

TEST(Completion, AnOptionThatWaitsForAFileLeavesItToTheShell) {
  EXPECT_TRUE(candidates({"import", "--out"}).empty());
  EXPECT_TRUE(candidates({"status", "--state-dir"}).empty());
  EXPECT_TRUE(has(candidates({"import", "--out", "x"}), "--out"));
}

TEST(Completion, OptionsOfEveryVerbMayStandBeforeIt) {
  EXPECT_TRUE(has(candidates({"--json", "submit", "--launcher"}), "local"));
  EXPECT_TRUE(has(candidates({"--state-dir", "/x", "submit", "--launcher"}), "local"));
  EXPECT_TRUE(has(candidates({"--state-dir=/x", "submit", "--launcher"}), "local"));
}

}  // namespace
}  // namespace dsv3::cli
