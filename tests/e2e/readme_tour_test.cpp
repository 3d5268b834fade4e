// README's tour, typed by a newcomer: every command of its ```console blocks runs in order, in an
// empty home, on the built binaries, and prints what README shows (tour.h says what may differ).
//
// Law: README shows no line that the product does not print. To renew what it shows, on a machine
// that does nothing else: DSV3_UPDATE_README=1 build/dev/test-bin/e2e --gtest_filter='Readme.*'
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/text.h"
#include "tests/e2e/home.h"
#include "tests/e2e/tour.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;

std::string readme() {
  std::ifstream file(DSV3_SOURCE_DIR "/README.md");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool is_update() {
  return std::getenv("DSV3_UPDATE_README") != nullptr;
}

void replace_all(std::string* text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text->find(from, at)) != std::string::npos; at += to.size())
    text->replace(at, from.size(), to);
}

// A copy of the repository as far as the tour looks at it, and a home of the reader's.
class Reader {
 public:
  Reader() : copy_(home_.path() + "/copy") {
    fs::create_directory(copy_);
    for (const char* name : {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "configs", "runtime"})
      fs::create_symlink(std::string(DSV3_SOURCE_DIR "/") + name, copy_ + "/" + name);
  }

  // The lines that a command prints; its exit code must be 0.
  std::vector<std::string> type(const TourCommand& command) const {
    // A file: what a command looks for among the processes (pgrep -f) is not its own shell.
    const std::string file = home_.path() + "/command";
    std::ofstream(file) << fmt::format("cd '{}' && PATH='{}':\"$PATH\"\n{{ {}\n}} 2>&1", copy_,
                                       DSV3_BIN_DIR, command.words);
    Environment environment = home_.environment();
    if (is_update()) environment.pop_back();  // with all cores, as a reader has it
    const Outcome outcome = run({"/bin/bash", file}, environment, 60);
    EXPECT_EQ(outcome.code, 0) << "README.md:" << command.line << ": " << command.words << "\n"
                               << outcome.out << outcome.err;
    std::string text = outcome.out;
    replace_all(&text, DSV3_BIN_DIR, std::string(kReaderCopy) + "/build/dev/bin");
    replace_all(&text, copy_, kReaderCopy);
    replace_all(&text, home_.path(), std::string(kReaderHome) + "/.local/state");
    std::vector<std::string> lines = split(text, '\n');
    if (!lines.empty() && lines.back().empty()) lines.pop_back();
    return lines;
  }

 private:
  const Home home_;
  const std::string copy_;
};

TEST(Readme, ItsTourRunsAndPrintsWhatItShows) {
  const std::vector<TourCommand> tour = read_tour(readme());
  ASSERT_GE(tour.size(), 10u) << "the tour is gone: its blocks begin with ```console";
  const Reader reader;
  std::vector<std::vector<std::string>> outputs;
  for (const TourCommand& command : tour) {
    const std::vector<std::string> printed = reader.type(command);
    outputs.push_back(printed);
    if (is_update()) continue;
    const std::string difference = tour_difference(command, printed);
    std::string all;
    for (const std::string& line : printed) all += line + "\n";
    EXPECT_EQ(difference, "") << "README.md:" << command.line << ": $ " << command.words << "\n"
                              << all;
  }
  if (!is_update()) return;
  const std::string updated = with_outputs(readme(), outputs);  // before the file is emptied
  std::ofstream(DSV3_SOURCE_DIR "/README.md") << updated;
}

TEST(Readme, ItsTourFitsATerminalOf80Columns) {
  for (const TourCommand& command : read_tour(readme())) {
    std::vector<std::string> lines = command.output;
    for (const std::string& line : split("$ " + command.words, '\n')) lines.push_back(line);
    for (const std::string& line : lines) {
      if (line.find(": error: ") != std::string::npos) continue;  // a sentence, not a table
      EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }),
                80)
          << "README.md:" << command.line << ": " << line;
    }
  }
}

TEST(Tour, ReadsCommandsWithTheirLinesAndOutputs) {
  const auto tour =
      read_tour("x\n```console\n$ a b\none\ntwo\n$ c \\\n  d\n```\n$ no\n```\n$ no\n```\n");
  ASSERT_EQ(tour.size(), 2u);
  EXPECT_EQ(tour[0].line, 3);
  EXPECT_EQ(tour[0].words, "a b");
  EXPECT_EQ(tour[0].output, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(tour[1].line, 6);
  EXPECT_EQ(tour[1].words, "c \\\n  d");
  EXPECT_TRUE(tour[1].output.empty());
}

TEST(Tour, OutputsAreRenewedInTheirPlaces) {
  const std::string before = "x\n```console\n$ a \\\n  b\nold\nold\n$ c\n```\ny\n";
  EXPECT_EQ(with_outputs(before, {{"[#.] 1 tok/s  eta 1", "[##] 2 tok/s  eta 0", "new"}, {"z"}}),
            "x\n```console\n$ a \\\n  b\n[##] 2 tok/s  eta 0\nnew\n$ c\nz\n```\ny\n");
}

TEST(Tour, FiguresOfARunMayDifferAndWordsMayNot) {
  const TourCommand run{1, "dsv3ctl status demo-1", {"step  20/20, 3.2s ago", "loss  4.1"}};
  EXPECT_EQ(tour_difference(run, {"step 7/20, 1m 15s ago", "loss     12.25"}), "");
  EXPECT_NE(tour_difference(run, {"step 7/20, 1m 15s ago"}), "");
  EXPECT_NE(tour_difference(run, {"step 7/20, 1m 15s ago", "loss 3", "more"}), "");
  EXPECT_NE(tour_difference(run, {"step 7/20", "loss 3"}), "");
  const TourCommand offline{1, "dsv3ctl params 671b", {"total 5"}};
  EXPECT_NE(tour_difference(offline, {"total 6"}), "") << "the same everywhere: exact";
}

TEST(Tour, DotsStandForLinesThatAreLeftOut) {
  const TourCommand some{1, "dsv3ctl logs demo-1", {"first", "...", "last"}};
  EXPECT_EQ(tour_difference(some, {"first", "a", "b", "last"}), "");
  EXPECT_NE(tour_difference(some, {"a", "last"}), "");
  EXPECT_NE(tour_difference(some, {"first", "a"}), "");
}

TEST(Tour, ProgressIsItsLastLineAndPassingStatesAreNone) {
  const TourCommand submit{1,
                           "dsv3ctl submit demo --wait",
                           {"demo-1", "demo-1 RUNNING: all 1 ranks run",
                            "[####....]   20/20  loss 4.1  1,000 tok/s  eta 0.0s", "end"}};
  EXPECT_EQ(tour_difference(submit, {"demo-1", "demo-1 QUEUED",
                                     "[#.......]    1/20  loss 9.1  10 tok/s  eta 1m 2s",
                                     "[########]   20/20  loss 4.2  999 tok/s  eta 0.0s", "end"}),
            "");
}

}  // namespace
}  // namespace dsv3::e2e
