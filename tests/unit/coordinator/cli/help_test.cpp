// The help of every verb in the table: its width, its examples, its exit codes. The examples of the
// offline verbs are run.
#include "coordinator/cli/help.h"

#include <algorithm>

#include "base/status.h"
#include "base/text.h"
#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

int columns_of(const std::string& line) {
  return static_cast<int>(
      std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

void expect_narrow(const std::string& text, const std::string& of) {
  for (const std::string& line : split(text, '\n'))
    EXPECT_LE(columns_of(line), 80) << of << ": " << line;
}

TEST(Help, FitsATerminalOf80Columns) {
  expect_narrow(command_line({"--help"}).out, "the overview");
  for (const Verb& verb : all_verbs())
    expect_narrow(command_line({verb.name, "--help"}).out, verb.name);
}

TEST(Help, HasAnExampleOfItsVerb) {
  for (const Verb& verb : all_verbs()) {
    if (verb.group.empty()) continue;
    const std::string out = command_line({verb.name, "--help"}).out;
    EXPECT_TRUE(contains(out, "xample")) << verb.name;
    EXPECT_TRUE(contains(out, "dsv3ctl " + verb.name)) << verb.name;
    EXPECT_TRUE(contains(out, "Usage: dsv3ctl " + verb.name)) << verb.name;
    for (const Option& option : verb.options)
      EXPECT_TRUE(contains(out, "\n  " + option_words(option))) << verb.name << " " << option.name;
  }
}

// Each example line of a verb that needs no coordinator, without what a shell would do with it.
TEST(Help, ExamplesOfOfflineVerbsWork) {
  int tried = 0;
  for (const Verb& verb : all_verbs()) {
    const std::vector<std::string> offline = {"configs", "params",   "plan", "recommend",
                                              "explain", "validate", "man",  "completion"};
    if (std::find(offline.begin(), offline.end(), verb.name) == offline.end()) continue;
    for (const std::string& line : split(verb.help, '\n')) {
      if (!line.starts_with("  dsv3ctl ")) continue;
      std::vector<std::string> words;
      for (const std::string& word : split(line.substr(10), ' ')) {
        if (word == "|" || word == ">") break;
        if (word.empty() && !words.empty()) break;  // a remark follows
        words.push_back(word);
      }
      // Files of the reader's, and what would write some.
      if (contains(line, "config.json") || contains(line, "--hostfile hosts")) continue;
      if (contains(line, "--out ")) continue;
      if (contains(line, "configs/")) continue;  // found from the repository's root
      const Outcome outcome = command_line(words);
      ++tried;
      const bool by_design = contains(line, "n_group=7") || verb.name == "plan";  // 2 or 6
      if (!by_design) {
        EXPECT_EQ(outcome.code, 0) << line << ": " << outcome.err;
      }
      EXPECT_FALSE(outcome.out.empty()) << line;
    }
  }
  EXPECT_GE(tried, 12);
}

// The type of a value is not its meaning: only --set takes KEY=VALUE.
TEST(Help, SaysWhatAValueIs) {
  for (const Verb& verb : all_verbs())
    for (const Option& option : verb.options)
      EXPECT_EQ(option_words(option).ends_with("KEY=VALUE"), option.name == "--set")
          << verb.name << " " << option.name;
  const std::string out = command_line({"plan", "--help"}).out;
  for (const char* words : {"--gpus N|A..B", "--tokens N ", "--checkpoint SECONDS",
                            "--compare LAYOUT", "--calibration FILE", "--overlay NAME",
                            "--deepspeed FILE", "--gpu-memory GB", "--mtbf HOURS"})
    EXPECT_TRUE(contains(out, std::string("\n  ") + words)) << words;
}

TEST(Help, NamesTheExitCodesOfWhatAsksForAJobOrAConfiguration) {
  for (const Verb& verb : all_verbs()) {
    for (const Option& option : verb.options) {
      if (!option.required || option.completes == Completes::kNothing) continue;
      const std::string out = command_line({verb.name, "--help"}).out;
      EXPECT_TRUE(contains(out, "xit code")) << verb.name;
    }
  }
}

TEST(Help, TheOverviewNamesEveryExitCodeOfStatusH) {
  const std::string out = command_line({"--help"}).out;
  std::vector<int> listed;
  for (const ExitCode& code : exit_codes()) {
    listed.push_back(code.code);
    EXPECT_TRUE(contains(out, std::to_string(code.code) + " ")) << code.code;
  }
  for (const Code code : {Code::kOk, Code::kFailed, Code::kInvalid, Code::kNoCoordinator,
                          Code::kNotAuthorised, Code::kNotFound, Code::kDoesNotFit, Code::kConflict,
                          Code::kTimeout, Code::kInterrupted, Code::kTerminated})
    EXPECT_EQ(std::count(listed.begin(), listed.end(), static_cast<int>(code)), 1);
}

TEST(Wrap, BreaksAtSpacesAndIndentsWhatFollows) {
  EXPECT_EQ(wrap("aa bb cc dd", 2, 5), "aa bb\n  cc dd");
  EXPECT_EQ(wrap("aaaaaaaa b", 1, 4), "aaaaaaaa\n b");
  EXPECT_EQ(wrap("ää ää", 0, 5), "ää ää") << "characters count, not bytes";
  EXPECT_EQ(wrap("", 3, 10), "");
}

}  // namespace
}  // namespace dsv3::cli
