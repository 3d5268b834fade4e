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
  const std::vector<Words> bad = {
      {"--explain", "--sweep"},
      {"--explain", "--compare", "EP8", "--compare", "DP8"},
      {"--csv"},
      {"--sweep", "--csv", "--json"},
      {"--compare", "EP8"},
      {"--compare", "EP8", "--compare", "DP8", "--compare", "TP2"},
      {"--compare", "EP8", "--compare", "selectiv"},
      {"--compare", "EP3", "--compare", "DP8"},
      {"--compare", "EP8 DP4", "--compare", "EP8"},
      {"--compare", "EP8 EP8", "--compare", "EP8"},
      {"--compare", "tp=16777216 cp=16777216 pp=16777216", "--compare", "EP8"},
      {"--compare", "EP8 accumulate=7", "--compare", "EP8"},
      {"--mtbf", "100"},
      {"--restart", "1"},
      {"--checkpoint", "1"},
      {"--storage", "1"},
      {"--sweep", "--mtbf", "0"},
      {"--sweep", "--restart", "0"},
      {"--sweep", "--checkpoint", "0"},
      {"--sweep", "--storage", "0"},
      {"--gpu-memory", "40"},
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

// A card and a size of memory that it is not sold with.
TEST(PlanWords, ACardAndAnotherMemoryAreRefused) {
  for (const char* verb : {"plan", "validate"}) {
    const Outcome bad =
        command_line({verb, "1b", "--gpus", "1", "--gpu", "a100-40", "--gpu-memory", "80"});
    EXPECT_EQ(bad.code, 2) << verb;
    EXPECT_TRUE(contains(bad.err, "an a100-40 has 40 GB, --gpu-memory says 80")) << bad.err;
    const auto code = [&](const char* gpu, const char* memory) {
      return command_line({verb, "1b", "--gpus", "8", "--gpu", gpu, "--gpu-memory", memory}).code;
    };
    EXPECT_EQ(code("h100", "40"), 2) << verb;
    EXPECT_EQ(code("h100", "80"), 0) << verb;
    EXPECT_EQ(code("a100-40", "40"), 0) << verb;
    EXPECT_EQ(code("a100", "40"), 0) << verb << ": sold with 40 and 80";
  }
}

TEST(PlanWords, ARefusalNamesTheSmallerPresetThatFits) {
  const Words where = {"--gpus", "8", "--gpu", "h100"};
  const auto words = [&](const std::string& preset, const Words& more) {
    Words all = {"plan", preset};
    all.insert(all.end(), where.begin(), where.end());
    all.insert(all.end(), more.begin(), more.end());
    return command_line(all);
  };
  const Outcome text = words("671b", {});
  EXPECT_EQ(text.code, 6);
  const Json json = Json::parse(words("671b", {"--json"}).out);
  const std::string smaller = json["smaller"];
  EXPECT_TRUE(contains(text.out, "\nsmaller      " + smaller + " fits here")) << text.out;
  EXPECT_EQ(words(smaller, {}).code, 0);
  for (const char* larger : {"20b", "15b", "10b"}) {
    if (smaller == larger) break;
    EXPECT_EQ(words(larger, {}).code, 6) << larger << " fits and was not named";
  }
  EXPECT_EQ(Json::parse(words("671b", {"--explain", "--json"}).out)["smaller"], smaller);
  EXPECT_TRUE(plan_json({})["smaller"].is_null());
}

// Words that stand in one line, however it was wrapped.
std::string unwrapped(const std::string& text) {
  std::string out;
  for (const std::string& word : split(text, ' '))
    for (const std::string& part : split(word, '\n'))
      if (!part.empty()) out += part + " ";
  return out;
}

TEST(PlanWords, SpeedAndCostSayOfWhat) {
  const auto text = [](const Words& more) { return unwrapped(command_line(plan_words(more)).out); };
  EXPECT_TRUE(contains(text({}), "% of the bf16 peak, attention counted causally"));
  EXPECT_TRUE(contains(text({"--set", "training.dtype=fp8"}), "% of the bf16 peak"));
  EXPECT_TRUE(contains(text({"--tokens", "1.5T"}), "for 1.5T tokens"));
  EXPECT_FALSE(contains(text({"--tokens", "100T"}), "give --tokens"));
  const Words steps = {"--set", "training.max_steps=1000",
                       "--set", "training.seq_length=4096",
                       "--set", "training.global_batch_size=512"};
  const std::string own = text(steps);
  EXPECT_TRUE(contains(own, "for 2.10B tokens, the job's own 1,000 steps")) << own;
  EXPECT_FALSE(contains(own, "give --tokens"));
  Words json = steps;
  EXPECT_EQ(plan_json(json)["tokens"], int64_t{1000} * 4096 * 512);
  json[1] = "training.max_steps=1000000000";
  EXPECT_TRUE(contains(text(json), "give --tokens"));
}

TEST(PlanWords, ExplainSaysWhatItsWordsMean) {
  const std::string out = command_line(plan_words({"--explain"})).out;
  for (const char* word : {"exchange", "transient", "MBS", "one rank", "ZeRO-1"})
    EXPECT_TRUE(contains(out.substr(out.find("\nwords\n")), std::string("\n  ") + word)) << word;
}

// The same stand-in for a card without a name as the plan takes.
TEST(PlanWords, ComparedTimesAreThePlansWithoutAName) {
  const auto json = [](Words words) {
    words.insert(words.end(), {"--gpus", "8", "--gpu-memory", "80", "--json"});
    return Json::parse(command_line(words).out);
  };
  const Words fixed = {"plan",  "10b",
                       "--set", "parallel.tensor_parallel_size=1",
                       "--set", "parallel.pipeline_parallel_size=1",
                       "--set", "parallel.expert_parallel_size=8",
                       "--set", "parallel.pipeline_schedule=1f1b",
                       "--set", "training.micro_batch_size=1"};
  const Json plan = json(fixed);
  ASSERT_TRUE(plan["feasible"]);
  const Json& layout = plan["layout"];
  const std::string text = "EP8 recompute=" + layout["recompute"].get<std::string>() +
                           " zero=" + std::to_string(layout["zero_stage"].get<int64_t>()) +
                           " moments=" + layout["moments_dtype"].get<std::string>() +
                           " gradients=" + layout["grads_dtype"].get<std::string>();
  const Json both = json({"plan", "10b", "--compare", text, "--compare", "DP8"});
  EXPECT_EQ(both["left"]["layout"], layout);
  EXPECT_EQ(both["left"]["step_s"], plan["predicted"]["step_s"]);
  EXPECT_GT(both["left"]["step_s"].get<double>(), 0);
  EXPECT_EQ(both["timed_by"], plan["timed_by"]);
  EXPECT_TRUE(both["timed_by"]["assumed"]);
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
  // Of GPUs it says nothing: asked for it is refused, else it is not looked at.
  const Outcome gpus = times({"--gpus", "1", "--gpu", "h100", "--calibration", file});
  EXPECT_EQ(gpus.code, 2);
  EXPECT_TRUE(contains(gpus.err, "is of CPUs (a test")) << gpus.err;
  const Json both = Json::parse(
      times({"--set", "cluster.devices=cuda", "--compare", "DP1", "--compare", "DP1 full"}).out);
  EXPECT_TRUE(both["left"]["step_s"].is_null());
  EXPECT_GT(both["left"]["peak_memory_bytes"].get<int64_t>(), 0);
  ASSERT_TRUE(write_file(file, "{").ok());
  const Outcome broken = times({});
  EXPECT_EQ(broken.code, 2);
  EXPECT_TRUE(contains(broken.err, "calibration.json")) << broken.err;
}

}  // namespace
}  // namespace dsv3::cli
