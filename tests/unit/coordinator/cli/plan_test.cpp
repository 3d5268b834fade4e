// The words of `dsv3ctl plan`: what is refused, and that its three longer answers hold together.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "cluster/plan/calibration.h"
#include "tests/unit/coordinator/cli/command_line.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

Words plan_words(const Words& more) {
  Words words = {"plan", "10b", "--gpus", "8", "--gpu", "h100"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Json plan_json(const Words& more, int code = 0) {
  Words words = plan_words(more);
  words.emplace_back("--json");
  const Outcome outcome = command_line(words);
  EXPECT_EQ(outcome.code, code) << outcome.err;
  return Json::parse(outcome.out, nullptr, false);
}

TEST(PlanWords, ARangeIsForASweepAndEveryOtherNumberIsRefused) {
  for (const char* gpus : {"0", "-1", "1e9", "abc", "", "65537", "99999999999999999999", "8..4",
                           "4..8", "4..", "..8", "4..x", "4..99999999", "4...8", " 8"}) {
    const Outcome outcome = command_line({"plan", "10b", "--gpus", gpus});
    EXPECT_EQ(outcome.code, 2) << gpus;
    EXPECT_TRUE(contains(outcome.err, "--gpus")) << outcome.err;
    EXPECT_EQ(outcome.out, "") << gpus;
  }
  EXPECT_TRUE(contains(command_line({"plan", "10b", "--gpus", "4..8"}).err, "--sweep"));
  EXPECT_EQ(command_line({"plan", "10b", "--sweep", "--gpus", "8..4"}).code, 2);
  EXPECT_EQ(command_line({"plan", "10b", "--sweep"}).code, 2);
}

TEST(PlanWords, WhatDoesNotGoTogetherIsRefused) {
  const std::vector<Words> bad = {{"--explain", "--sweep"},
                                  {"--explain", "--compare", "EP8", "--compare", "DP8"},
                                  {"--csv"},
                                  {"--sweep", "--csv", "--json"},
                                  {"--compare", "EP8"},
                                  {"--compare", "EP8", "--compare", "DP8", "--compare", "TP2"},
                                  {"--compare", "EP8", "--compare", "selectiv"},
                                  {"--compare", "EP3", "--compare", "DP8"},
                                  {"--tokens", "many"},
                                  {"--tokens", "0"},
                                  {"--price", "-1"},
                                  {"--price", "nan"}};
  for (const Words& more : bad) {
    const Outcome outcome = command_line(plan_words(more));
    EXPECT_EQ(outcome.code, 2) << more[0] << ": " << outcome.err;
    EXPECT_EQ(outcome.out, "") << more[0];
  }
}

TEST(PlanWords, DaysAndCostAreOfTheTokens) {
  const Json one = plan_json({"--tokens", "100B", "--price", "2"});
  const Json two = plan_json({"--tokens", "200B", "--price", "2"});
  const double days = one["predicted"]["days"];
  EXPECT_NEAR(two["predicted"]["days"].get<double>(), 2 * days, 1e-6 * days);
  EXPECT_NEAR(one["predicted"]["cost_usd"].get<double>(), days * 24 * 8 * 2, 1e-6 * days);
  const double tokens_per_s = one["predicted"]["tokens_per_s"];
  EXPECT_NEAR(days, 100e9 / tokens_per_s / 86'400, 0.001 * days);
}

TEST(PlanWords, ExplainHoldsThePlanAndItsLedgers) {
  const Json plan = plan_json({});
  const Json explained = plan_json({"--explain"});
  EXPECT_EQ(explained["layout"], plan["layout"]);
  EXPECT_EQ(explained["schema_version"], 1);
  const Json& stages = explained["explain"]["stages"];
  ASSERT_EQ(stages.size(), plan["layout"]["pp"].get<size_t>());
  const Json& worst = stages[explained["explain"]["worst_stage"].get<size_t>()];
  EXPECT_EQ(worst["peak_memory_bytes"], plan["predicted"]["peak_memory_bytes"]);
  int64_t sum = 0;
  for (const Json& line : worst["ledger"]) sum += line["bytes"].get<int64_t>();
  EXPECT_EQ(sum, plan["predicted"]["peak_memory_bytes"]);
  EXPECT_GE(explained["explain"]["tensors"].size(), 5u);
}

TEST(PlanWords, TheChosenLayoutComparesAsItWasPlanned) {
  const Json plan = plan_json({});
  const Json& layout = plan["layout"];
  std::string text;
  for (const char* key : {"tp", "cp", "pp", "ep", "dp", "etp", "zero_stage", "micro_batch"})
    text += std::string(key) + "=" + std::to_string(layout[key].get<int64_t>()) + " ";
  text += "recompute=" + layout["recompute"].get<std::string>();
  text += " schedule=" + layout["schedule"].get<std::string>();
  const Json both = plan_json({"--compare", text, "--compare", "EP8 full"});
  EXPECT_EQ(both["left"]["layout"], layout);
  EXPECT_EQ(both["left"]["peak_memory_bytes"], plan["predicted"]["peak_memory_bytes"]);
  EXPECT_EQ(both["left"]["step_s"], plan["predicted"]["step_s"]);
  EXPECT_TRUE(both["left"]["fits"]);
  EXPECT_EQ(both["right"]["layout"]["recompute"], "full");
}

TEST(PlanWords, AreWithin80Columns) {
  for (const Words& more : {Words{}, Words{"--explain"}, Words{"--tokens", "1T"},
                            Words{"--compare", "TP2 PP4 interleaved VPP2 selective moments bf16",
                                  "--compare", "EP8 ZeRO-3 offload gradients bf16"}}) {
    const Outcome outcome = command_line(plan_words(more));
    EXPECT_NE(outcome.out, "");
    for (const std::string& line : split(outcome.out, '\n'))
      EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }),
                80)
          << line;
  }
}

TEST(PlanWords, TheCalibrationOfTheStateDirectoryIsThisMachines) {
  const TemporaryFolder folder;
  const std::string file = folder / "calibration.json";
  const auto times = [&](const Words& more) {
    Words words = {"plan", "demo", "--json", "--state-dir", folder.path()};
    words.insert(words.end(), more.begin(), more.end());
    return command_line(words);
  };
  EXPECT_TRUE(Json::parse(times({}).out)["predicted"]["step_s"].is_null());
  plan::Calibration calibration{.machine = "a test", .date = "2026-01-01", .cores = 2};
  calibration.sets = {{.ranks = 1,
                       .threads = 2,
                       .peak_bf16_flops_per_s = 1e11,
                       .peak_f32_flops_per_s = 1e11,
                       .copy_bytes_per_s = 1e10}};
  ASSERT_TRUE(write_file(file, plan::calibration_json(calibration)).ok());
  EXPECT_GT(Json::parse(times({}).out)["predicted"]["step_s"].get<double>(), 0);
  EXPECT_EQ(times({"--calibration", folder / "none.json"}).code, 5);
  ASSERT_TRUE(write_file(file, "{").ok());
  const Outcome broken = times({});
  EXPECT_EQ(broken.code, 2);
  EXPECT_TRUE(contains(broken.err, "calibration.json")) << broken.err;
}

}  // namespace
}  // namespace dsv3::cli
