// configs and params as commands: what diff prints once, which words are refused, and lines that
// fit a terminal.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

int times(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

// Characters: UTF-8 continuation bytes take no column.
size_t width_of(const std::string& line) {
  size_t n = 0;
  for (const char c : line) n += (c & 0xC0) != 0x80;
  return n;
}

TEST(ConfigsCommand, DiffOfEqualsSaysSo) {
  const Outcome same = command_line({"configs", "diff", "10b", "10B"});
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_EQ(same.out, "");
  EXPECT_EQ(same.err, "no difference\n");
  const Outcome json = command_line({"configs", "diff", "10b", "10b", "--json"});
  EXPECT_EQ(Json::parse(json.out)["differences"], Json::array());
  EXPECT_EQ(json.err, "");
}

TEST(ConfigsCommand, DiffPrintsEachChangeOnce) {
  for (const Words& words : {Words{"configs", "diff", "10b", "--overlay", "max-throughput"},
                             Words{"configs", "diff", "10b", "15b", "--overlay", "max-throughput"},
                             Words{"configs", "diff", "10b", "--set", "training.dtype=fp8"}}) {
    const Outcome said = command_line(words);
    EXPECT_EQ(said.code, 0) << said.err;
    EXPECT_EQ(times(said.out + said.err, "training.dtype"), 1) << said.out << said.err;
    EXPECT_TRUE(contains(said.out, "training.dtype: bf16 -> fp8\n")) << said.out;
  }
}

TEST(ConfigsCommand, AnOverlayThatEnlargesIsToldOf) {
  const Outcome said = command_line({"validate", "1b", "--overlay", "smaller-gpus"});
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_TRUE(contains(said.err, "[OVERLAY_ENLARGES]")) << said.err;
  const Outcome meant = command_line({"validate", "671b", "--overlay", "smaller-gpus"});
  EXPECT_FALSE(contains(meant.err, "OVERLAY_ENLARGES")) << meant.err;
}

TEST(ConfigsCommand, WordsThatWouldBeIgnoredAreRefused) {
  for (const Words& words : std::vector<Words>{{"configs", "list", "extra"},
                                               {"configs", "show", "10b", "15b"},
                                               {"configs", "export", "10b", "15b"},
                                               {"configs", "show", "10b", "--overlay", "x"},
                                               {"configs", "list", "--set", "training.seed=1"},
                                               {"configs", "diff", "10b"},
                                               {"validate", "10b", "--overlay", ""}}) {
    const Outcome said = command_line(words);
    EXPECT_EQ(said.code, 2) << words[1] << " " << said.out << said.err;
    EXPECT_EQ(said.out, "") << words[1];
    EXPECT_EQ(times(said.err, "\n"), 1) << said.err;
  }
}

TEST(ConfigsCommand, ShowFindsAPresetInAnyCase) {
  const Outcome said = command_line({"configs", "show", "15B"});
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_TRUE(said.out.starts_with("# 15b")) << said.out.substr(0, 80);
}

TEST(ParamsCommand, LinesFitATerminalAndEndInNoBlank) {
  for (const char* preset : {"demo", "10b", "671b"}) {
    const Outcome said = command_line({"params", preset, "--tensors"});
    ASSERT_EQ(said.code, 0) << said.err;
    for (const std::string& line : split(said.out, '\n')) {
      EXPECT_LE(width_of(line), 80u) << line;
      EXPECT_FALSE(line.ends_with(' ')) << '|' << line << '|';
    }
  }
}

}  // namespace
}  // namespace dsv3::cli
