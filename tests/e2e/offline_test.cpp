// The verbs that need no coordinator, as programs read them: shapes of CLI.md, exit codes, what
// stands on which output.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

std::string write_bad_config(const Home& home) {
  const std::string file = home.path() + "/bad.yaml";
  std::ofstream(file) << "model:\n  d_modle: 32\n  num_layers: 2\n";
  return file;
}

TEST(Offline, ConfigsListHasEveryFieldOfEachPreset) {
  const Home home;
  const Json list = home.json({"configs", "list"});
  EXPECT_EQ(list["schema_version"], 1);
  ASSERT_GE(list["configs"].size(), 6u);
  for (const Json& preset : list["configs"]) {
    expect_fields(preset,
                  {{"name", "string"},
                   {"file", "string"},
                   {"params_total", "int"},
                   {"params_active", "int"},
                   {"layers", "int"},
                   {"d_model", "int"},
                   {"experts", "int"},
                   {"top_k", "int"},
                   {"context", "int"},
                   {"gpus_min", "int"},
                   {"gpu_memory_gb", "number"},
                   {"use_case", "string"}},
                  preset.value("name", "preset"));
  }
  const Outcome table = home.ctl({"configs", "list"});
  EXPECT_NE(table.out.find("\n671b "), std::string::npos) << table.out;
}

TEST(Offline, ConfigsShowPrintsAFileThatValidates) {
  const Home home;
  const Outcome shown = home.ctl({"configs", "show", "15b"});
  EXPECT_EQ(shown.code, 0);
  std::ofstream(home.path() + "/copy.yaml") << shown.out;
  EXPECT_EQ(home.ctl({"validate", home.path() + "/copy.yaml"}).code, 0);
  EXPECT_EQ(home.ctl({"configs", "show", "15bb"}).code, 5);
}

TEST(Offline, ValidateSaysYesWithItsWarnings) {
  const Home home;
  const Json result = home.json({"validate", "demo"});
  EXPECT_EQ(result["schema_version"], 1);
  EXPECT_EQ(result["valid"], true);
  EXPECT_TRUE(result["errors"].is_array() && result["errors"].empty());
  for (const Json& warning : result["warnings"]) expect_fields(warning, kDiagnostic, "warning");
}

TEST(Offline, ValidatePrintsItsObjectOnStdoutAtExit2Too) {
  const Home home;
  const std::string file = write_bad_config(home);
  const Outcome outcome = home.ctl({"validate", file, "--json"});
  EXPECT_EQ(outcome.code, 2);
  const Json result = Json::parse(outcome.out, nullptr, false);
  ASSERT_TRUE(result.is_object()) << outcome.out << outcome.err;
  EXPECT_EQ(result["valid"], false);
  ASSERT_FALSE(result["errors"].empty());
  for (const Json& error : result["errors"]) expect_fields(error, kDiagnostic, "error");
  const Json& first = result["errors"][0];
  EXPECT_EQ(first["where"], file + ":2:3");
  EXPECT_NE(first.dump().find("d_model"), std::string::npos) << first.dump();
}

