// Every `dsv3ctl …` that a document or a help text mentions must parse: its command, its options,
// the keys it sets, the presets it names.
//
// Law: no document lists what does not exist. A command counts where it is meant to be typed: in a
// code block, in backticks or in quotes.
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "base/text.h"
#include "configs/spec/presets.h"
#include "configs/spec/render.h"
#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kProgram = "dsv3ctl ";

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Where the command that begins at `at` ends, by what stands before it; npos: it is prose.
size_t end_of_command(const std::string& line, size_t at, bool code) {
  const char before = at == 0 ? ' ' : line[at - 1];
  if (before == '`' || before == '\'') return line.find(before, at);
  if (before == '(') return line.find(')', at);
  const bool first = line.find_first_not_of(' ') == at || (at == 2 && line.starts_with("$ "));
  if (!code || !first) return std::string::npos;
  const size_t remark = line.find("  ", at);
  return remark == std::string::npos ? line.size() : remark;
}

// The words of a shell command up to the first operator; quotes are undone.
std::vector<std::string> shell_words(const std::string& command) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (const char c : command + " ") {
    if (quote != 0) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '"' || c == '\'') {
      quote = c;
      in_word = true;
    } else if (c == ' ') {
      if (in_word) words.push_back(word);
      word.clear();
      in_word = false;
    } else if (std::string_view("|;&<>").find(c) != std::string_view::npos) {
      if (in_word) words.push_back(word);
      return words;
    } else {
      word += c;
      in_word = true;
    }
  }
  return words;
}

// The commands of a text, without their first word. A line that ends with a backslash goes on.
std::vector<std::vector<std::string>> commands_of(const std::string& text) {
  static const std::regex joined(R"(\\\n\s*)");
  std::vector<std::vector<std::string>> commands;
  bool fence = false;
  for (const std::string& line : split(std::regex_replace(text, joined, ""), '\n')) {
    if (line.starts_with("```")) fence = !fence;
    const bool typed = line.starts_with("$ ") || line.starts_with("  dsv3ctl");
    const bool code = fence ? typed : line.starts_with("    ") || typed;
    // A mistake on purpose, shown with its exit code: the tour's own test types it.
    if (line.ends_with("; echo \"exit code $?\"")) continue;
    for (size_t at = line.find(kProgram); at != std::string::npos;
         at = line.find(kProgram, at + 1)) {
      const size_t end = end_of_command(line, at, code);
      if (end == std::string::npos) continue;
      const size_t from = at + kProgram.size();
      const auto words = shell_words(line.substr(from, end - from));
      const bool named = !words.empty() && std::islower(static_cast<unsigned char>(words[0][0]));
      if (named || (!words.empty() && words[0][0] == '-')) commands.push_back(words);
    }
  }
  return commands;
}

// A word in capitals stands for a value: after an option "1" is one of every type.
std::vector<std::string> with_values(std::vector<std::string> words) {
  static const std::regex placeholder("[A-Z]+");
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i - 1].starts_with("-") && std::regex_match(words[i], placeholder)) words[i] = "1";
  }
  return words;
}

void expect_values_exist(const std::vector<std::string>& words, const std::string& where) {
  static const std::set<std::string> reads_config = {"submit", "validate", "params", "plan"};
  static const std::regex bare("[a-z0-9-]+"), key("[a-z_.0-9]+");
  static const auto presets = spec::list_presets();
  ASSERT_TRUE(presets.ok());
  bool first = reads_config.count(words[0]) > 0;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (words[i - 1] == "--set") {
      const std::string name = word.substr(0, word.find('='));
      if (std::regex_match(name, key)) {
        EXPECT_TRUE(spec::explain(name).ok()) << where << ": " << name;
      }
    } else if (first && word[0] != '-' && words[i - 1][0] != '-') {
      first = false;
      if (words[0] == "submit" && word == "auto") continue;  // the coordinator's choice
      if (std::regex_match(word, bare)) {
        EXPECT_TRUE(std::any_of(presets->begin(), presets->end(),
                                [&](const spec::Preset& p) { return p.name == word; }))
            << where << ": there is no preset " << word;
      } else if (word.starts_with("configs/")) {
        EXPECT_TRUE(fs::exists(DSV3_SOURCE_DIR "/" + word)) << where << ": " << word;
      }
    }
  }
}

