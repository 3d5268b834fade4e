// Tables, colours, errors and event payloads as people see them.
#include "coordinator/cli/output.h"

#include <nlohmann/json.hpp>

#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

TEST(Table, PutsNumbersToTheRightAndWordsToTheLeft) {
  Table table({"JOB", "STEP", "LOSS"});
  table.add({"demo-1", "7", "9.0400"});
  table.add({"d-2", "1,200", "-0.5"});
  EXPECT_EQ(table.render(false),
            "JOB      STEP    LOSS\n"
            "demo-1      7  9.0400\n"
            "d-2     1,200    -0.5\n");
}

TEST(Table, CountsCharactersNotBytes) {
  Table table({"NAME", "STATE"});
  table.add({"größe", "UP"});
  table.add({"ab", "LOST"});
  EXPECT_EQ(table.render(false),
            "NAME   STATE\n"
            "größe  UP\n"
            "ab     LOST\n");
}

TEST(Table, ADashAmongNumbersKeepsThemRight) {
  Table table({"STEP", "X"});
  table.add({"–", "a"});
  table.add({"12", "b"});
  EXPECT_EQ(table.render(false),
            "STEP  X\n"
            "   –  a\n"
            "  12  b\n");
}

TEST(Table, AColumnWithOneWordIsLeft) {
  Table table({"DEAD", "N"});
  table.add({"none", "1"});
  table.add({"3,4", "22"});
  EXPECT_EQ(table.render(false),
            "DEAD   N\n"
            "none   1\n"
            "3,4   22\n");
}

TEST(Table, WithoutRowsIsItsHeader) {
  const Table table({"A", "B"});
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(table.render(false), "A  B\n");
}

TEST(Table, TheHeaderIsBoldOnlyInColour) {
  Table table({"A"});
  table.add({"x"});
  EXPECT_EQ(table.render(true), "\033[1mA\033[0m\nx\n");
  EXPECT_EQ(table.render(false), "A\nx\n");
}

TEST(Output, PaintLeavesTextAloneWithoutColour) {
  EXPECT_EQ(paint("RUNNING", Color::kGreen, false), "RUNNING");
  EXPECT_EQ(paint("RUNNING", Color::kGreen, true), "\033[32mRUNNING\033[0m");
}

TEST(Output, AnErrorIsOneSentenceOrOneObjectAndItsCode) {
  const Status status(Code::kNotFound, "there is no job 'x'", "see 'dsv3ctl status'");
  Globals globals;
  testing::internal::CaptureStderr();
  EXPECT_EQ(fail(globals, status), 5);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "dsv3ctl: there is no job 'x'; see 'dsv3ctl status'\n");
  globals.json = true;
  testing::internal::CaptureStderr();
  EXPECT_EQ(fail(globals, status), 5);
  const auto error = nlohmann::json::parse(testing::internal::GetCapturedStderr());
  EXPECT_EQ(error["error"]["code"], "not_found");
  EXPECT_EQ(error["error"]["message"], "there is no job 'x'");
  EXPECT_EQ(error["error"]["hint"], "see 'dsv3ctl status'");
  EXPECT_EQ(error["error"]["where"], "");
}

TEST(Output, AnObjectCarriesItsSchemaVersionFirst) {
  testing::internal::CaptureStdout();
  print_json({{"job", "demo-1"}});
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            "{\n  \"schema_version\": 1,\n  \"job\": \"demo-1\"\n}\n");
}

TEST(Output, BytesThatAreNoUtf8DoNotBreakAnObject) {
  testing::internal::CaptureStdout();
  print_json_line({{"text", "a\xFFz"}});
  const auto read = nlohmann::json::parse(testing::internal::GetCapturedStdout(), nullptr, false);
  ASSERT_TRUE(read.is_object());
  EXPECT_EQ(read["text"], "a\xEF\xBF\xBDz");
}

TEST(PayloadText, ListsKeysAndValuesAndLeavesOutEmptyOnes) {
  EXPECT_EQ(payload_text(R"({"rank": 0, "reason": "", "node": "here", "code": 75})"),
            "rank=0 node=here code=75");
}

TEST(PayloadText, CutsLongTextsBetweenCharacters) {
  EXPECT_EQ(payload_text(R"({"path": ")" + std::string(60, 'a') + "\"}"),
            "path=" + std::string(60, 'a'));
  EXPECT_EQ(payload_text(R"({"path": ")" + std::string(61, 'a') + "\"}"),
            "path=" + std::string(57, 'a') + "...");
  // 56 letters, then a two-byte character over the cut: it goes as a whole.
  EXPECT_EQ(payload_text(R"({"path": ")" + std::string(56, 'a') + "ößxyz" + "\"}"),
            "path=" + std::string(56, 'a') + "...");
}

TEST(PayloadText, WhatIsNoObjectIsNothing) {
  EXPECT_EQ(payload_text("not json"), "");
  EXPECT_EQ(payload_text("[1]"), "");
  EXPECT_EQ(payload_text(""), "");
}

}  // namespace
}  // namespace dsv3::cli