TEST(Offline, AnUnknownKeyIsNamedWithItsPlace) {
  const Home home;
  const std::string file = write_bad_config(home);
  for (const char* verb : {"validate", "params", "plan", "submit"}) {
    const Outcome outcome = home.ctl({verb, file});
    EXPECT_EQ(outcome.code, 2) << verb;
    EXPECT_EQ(outcome.out, "") << verb;
    EXPECT_NE(outcome.err.find(file + ":2:3: "), std::string::npos) << verb << ": " << outcome.err;
    EXPECT_NE(outcome.err.find("did you mean 'd_model'"), std::string::npos)
        << verb << ": " << outcome.err;
  }
  const Outcome outcome = home.ctl({"submit", file, "--json"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  const Json object = Json::parse(outcome.err, nullptr, false);
  ASSERT_TRUE(object.is_object()) << outcome.err;
  expect_fields(object["error"], kError, "error");
  EXPECT_EQ(object["error"]["code"], "invalid");
  EXPECT_EQ(object["error"]["where"], file + ":2:3");
  EXPECT_TRUE(home.processes().empty()) << "a refused job started a coordinator";
}

TEST(Offline, AnEmptyFileIsAnErrorAndAMissingOneIsNotFound) {
  const Home home;
  std::ofstream(home.path() + "/empty.yaml") << "";
  EXPECT_EQ(home.ctl({"validate", home.path() + "/empty.yaml"}).code, 2);
  EXPECT_EQ(home.ctl({"validate", home.path() + "/absent.yaml"}).code, 5);
}

TEST(Offline, ParamsHasItsPartsAndFlopsAndThePartsSumUp) {
  const Home home;
  const Json params = home.json({"params", "671b"});
  EXPECT_EQ(params["schema_version"], 1);
  expect_fields(params,
                {{"total", "int"},
                 {"active", "int"},
                 {"active_with_embedding", "int"},
                 {"active_non_embedding", "int"},
                 {"by_part", "object"},
                 {"router_bias_buffer", "int"},
                 {"flops_per_token", "object"}},
                "params");
  const Fields parts = {{"embedding", "int"},      {"attention", "int"},      {"dense_ffn", "int"},
                        {"routed_experts", "int"}, {"shared_experts", "int"}, {"router", "int"},
                        {"norms", "int"},          {"head", "int"},           {"mtp", "int"}};
  expect_fields(params["by_part"], parts, "by_part");
  int64_t sum = 0;
  for (const auto& [name, type] : parts)
    sum += name == "mtp" ? 0 : params["by_part"][name].get<int64_t>();
  EXPECT_EQ(params["total"], sum);
  EXPECT_EQ(params["total"], 671'026'404'352)
      << "DeepSeek-V3's count, without MTP and the routers' bias";
  expect_fields(params["flops_per_token"],
                {{"sequence", "int"},
                 {"total", "number"},
                 {"attention", "number"},
                 {"megatron_convention", "number"}},
                "flops_per_token");
  EXPECT_EQ(params["flops_per_token"]["sequence"], 4096);
}

void expect_plan(const Json& plan) {
  EXPECT_EQ(plan["schema_version"], 1);
  expect_fields(plan,
                {{"feasible", "bool"},
                 {"gpus", "int"},
                 {"layout", "object"},
                 {"predicted", "object"},
                 {"ledger", "array"},
                 {"worst_rank", "int"},
                 {"ranks", "array"},
                 {"runnable", "bool"},
                 {"gpus_needed", "int?"},
                 {"rejected", "array"}},
                "plan");
  expect_fields(plan["layout"], kLayout, "layout");
  expect_fields(plan["predicted"],
                {{"peak_memory_bytes", "int"},
                 {"step_s", "number?"},
                 {"tokens_per_s", "number?"},
                 {"tokens_per_s_per_gpu", "number?"},
                 {"mfu", "number?"},
                 {"days", "number?"},
                 {"cost_usd", "number?"}},
                "predicted");
  int64_t sum = 0;
  for (const Json& line : plan["ledger"]) {
    expect_fields(line, {{"name", "string"}, {"bytes", "int"}}, "ledger");
    sum += line.value("bytes", int64_t{0});
  }
  EXPECT_EQ(plan["predicted"]["peak_memory_bytes"], sum);
  for (const Json& rank : plan["ranks"]) {
    expect_fields(rank,
                  {{"global_rank", "int"},
                   {"tp_rank", "int"},
                   {"cp_rank", "int"},
                   {"ep_rank", "int"},
                   {"dp_rank", "int"},
                   {"pp_stage", "int"},
                   {"node", "string"}},
                  "rank");
  }
  for (const Json& rejected : plan["rejected"])
    expect_fields(rejected, {{"layout", "object"}, {"reason", "string"}}, "rejected");
}

TEST(Offline, PlanOfWhatFitsHasEveryField) {
  const Home home;
  const Json plan = home.json({"plan", "10b", "--gpus", "8", "--gpu-memory", "80"});
  expect_plan(plan);
  EXPECT_EQ(plan["feasible"], true);
  EXPECT_TRUE(plan["gpus_needed"].is_null());
  EXPECT_FALSE(plan["ranks"].empty());
}

TEST(Offline, PlanOfWhatDoesNotFitExits6AndPrintsItAllTheSame) {
  const Home home;
  const Outcome outcome = home.ctl({"plan", "15b", "--gpus", "1", "--gpu-memory", "24", "--json"});
  EXPECT_EQ(outcome.code, 6);
  const Json plan = Json::parse(outcome.out, nullptr, false);
  ASSERT_TRUE(plan.is_object()) << outcome.out << outcome.err;
  expect_plan(plan);
  EXPECT_EQ(plan["feasible"], false);
  ASSERT_TRUE(plan["gpus_needed"].is_number_integer()) << plan["gpus_needed"];
  EXPECT_GT(plan["gpus_needed"], 1);
}

TEST(Offline, SubmitOfWhatDoesNotFitExits6WithFiguresAndStartsNothing) {
  const Home home;
  const Outcome outcome = home.ctl({"submit", "15b"});
  EXPECT_EQ(outcome.code, 6);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("15b needs "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(" GiB"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(" GB GPUs would"), std::string::npos) << outcome.err;
  const Outcome as_json = home.ctl({"submit", "15b", "--json"});
  EXPECT_EQ(as_json.code, 6);
  const Json object = Json::parse(as_json.err.substr(as_json.err.find('{')), nullptr, false);
  ASSERT_TRUE(object.is_object()) << as_json.err;
  EXPECT_EQ(object["error"]["code"], "does_not_fit");
  EXPECT_TRUE(home.processes().empty());
}

TEST(Offline, ADryRunPrintsThePlanAndStartsNothing) {
  const Home home;
  const std::string file = home.write_config("tiny", home.path() + "/data/bytes", 3);
  const Outcome outcome = home.ctl({"submit", file, "--dry-run", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json result = Json::parse(outcome.out, nullptr, false);
  ASSERT_TRUE(result.is_object()) << outcome.out;
  expect_plan(result["plan"]);
  EXPECT_NE(result["launch_script"].get<std::string>().find("dsv3-agent --state-dir "),
            std::string::npos);
  EXPECT_NE(result["launch_script"].get<std::string>().find(" --job JOB --attempt 1 --node "),
            std::string::npos);
  EXPECT_TRUE(home.processes().empty());
}

TEST(Offline, ExplainKnowsEveryKeyByItsName) {
  const Home home;
  const Outcome key = home.ctl({"explain", "model.mla.kv_lora_rank"});
  EXPECT_EQ(key.code, 0);
  EXPECT_NE(key.out.find("d_latent"), std::string::npos) << key.out;
  EXPECT_NE(home.ctl({"explain", "model.mla.kv_lora_rnk"}).code, 0);
}

TEST(Offline, DataPrepareReportsAsAnObjectAndRefusesAMissingInput) {
  const Home home;
  const std::string prefix = home.prepare_text();
  const Json report = home.json({"data", "prepare", "--input", home.path() + "/text.txt",
                                 "--tokenizer", "byte", "--out", prefix});
  EXPECT_EQ(report["up_to_date"], true);
  EXPECT_EQ(report["vocab_size"], 257);
  EXPECT_GT(report["tokens"], 1000);
  const Outcome help = home.ctl({"data", "prepare", "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_NE(help.out.find("--tokenizer"), std::string::npos) << help.out;
  const Outcome missing = home.ctl({"data", "prepare", "--input", home.path() + "/none.txt",
                                    "--tokenizer", "byte", "--out", prefix + "2"});
  EXPECT_EQ(missing.code, 5) << missing.err;
  EXPECT_NE(missing.err.find("none.txt"), std::string::npos) << missing.err;
}

TEST(Offline, OutputThatCannotBeWrittenIsAnError) {
  const Home home;
  for (const std::string& verb :
       std::vector<std::string>{"configs list", "version", "explain model.moe.n_group"}) {
    const Outcome outcome = run(
        {"/bin/sh", "-c", home.ctl_words({})[0] + " " + verb + " > /dev/full"}, home.environment());
    EXPECT_EQ(outcome.code, 1) << verb;
    EXPECT_NE(outcome.err.find("cannot write the output: No space left on device"),
              std::string::npos)
        << outcome.err;
  }
}

}  // namespace
}  // namespace dsv3::e2e