// `data prepare` hands its words to the worker: its options stand in that one's source.
void expect_worker_options(const std::vector<std::string>& words, const std::string& where) {
  static const std::string source = text_of(DSV3_SOURCE_DIR "/worker/rank/data_verb.cpp");
  for (const std::string& word : words) {
    if (!word.starts_with("--") || word == "--help") continue;
    EXPECT_TRUE(contains(source, "\"" + word.substr(0, word.find('=')))) << where << ": " << word;
  }
}

int expect_commands_parse(const std::string& text, const std::string& of) {
  int tried = 0;
  for (const auto& words : commands_of(text)) {
    std::string where = of + ": dsv3ctl";
    for (const std::string& word : words) where += " " + word;
    std::vector<const char*> argv = {"dsv3ctl"};
    std::vector<std::string> typed = with_values(words);
    if (typed.size() == 1) typed.emplace_back("--help");  // a name: that there is such a command
    for (const std::string& word : typed) argv.push_back(word.c_str());
    const Status status = check_command_line(static_cast<int>(argv.size()), argv.data());
    EXPECT_TRUE(status.ok()) << where << ": " << status.to_string();
    expect_values_exist(words, where);
    if (words[0] == "data") expect_worker_options(words, where);
    ++tried;
  }
  return tried;
}

TEST(Documents, EveryCommandInThemParses) {
  int tried = 0, read = 0;
  for (fs::recursive_directory_iterator at(DSV3_SOURCE_DIR), end; at != end; ++at) {
    const std::string name = at->path().filename().string();
    if (at->is_directory() && (name == "build" || name.starts_with("."))) {
      at.disable_recursion_pending();
    } else if (at->path().extension() == ".md") {
      tried += expect_commands_parse(text_of(at->path().string()), at->path().string());
      ++read;
    }
  }
  EXPECT_GE(read, 8);
  EXPECT_GE(tried, 40) << "commands are no longer found: look at commands_of()";
}

TEST(Documents, EveryCommandInAHelpTextParses) {
  int tried = expect_commands_parse(command_line({"--help"}).out, "--help");
  for (const Verb& verb : all_verbs()) {
    const int here = expect_commands_parse(verb.help, verb.name + " --help");
    EXPECT_TRUE(verb.group.empty() || here > 0) << verb.name;
    tried += here;
  }
  EXPECT_GE(tried, 50);
}

TEST(Documents, CommandsAreFoundWhereTheyAreMeantToBeTyped) {
  const auto found = commands_of(
      "dsv3ctl is prose, `dsv3ctl status` and 'dsv3ctl down' are not; a source <(dsv3ctl man x)\n"
      "    dsv3ctl logs demo-1 -f     what it writes\n"
      "```console\n$ dsv3ctl sql \"SELECT 1\"; echo\ndsv3ctl: an output\n```\n"
      "  dsv3ctl data prepare \\\n      --out x\n`dsv3ctl COMMAND`\n");
  const std::vector<std::vector<std::string>> expected = {
      {"status"},          {"down"},
      {"man", "x"},        {"logs", "demo-1", "-f"},
      {"sql", "SELECT 1"}, {"data", "prepare", "--out", "x"}};
  EXPECT_EQ(found, expected);
}

TEST(Documents, ACommandThatIsNotThereIsNoticed) {
  for (const char* words : {"statsu", "status --jsno", "recommend --gpus many", "wait"}) {
    std::vector<std::string> typed = split(words, ' ');
    std::vector<const char*> argv = {"dsv3ctl"};
    for (const std::string& word : typed) argv.push_back(word.c_str());
    EXPECT_FALSE(check_command_line(static_cast<int>(argv.size()), argv.data()).ok()) << words;
  }
}

}  // namespace
}  // namespace dsv3::cli
