// The man pages as text: complete, balanced, and free of anything that roff would take for its own.
#include <map>
#include <regex>
#include <set>

#include "base/text.h"
#include "configs/spec/field_table.h"
#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

// The page as a reader sees its words: escapes undone.
std::string plain(std::string text) {
  text = std::regex_replace(text, std::regex(R"(\\f[BRI]|\\&)"), "");
  text = std::regex_replace(text, std::regex(R"(\\-)"), "-");
  return std::regex_replace(text, std::regex(R"(\\e)"), "\\");
}

std::string page(const std::vector<std::string>& of) {
  std::vector<std::string> words = {"man"};
  words.insert(words.end(), of.begin(), of.end());
  const Outcome outcome = command_line(words);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return outcome.out;
}

void expect_sound(const std::string& text, const std::string& of) {
  const std::set<std::string> known = {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I",
                                       ".BR", ".RS", ".RE", ".nf", ".fi", ".br"};
  std::map<std::string, int> count;
  int depth = 0;
  for (const std::string& line : split(text, '\n')) {
    EXPECT_FALSE(line.starts_with("'")) << of << ": " << line;
    if (!line.starts_with(".")) continue;
    const std::string macro = line.substr(0, line.find(' '));
    EXPECT_EQ(known.count(macro), 1u) << of << ": " << line;
    ++count[macro];
    depth += macro == ".RS" ? 1 : macro == ".RE" ? -1 : 0;
    EXPECT_GE(depth, 0) << of;
  }
  EXPECT_EQ(count[".TH"], 1) << of;
  EXPECT_EQ(count[".RS"], count[".RE"]) << of;
  EXPECT_EQ(count[".nf"], count[".fi"]) << of;
  EXPECT_TRUE(text.starts_with(".TH ")) << of;
  // Bold goes on and off in turns, on one line; no other escape is left.
  static const std::regex escape(R"(\\(.)(.?))");
  for (auto it = std::sregex_iterator(text.begin(), text.end(), escape);
       it != std::sregex_iterator(); ++it) {
    const std::string letter = (*it)[1];
    EXPECT_NE(std::string("f&-e").find(letter), std::string::npos) << of << ": " << it->str();
  }
  static const std::regex on(R"(\\fB)"), off(R"(\\fR)");
  for (const std::string& line : split(text, '\n')) {
    const auto times = [&](const std::regex& what) {
      return std::distance(std::sregex_iterator(line.begin(), line.end(), what),
                           std::sregex_iterator());
    };
    EXPECT_EQ(times(on), times(off)) << of << ": " << line;
  }
}

TEST(Man, TheMainPageHasEveryVerbWithItsOptions) {
  const std::string text = page({});
  expect_sound(text, "dsv3ctl(1)");
  const std::string read = plain(text);
  for (const Verb& verb : all_verbs()) {
    EXPECT_EQ(contains(read, ".SS " + verb.name + "\n"), !verb.group.empty()) << verb.name;
    if (verb.group.empty()) continue;
    for (const Option& option : verb.options) {
      const std::string name = option.name.substr(option.name.rfind(',') + 1);
      EXPECT_TRUE(contains(read, name)) << verb.name << " " << name;
      EXPECT_TRUE(contains(read, option.help)) << verb.name << " " << name;
    }
  }
}

TEST(Man, EveryVerbHasAPageOfItsOwn) {
  for (const Verb& verb : all_verbs()) {
    if (verb.group.empty()) continue;
    const std::string text = page({verb.name});
    expect_sound(text, verb.name);
    EXPECT_TRUE(contains(plain(text), "dsv3ctl-" + verb.name + " - " + verb.summary)) << verb.name;
  }
}

TEST(Man, TheConfigurationsPageHasEveryKeyOnceWithItsSentence) {
  const std::string text = page({"config"});
  expect_sound(text, "dsv3ctl-config(5)");
  const std::string read = plain(text);
  for (const spec::Field& field : spec::field_table()) {
    const std::string term = ".TP\n" + std::string(field.key) + "\n";
    const size_t at = read.find(term);
    ASSERT_NE(at, std::string::npos) << field.key;
    EXPECT_EQ(read.find(term, at + 1), std::string::npos) << field.key;
    EXPECT_TRUE(contains(read, std::string(field.doc))) << field.key;
  }
}

TEST(Man, AnUnknownPageIsNotFoundAndTheNearestIsNamed) {
  const Outcome outcome = command_line({"man", "sumbit"});
  EXPECT_EQ(outcome.code, 5);
  EXPECT_EQ(outcome.err, "dsv3ctl: there is no page about 'sumbit'; did you mean 'submit'?\n");
}

}  // namespace
}  // namespace dsv3::cli
