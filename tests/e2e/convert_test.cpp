// import, export and score as their users meet them: a job's weights out as a Hugging Face folder,
// back in, scored and trained from; and what they say when something is wrong.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A job of two steps that has completed.
std::string completed_job(const Home& home) {
  const Outcome done =
      home.ctl({"submit", home.write_config("first", home.prepare_text(), 2), "--wait"}, 60);
  EXPECT_EQ(done.code, 0) << done.err;
  return done.out.substr(0, done.out.find('\n'));
}

void expect_error(const Home& home, const std::vector<std::string>& words, int code,
                  const std::string& name, const std::string& part) {
  const Outcome plain = home.ctl(words);
  EXPECT_EQ(plain.code, code) << plain.err;
  EXPECT_EQ(plain.out, "");
  EXPECT_EQ(plain.err.rfind("dsv3ctl: ", 0), 0U) << plain.err;
  EXPECT_EQ(std::count(plain.err.begin(), plain.err.end(), '\n'), 1) << plain.err;
  std::vector<std::string> as_json = words;
  as_json.emplace_back("--json");
  const Outcome outcome = home.ctl(as_json);
  EXPECT_EQ(outcome.code, code);
  const Json object = Json::parse(outcome.err, nullptr, false);
  ASSERT_TRUE(object.is_object()) << outcome.err;
  expect_fields(object["error"], kError, "error");
  EXPECT_EQ(object["error"]["code"], name);
  EXPECT_NE(object["error"]["message"].get<std::string>().find(part), std::string::npos)
      << outcome.err;
}

TEST(Convert, AJobsWeightsGoOutComeBackAndAreTrainedFrom) {
  const Home home;
  const std::string id = completed_job(home);
  const std::string hf = home.path() + "/hf", ckpt = home.path() + "/ckpt";

  const Json exported = home.json({"export", id, "--format", "hf", "--out", hf});
  EXPECT_EQ(exported["dtype"], "fp32") << "as the job trained";
  EXPECT_EQ(exported["path"], hf);
  EXPECT_EQ(Json::parse(bytes_of(hf + "/config.json"))["hidden_size"], 32);
  const Json imported = home.json({"import", hf, "--out", ckpt});
  EXPECT_EQ(imported["checkpoint"], ckpt + "/step-00000000");

  // The same weights score the same, to the last digit.
  const std::vector<std::string> tokens = {"--tokens", "116,104,101,32,114,111"};
  const auto score_of = [&](const std::string& checkpoint) {
    std::vector<std::string> words = {"score", "--checkpoint", checkpoint};
    words.insert(words.end(), tokens.begin(), tokens.end());
    return home.json(words);
  };
  const Json trained = score_of(home.job(id)["checkpoint"]["path"]), again = score_of(ckpt);
  expect_fields(trained,
                {{"schema_version", "int"},
                 {"tokens", "array"},
                 {"logprobs", "array"},
                 {"mean_logprob", "number"},
                 {"perplexity", "number"}},
                "score");
  EXPECT_EQ(trained["tokens"].size(), 6U);
  EXPECT_EQ(trained["logprobs"].size(), 5U);
  EXPECT_EQ(trained["step"], 2);
  EXPECT_EQ(again["logprobs"], trained["logprobs"]);
  EXPECT_NEAR(again["perplexity"].get<double>(), std::exp(-again["mean_logprob"].get<double>()),
              1e-9);

  // A job that starts from the import and learns nothing ends with the same weights.
  const Outcome from =
      home.ctl({"submit", home.path() + "/first.yaml", "--set", "checkpoint.load=" + ckpt, "--set",
                "training.learning_rate=0", "--set", "model.moe.bias_update_rate=0", "--set",
                "model.name=second", "--wait"},
               60);
  ASSERT_EQ(from.code, 0) << from.err;
  const std::string second = from.out.substr(0, from.out.find('\n'));
  home.json({"export", second, "--format", "hf", "--out", home.path() + "/hf2"});
  EXPECT_TRUE(bytes_of(hf + "/model.safetensors") ==
              bytes_of(home.path() + "/hf2/model.safetensors"));
}

TEST(Convert, ErrorsAreOneSentenceWithTheirCode) {
  const Home home;
  const std::string nowhere = home.path() + "/nowhere", out = home.path() + "/out";
  expect_error(home, {"import", nowhere, "--out", out}, 5, "not_found", "there is no folder");
  expect_error(home, {"score", "--checkpoint", nowhere, "--tokens", "1,2"}, 5, "not_found",
               "checkpoint");
  expect_error(home, {"score", "--checkpoint", nowhere, "--tokens", "1,x"}, 2, "invalid",
               "'x' in --tokens");
  expect_error(home, {"score", "--checkpoint", nowhere}, 2, "invalid", "no tokens");
  expect_error(home, {"export", "--checkpoint", nowhere, "--format", "hf", "--out", out}, 5,
               "not_found", "checkpoint");
  expect_error(home, {"export", "--format", "hf", "--out", out}, 2, "invalid",
               "JOB or --checkpoint");
  expect_error(home, {"export", "demo-1", "--format", "hf", "--out", out}, 3, "no_coordinator", "");
  EXPECT_EQ(home.ctl({"export", "--checkpoint", nowhere, "--format", "gguf", "--out", out}).code,
            2);
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST(Convert, HelpHasExamples) {
  const Home home;
  for (const char* verb : {"import", "export", "score"}) {
    const Outcome help = home.ctl({verb, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find(fmt::format("  dsv3ctl {} ", verb)), std::string::npos) << help.out;
  }
}

}  // namespace
}  // namespace dsv3::e2e
