// Keeps the house: layers, confined headers, purity, file openings and budgets, over every source
// file of the tree.
//
// Law: each rule is data in rules.h; a failure names file, line and rule in one line.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "tests/tidy/rules.h"

namespace dsv3::tidy {
namespace {

struct Source {
  std::string path;  // from the root
  std::string room;  // its folder
  std::vector<std::string> lines;
};

bool is_below(const std::string& folder, const std::string& room) {
  return folder == room ||
         (folder.size() > room.size() && folder.compare(0, room.size() + 1, room + "/") == 0);
}

const std::vector<Source>& sources() {
  static const std::vector<Source> all = [] {
    std::vector<Source> found;
    const std::filesystem::path root = DSV3_SOURCE_DIR;
    for (const char* top :
         {"base", "configs", "cluster", "kernels", "runtime", "coordinator", "worker", "tests"}) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(root / top)) {
        const std::string extension = entry.path().extension().string();
        if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh")
          continue;
        const auto relative = std::filesystem::relative(entry.path(), root);
        auto text = read_file(entry.path().string());
        EXPECT_TRUE(text.ok()) << text.status().to_string();
        found.push_back({relative.string(), relative.parent_path().string(), split(*text, '\n')});
        if (!found.back().lines.empty() && found.back().lines.back().empty())
          found.back().lines.pop_back();
      }
    }
    std::sort(found.begin(), found.end(),
              [](const Source& a, const Source& b) { return a.path < b.path; });
    return found;
  }();
  return all;
}

bool is_test(const Source& source) {
  return is_below(source.room, "tests");
}

// The text between the quotes or brackets of an #include line, with its opening mark; "" for other
// lines.
std::string included(const std::string& line) {
  if (line.rfind("#include ", 0) != 0) return {};
  const std::string rest = line.substr(9);
  const size_t end = rest.find(rest[0] == '"' ? '"' : '>', 1);
  return end == std::string::npos ? std::string() : rest.substr(0, end + 1);
}

TEST(Layers, EveryRoomHasARule) {
  for (const Source& source : sources()) {
    if (is_test(source)) continue;
    EXPECT_TRUE(allowed_includes().count(source.room))
        << source.path << ": add its folder to tests/tidy/rules.h";
  }
}

TEST(Layers, IncludesPointDownOnly) {
  for (const Source& source : sources()) {
    if (is_test(source) || !allowed_includes().count(source.room)) continue;
    const auto& allowed = allowed_includes().at(source.room);
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string header = included(source.lines[i]);
      if (header.empty() || header[0] != '"') continue;
      const std::string path = header.substr(1, header.size() - 2);
      const std::string folder = std::filesystem::path(path).parent_path().string();
      const bool ok =
          folder == source.room || std::count(allowed.begin(), allowed.end(), folder) > 0;
      EXPECT_TRUE(ok) << source.path << ":" << i + 1 << ": " << source.room << " may not include "
                      << path;
    }
  }
}

TEST(Layers, ThirdPartyHeadersStayInTheirRooms) {
  for (const Source& source : sources()) {
    if (is_test(source)) continue;
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string header = included(source.lines[i]);
      for (const auto& [prefix, rooms] : confined_headers()) {
        if (header.rfind(prefix, 0) != 0) continue;
        const bool ok = std::any_of(rooms.begin(), rooms.end(),
                                    [&](const auto& r) { return is_below(source.room, r); });
        EXPECT_TRUE(ok) << source.path << ":" << i + 1 << ": " << header << " is confined to "
                        << rooms[0];
      }
    }
  }
}

TEST(Layers, RoomsThatDecideArePure) {
  for (const Source& source : sources()) {
    if (std::none_of(pure_rooms().begin(), pure_rooms().end(),
                     [&](const auto& r) { return source.room == r; }))
      continue;
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string header = included(source.lines[i]);
      for (const std::string& impure : impure_headers()) {
        EXPECT_FALSE(!header.empty() && header.rfind(impure, 0) == 0)
            << source.path << ":" << i + 1 << ": " << source.room
            << " decides, so it may not include " << header;
      }
    }
  }
}

TEST(Files, OpenWithWhatTheyAreFor) {
  for (const Source& source : sources()) {
    const bool ok = source.lines.size() > 1 && source.lines[0].rfind("// ", 0) == 0 &&
                    source.lines[0].size() > 12;
    EXPECT_TRUE(ok) << source.path << ":1: a file opens with a comment that says what it is for";
  }
}

TEST(Files, HeadersHavePragmaOnce) {
  for (const Source& source : sources()) {
    if (source.path.size() < 2 || source.path.substr(source.path.size() - 2) != ".h") continue;
    EXPECT_TRUE(std::count(source.lines.begin(), source.lines.end(), "#pragma once") == 1)
        << source.path;
  }
}

TEST(Files, StayWithinTheirBudget) {
  for (const Source& source : sources()) {
    const bool main_file = std::filesystem::path(source.path).filename() == "main.cpp";
    const size_t limit = main_file ? kMainLinesMax : kFileLinesMax;
    if (long_files().count(source.path)) continue;
    EXPECT_LE(source.lines.size(), limit)
        << source.path << ": split it, or give a reason in tests/tidy/rules.h";
  }
}

// A function at column 0: a line that ends in '{' and is not a namespace, type or initialiser, up
// to the next "}" at column 0.
TEST(Functions, StayWithinTheirBudget) {
  for (const Source& source : sources()) {
    if (is_test(source)) continue;
    const int limit = is_below(source.room, "kernels") ? kKernelLinesMax : kFunctionLinesMax;
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string& line = source.lines[i];
      if (line.empty() || line[0] == ' ' || line[0] == '#' || line[0] == '/' || line.back() != '{')
        continue;
      if (line.find('(') == std::string::npos || line.rfind("namespace", 0) == 0) continue;
      size_t end = i + 1;
      while (end < source.lines.size() && source.lines[end].rfind("}", 0) != 0) ++end;
      EXPECT_LE(static_cast<int>(end - i - 1), limit)
          << source.path << ":" << i + 1 << ": function too long";
      i = end;
    }
  }
}

TEST(Functions, LibrariesNeverCallExit) {
  for (const Source& source : sources()) {
    if (is_test(source) || std::filesystem::path(source.path).filename() == "main.cpp") continue;
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string& line = source.lines[i];
      const size_t comment = line.find("//");
      for (const char* call : {" exit(", "std::exit(", "::exit(", "quick_exit("}) {
        const size_t at = line.find(call);
        EXPECT_FALSE(at != std::string::npos && at < comment)
            << source.path << ":" << i + 1 << ": only a main may exit";
      }
    }
  }
}

TEST(Words, NothingIsLeftUnfinished) {
  const std::vector<std::string> words = {std::string("TO") + "DO", std::string("FIX") + "ME",
                                          std::string("X") + "XX:"};
  for (const Source& source : sources()) {
    for (size_t i = 0; i < source.lines.size(); ++i) {
      for (const std::string& word : words) {
        EXPECT_EQ(source.lines[i].find(word), std::string::npos) << source.path << ":" << i + 1;
      }
    }
  }
}

}  // namespace
}  // namespace dsv3::tidy
