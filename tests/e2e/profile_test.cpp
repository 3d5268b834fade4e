// dsv3ctl profile as its users meet it: of a configuration and of a job, which it does not touch;
// and what it says when something is wrong.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/text.h"
#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

const Fields kProfile = {{"schema_version", "int"},
                         {"checkpoint", "string?"},
                         {"first_step", "int"},
                         {"device", "string"},
                         {"compute_dtype", "string"},
                         {"steps", "int"},
                         {"tokens_per_step", "int"},
                         {"step_s", "number"},
                         {"outside_s", "number"},
                         {"tokens_per_s", "number"},
                         {"mfu", "number"},
                         {"peak_flops_per_s", "number"},
                         {"peak_f32_flops_per_s", "number"},
                         {"copy_bytes_per_s", "number"},
                         {"ops", "array"}};
const Fields kOp = {{"op", "string"},      {"role", "string?"}, {"place", "string?"},
                    {"shape", "array"},    {"dtype", "string"}, {"calls", "number"},
                    {"seconds", "number"}, {"share", "number"}, {"flops", "number"},
                    {"bytes", "number"},   {"bound", "string"}, {"limit_share", "number?"}};

// The column "%" of a line of the table.
double percent_of(const std::string& line) {
  return std::stod(line.substr(56, 5));
}

TEST(Profile, OfAConfigurationNamesEveryOpOfAStepAndSumsToIt) {
  const Home home;
  const std::string file = home.write_config("mine", home.prepare_text(), 5);
  const Json profile = home.json({"profile", file, "--steps", "2"});
  expect_fields(profile, kProfile, "profile");
  EXPECT_EQ(profile["steps"], 2);
  EXPECT_EQ(profile["first_step"], 0);
  EXPECT_TRUE(profile["checkpoint"].is_null());
  EXPECT_EQ(profile["tokens_per_step"], kTokensPerStep);
  double seconds = profile["outside_s"], shares = seconds / profile["step_s"].get<double>();
  std::set<std::string> ops;
  for (const Json& op : profile["ops"]) {
    expect_fields(op, kOp, "op");
    ops.insert(op["op"]);
    seconds += op["seconds"].get<double>();
    shares += op["share"].get<double>();
  }
  EXPECT_NEAR(seconds, profile["step_s"], 1e-9);
  EXPECT_NEAR(shares, 1.0, 1e-9);
  // What a step of this model is made of; casts of its fp32 residual are copies.
  const std::set<std::string> expected = {"adamw",
                                          "cast",
                                          "clip_scale",
                                          "copy_to_device",
                                          "copy_to_host",
                                          "cross_entropy",
                                          "fill_zero",
                                          "gemm",
                                          "grouped_gemm",
                                          "grouped_gemm_weight_grad",
                                          "permute_rows",
                                          "embedding_backward",
                                          "rms_norm_forward",
                                          "rms_norm_backward",
                                          "rope",
                                          "route_plan",
                                          "router_backward",
                                          "router_bias_update",
                                          "router_forward",
                                          "router_loss",
                                          "squared_norm",
                                          "swiglu_backward",
                                          "swiglu_forward",
                                          "unpermute_sum",
                                          "embedding_forward",
                                          "mla_attention_forward",
                                          "mla_attention_backward"};
  for (const std::string& op : expected) EXPECT_TRUE(ops.contains(op)) << op;
}

TEST(Profile, TheTableIsEightyColumnsAndItsSharesSumToAHundred) {
  const Home home;
  const std::string file = home.write_config("mine", home.prepare_text(), 5);
  const Outcome outcome = home.ctl({"profile", file, "--steps", "1"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  double sum = 0;
  int rows = 0;
  bool total = false;
  for (const std::string& line : split(outcome.out, '\n')) {
    EXPECT_LE(line.size(), 80U) << line;
    if (line.starts_with("OP ") || total) continue;
    if (line.starts_with("step ")) {
      EXPECT_EQ(percent_of(line), 100.0);
      total = true;
      continue;
    }
    sum += percent_of(line);
    ++rows;
  }
  EXPECT_TRUE(total);
  EXPECT_GT(rows, 30);
  EXPECT_NEAR(sum, 100.0, 0.05 * (rows + 1));
  EXPECT_NE(outcome.out.find(" tokens/s, mfu "), std::string::npos) << outcome.out;
}

TEST(Profile, OfAJobGoesOnFromItsNewestCheckpointAndLeavesItAsItWas) {
  const Home home;
  const std::string config = home.write_config("first", home.prepare_text(), 2);
  const Outcome done = home.ctl({"submit", config, "--set", "parallel.data_parallel_size=2",
                                 "--set", "training.micro_batch_size=1", "--wait"},
                                60);
  ASSERT_EQ(done.code, 0) << done.err;
  const std::string id = done.out.substr(0, done.out.find('\n'));
  const Json before = home.job(id);
  EXPECT_EQ(home.ctl({"down"}).code, 0);  // nobody needs to be asked
  const Json profile = home.json({"profile", id, "--steps", "1"});
  expect_fields(profile, kProfile, "profile");
  EXPECT_EQ(profile["first_step"], 2);
  EXPECT_EQ(profile["checkpoint"], before["checkpoint"]["path"]);
  EXPECT_EQ(profile["tokens_per_step"], kTokensPerStep / 2) << "one of two ranks' share";
  EXPECT_EQ(home.ctl({"up"}).code, 0);
  EXPECT_EQ(home.job(id), before);
}

TEST(Profile, RanksOfAnExpertGroupShareTheBatchAsDataRanksDo) {
  const Home home;
  const std::string file = home.write_config("mine", home.prepare_text(), 5);
  const Json profile =
      home.json({"profile", file, "--steps", "1", "--set", "parallel.expert_parallel_size=2",
                 "--set", "parallel.data_parallel_size=2", "--set", "training.micro_batch_size=1"});
  EXPECT_EQ(profile["tokens_per_step"], kTokensPerStep / 4);
}

void expect_refusal(const Home& home, std::vector<std::string> words, int code,
                    const std::string& part) {
  const Outcome plain = home.ctl(words);
  EXPECT_EQ(plain.code, code) << plain.err;
  EXPECT_EQ(plain.out, "");
  EXPECT_NE(plain.err.find(part), std::string::npos) << plain.err;
  words.emplace_back("--json");
  const Outcome outcome = home.ctl(words);
  EXPECT_EQ(outcome.code, code);
  const Json object = Json::parse(outcome.err, nullptr, false);
  ASSERT_TRUE(object.is_object()) << outcome.err;
  expect_fields(object["error"], kError, "error");
}

TEST(Profile, WhatCantBeMeasuredIsRefusedInOneSentence) {
  const Home home;
  expect_refusal(home, {"profile", "demo-99"}, 5, "there is no job, preset or file 'demo-99'");
  expect_refusal(home, {"profile", "no/such.yaml"}, 5, "no/such.yaml");
  expect_refusal(home, {"profile", "../jobs"}, 5, "'../jobs'");
  expect_refusal(home, {"profile", "671b", "--set", "data.path=x"}, 6, "needs");
  expect_refusal(home,
                 {"profile", "demo", "--set", "parallel.zero_stage=3", "--set",
                  "parallel.data_parallel_size=2", "--set", "training.micro_batch_size=4", "--set",
                  "data.path=x"},
                 6, "ZeRO-3");
  expect_refusal(home, {"profile", "demo", "--set", "data.path=nowhere/x"}, 6, "nowhere/x.idx");
  expect_refusal(home, {"profile", "demo", "--set", "model.num_layers=0"}, 2, "num_layers");
  expect_refusal(home, {"profile", "demo", "--steps", "0"}, 2, "--steps");
}

}  // namespace
}  // namespace dsv3::e2e
