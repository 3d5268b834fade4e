// One small training, looked at from every side: what it printed, what every reading verb says of
// it, what it left on disk.
//
// Law: the same fact asked in two ways (metrics and SQL, status and events, experts and tokens
// trained) is the same fact.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <span>

#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include "tests/e2e/home.h"
#include "tests/e2e/shape.h"

namespace dsv3::e2e {
namespace {

constexpr int kSteps = 6;

class TrainedJob : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    home_ = std::make_unique<Home>();
    const std::string config = home_->write_config("tiny", home_->prepare_text(), kSteps);
    submitted_ = home_->ctl({"submit", config, "--wait"}, 90);
    id_ = split(submitted_.out, '\n')[0];
  }
  static void TearDownTestSuite() { home_.reset(); }
  void SetUp() override { ASSERT_EQ(submitted_.code, 0) << submitted_.err; }

  static Home& home() { return *home_; }

  static std::unique_ptr<Home> home_;
  static Outcome submitted_;
  static std::string id_;
};
std::unique_ptr<Home> TrainedJob::home_;
Outcome TrainedJob::submitted_;
std::string TrainedJob::id_;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(TrainedJob, SubmitPrintsTheIdAloneAndTheSummaryBesideIt) {
  EXPECT_EQ(submitted_.out, "tiny-1\n");
  EXPECT_TRUE(contains(submitted_.err, "started a coordinator")) << submitted_.err;
  EXPECT_TRUE(contains(submitted_.err, "tiny-1 COMPLETED")) << submitted_.err;
  for (const char* word : {"\n  loss ", "\n  validation ", "\n  speed ", "\n  experts ",
                           "\n  time ", "\n  checkpoint ", "\n  database "}) {
    EXPECT_TRUE(contains(submitted_.err, word)) << word << " is missing in: " << submitted_.err;
  }
  EXPECT_TRUE(contains(submitted_.err, "unigram entropy")) << submitted_.err;
  EXPECT_TRUE(contains(submitted_.err, home().state_dir() + "/dsv3d.db"));
  EXPECT_TRUE(std::filesystem::exists(home().state_dir() + "/dsv3d.db"));
}

TEST_F(TrainedJob, StatusListsTheCoordinatorAndTheJob) {
  const Json status = home().json({"status"});
  EXPECT_EQ(status["schema_version"], 1);
  expect_fields(status["coordinator"],
                {{"version", "string"}, {"pid", "int"}, {"state_dir", "string"}}, "coordinator");
  EXPECT_EQ(status["coordinator"]["state_dir"], home().state_dir());
  ASSERT_EQ(status["jobs"].size(), 1u);
  expect_fields(status["jobs"][0], kJob, "job");
  EXPECT_EQ(status["jobs"][0]["id"], id_);
}

TEST_F(TrainedJob, MemoryTellsWhatIsUnknownFromWhatIsZero) {
  const Json ranks = home().json({"memory", id_})["ranks"];
  ASSERT_EQ(ranks.size(), 1u);
  bool process = false;
  for (const Json& entry : ranks[0]["names"]) {
    if (entry["name"] != "process") continue;
    process = true;
    EXPECT_GT(entry["predicted_bytes"], 0);
    EXPECT_TRUE(entry["measured_bytes"].is_null()) << entry;
  }
  EXPECT_TRUE(process) << ranks;
  EXPECT_GT(ranks[0]["measured_bytes"], 0);
}

TEST_F(TrainedJob, StatusOfTheJobSaysHowItEnded) {
  const Json job = home().job(id_);
  expect_fields(job, kJob, "job");
  expect_fields(job["layout"], kLayout, "layout");
  expect_fields(job["checkpoint"], {{"step", "int"}, {"path", "string"}}, "checkpoint");
  EXPECT_EQ(job["state"], "COMPLETED");
  EXPECT_EQ(job["name"], "tiny");
  EXPECT_EQ(job["attempt"], 1);
  EXPECT_EQ(job["restarts"], 0);
  EXPECT_EQ(job["lost_steps"], 0);
  EXPECT_EQ(job["step"], kSteps);
  EXPECT_EQ(job["max_steps"], kSteps);
  EXPECT_EQ(job["ranks"], 1);
  for (const char* degree : {"tp", "cp", "pp", "ep", "dp", "etp", "dense_dp", "expert_dp"})
    EXPECT_EQ(job["layout"][degree], 1) << degree;
  EXPECT_EQ(job["layout"]["micro_batch"], 2);
  EXPECT_EQ(job["layout"]["grad_accumulation"], 2);
  const double share = job["effective_time_ratio"];
  EXPECT_GT(share, 0.0);
  EXPECT_LE(share, 1.0);
}

TEST_F(TrainedJob, MetricsAreOneObjectALineWithEveryStepOnce) {
  const auto rows = home().json_lines({"metrics", id_});
  ASSERT_EQ(rows.size(), static_cast<size_t>(kSteps));
  for (size_t i = 0; i < rows.size(); ++i) {
    expect_fields(rows[i],
                  {{"attempt", "int"},
                   {"step", "int"},
                   {"loss", "number"},
                   {"aux_loss", "number"},
                   {"z_loss", "number"},
                   {"grad_norm", "number"},
                   {"lr", "number"},
                   {"tokens", "int"},
                   {"tokens_per_s", "number"},
                   {"mfu", "number?"},
                   {"step_s", "number"},
                   {"dropped", "int"}},
                  "metrics");
    EXPECT_EQ(rows[i]["step"], i + 1);
    EXPECT_EQ(rows[i]["tokens"], kTokensPerStep);
    EXPECT_EQ(rows[i]["attempt"], 1);
  }
  EXPECT_NEAR(rows[0]["loss"].get<double>(), 5.56, 0.3) << "ln 260 at the start";
  EXPECT_LT(rows.back()["loss"], rows.front()["loss"]) << "it did not learn";
  EXPECT_EQ(home().job(id_)["loss"], rows.back()["loss"]);
}

TEST_F(TrainedJob, LossesReadBackFromSqlAreTheSameNumbers) {
  const auto rows = home().json_lines({"metrics", id_});
  const Json sql =
      home().sql("SELECT step, loss, grad_norm, lr, tokens FROM metrics WHERE job = '" + id_ +
                 "' ORDER BY step");
  ASSERT_EQ(sql.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(sql[i]["step"], rows[i]["step"]);
    for (const char* field : {"loss", "grad_norm", "lr"}) {
      EXPECT_EQ(sql[i][field].get<double>(), rows[i][field].get<double>())
          << field << " of step " << i + 1;
    }
    EXPECT_EQ(sql[i]["tokens"], kTokensPerStep);
  }
  const Outcome table = home().ctl({"sql", "SELECT loss FROM metrics WHERE step = 3"});
  EXPECT_EQ(std::stod(split(table.out, '\n')[1]), rows[2]["loss"].get<double>()) << table.out;
}

TEST_F(TrainedJob, ExpertsCountEveryTokenOfTheStep) {
  for (int step = 1; step <= kSteps; ++step) {
    const Json experts = home().json({"experts", id_, "--step", std::to_string(step)});
    EXPECT_EQ(experts["step"], step);
    ASSERT_EQ(experts["layers"].size(), 1u);
    const Json& layer = experts["layers"][0];
    expect_fields(layer,
                  {{"layer", "int"},
                   {"tokens", "array"},
                   {"usage_mean", "number"},
                   {"usage_std", "number"},
                   {"usage_min", "number"},
                   {"usage_max", "number"},
                   {"entropy", "number"},
                   {"max_violation", "number"},
                   {"dead", "array"},
                   {"verdict", "string"}},
                  "layer");
    EXPECT_EQ(layer["layer"], kMoeLayer);
    ASSERT_EQ(layer["tokens"].size(), static_cast<size_t>(kExperts));
    int64_t sum = 0;
    int64_t most = 0;
    for (const int64_t tokens : layer["tokens"]) {
      sum += tokens;
      most = std::max(most, tokens);
    }
    EXPECT_EQ(sum, kTokensPerStep * kTopK) << "step " << step;
    EXPECT_DOUBLE_EQ(layer["usage_max"], static_cast<double>(most) / static_cast<double>(sum));
    EXPECT_NEAR(layer["max_violation"].get<double>(),
                static_cast<double>(most * kExperts) / static_cast<double>(sum) - 1.0, 1e-12);
  }
  EXPECT_EQ(home().json({"experts", id_})["step"], kSteps) << "the newest by default";
  EXPECT_EQ(home().ctl({"experts", id_, "--step", "99"}).code, 5);
}

TEST_F(TrainedJob, ExpertUsageIsPlainSql) {
  const Json rows = home().sql(
      "SELECT job, attempt, step, layer, expert, tokens FROM expert_usage ORDER BY step, layer, "
      "expert");
  ASSERT_EQ(rows.size(), static_cast<size_t>(kSteps * kExperts));
  std::map<int64_t, int64_t> tokens_of_step;
  for (const Json& row : rows) {
    EXPECT_EQ(row["job"], id_);
    EXPECT_EQ(row["layer"], kMoeLayer);
    tokens_of_step[row["step"]] += row["tokens"].get<int64_t>();
  }
  for (const auto& [step, tokens] : tokens_of_step)
    EXPECT_EQ(tokens, kTokensPerStep * kTopK) << "step " << step;
  const Json last = home().json({"experts", id_})["layers"][0]["tokens"];
  for (size_t e = 0; e < last.size(); ++e)
    EXPECT_EQ(rows[rows.size() - last.size() + e]["tokens"], last[e]);
}

TEST_F(TrainedJob, EventsTellTheWholeWayInOrder) {
  const auto events = home().json_lines({"events", id_});
  int64_t seq = 0;
  double time = 0;
  std::vector<std::string> names;
  for (const Json& event : events) {
    expect_fields(event,
                  {{"seq", "int"},
                   {"time", "number"},
                   {"job", "string"},
                   {"attempt", "int"},
                   {"event", "string"}},
                  "event");
    EXPECT_GT(event["seq"].get<int64_t>(), seq);
    EXPECT_GE(event["time"].get<double>(), time);
    EXPECT_EQ(event["job"], id_);
    seq = event["seq"];
    time = event["time"];
    names.push_back(event["event"]);
  }
  const std::vector<std::string> way = {"job_submitted",   "job_picked",   "attempt_launched",
                                        "agent_connected", "rank_started", "job_running",
                                        "checkpoint_done", "rank_exited",  "agent_done",
                                        "attempt_ended",   "job_completed"};
  auto at = names.begin();
  for (const std::string& name : way) {
    at = std::find(at, names.end(), name);
    ASSERT_NE(at, names.end()) << name << " is missing or out of order in " << Json(names).dump();
  }
  EXPECT_EQ(names.back(), "job_completed");
  const Json counted = home().sql("SELECT count(*) AS n FROM events WHERE job = '" + id_ + "'");
  EXPECT_EQ(counted[0]["n"], events.size());
}

TEST_F(TrainedJob, NodesHaveDevicesAndAState) {
  const Json nodes = home().json({"nodes"});
  ASSERT_EQ(nodes["nodes"].size(), 1u);
  const Json& node = nodes["nodes"][0];
  expect_fields(node,
                {{"name", "string"},
                 {"state", "string"},
                 {"reason", "string"},
                 {"since", "number"},
                 {"devices", "array"},
                 {"last_heard_s", "number?"}},
                "node");
  ASSERT_FALSE(node["devices"].empty());
  for (const Json& device : node["devices"]) {
    expect_fields(
        device,
        {{"kind", "string"}, {"name", "string"}, {"uuid", "string"}, {"memory_bytes", "int"}},
        "device");
    EXPECT_GT(device["memory_bytes"], 0);
  }
}

TEST_F(TrainedJob, SqlSeesTheJobAndChangesNothing) {
  const Json jobs = home().sql("SELECT id, state, max_steps FROM jobs");
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0]["id"], id_);
  EXPECT_EQ(jobs[0]["state"], "COMPLETED");
  for (const char* statement :
       {"DELETE FROM job_rows", "UPDATE metric_rows SET loss = 0",
        "INSERT INTO event_rows VALUES (99,0,'',0,'note','{}')", "DROP VIEW metrics",
        "CREATE TABLE mine (x)", "PRAGMA user_version = 7", "ATTACH ':memory:' AS other",
        "SELECT 1; DELETE FROM job_rows", "SELEC 1", ""}) {
    const Outcome outcome = home().ctl({"sql", statement});
    EXPECT_EQ(outcome.code, 2) << statement << ": " << outcome.out << outcome.err;
    EXPECT_EQ(outcome.out, "") << statement;
    EXPECT_NE(outcome.err, "") << statement;
  }
  EXPECT_EQ(home().sql("SELECT count(*) AS n FROM metrics")[0]["n"], kSteps);
  EXPECT_EQ(home().sql("SELECT NULL AS absent, 1.5 AS half, 'x' AS letter")[0],
            (Json{{"absent", nullptr}, {"half", 1.5}, {"letter", "x"}}));
}

TEST_F(TrainedJob, LogsHaveALineForEveryStep) {
  const Outcome logs = home().ctl({"logs", id_});
  EXPECT_EQ(logs.code, 0);
  for (int step = 1; step <= kSteps; ++step)
    EXPECT_TRUE(contains(logs.out, fmt::format("step {}/{} loss ", step, kSteps))) << logs.out;
  EXPECT_EQ(home().ctl({"logs", id_, "-f"}).out, logs.out)
      << "following a job that has ended prints its log and ends";
  EXPECT_EQ(home().ctl({"logs", id_, "--agent"}).code, 0);
  EXPECT_EQ(home().ctl({"logs", id_, "--rank", "7"}).code, 5);
  const auto pieces = home().json_lines({"logs", id_});
  std::string text;
  for (const Json& piece : pieces) text += piece["text"].get<std::string>();
  EXPECT_EQ(text, logs.out);
}

TEST_F(TrainedJob, TheCheckpointIsWholeAndSealed) {
  const Json checkpoint = home().job(id_)["checkpoint"];
  EXPECT_EQ(checkpoint["step"], kSteps);
  const std::string folder = checkpoint["path"];
  EXPECT_TRUE(folder.starts_with(home().state_dir() + "/jobs/" + id_ + "/")) << folder;
  const auto manifest = read_file(folder + "/manifest.json");
  ASSERT_TRUE(manifest.ok()) << manifest.status().to_string();
  const auto seal = read_file(folder + "/complete");
  ASSERT_TRUE(seal.ok()) << seal.status().to_string();
  EXPECT_EQ(*seal, checksum(std::as_bytes(std::span(*manifest))) + "\n");
  const Json object = Json::parse(*manifest);
  EXPECT_EQ(object["job"], id_);
  EXPECT_EQ(object["step"], kSteps);
  EXPECT_EQ(object["attempt"], 1);
  for (const Json& shard : object["shards"]) {
    EXPECT_EQ(std::filesystem::file_size(folder + "/" + shard["file"].get<std::string>()),
              shard["bytes"].get<uint64_t>());
  }
  int expert_keys = 0;
  for (const Json& tensor : object["tensors"]) {
    const std::string name = tensor["name"];
    expert_keys += !name.starts_with("exp_avg") && contains(name, ".experts.") &&
                   contains(name, "gate_proj") && !contains(name, "shared");
  }
  EXPECT_EQ(expert_keys, kExperts) << "one key per expert";
}

TEST_F(TrainedJob, TheTablesForPeopleNameTheJob) {
  EXPECT_TRUE(contains(home().ctl({"status"}).out, id_ + "  COMPLETED"));
  const Outcome status = home().ctl({"status", id_});
  EXPECT_TRUE(contains(status.out, "COMPLETED")) << status.out;
  EXPECT_TRUE(contains(status.out, "dsv3ctl experts " + id_)) << status.out;
  EXPECT_FALSE(contains(status.out, "\033[")) << "colours where there is no terminal";
  EXPECT_TRUE(contains(home().ctl({"metrics", id_}).out, "GRAD NORM"));
  EXPECT_TRUE(contains(home().ctl({"experts", id_}).out, "VERDICT"));
  EXPECT_TRUE(contains(home().ctl({"events", id_}).out, "job_completed"));
  EXPECT_TRUE(contains(home().ctl({"nodes"}).out, "NODE"));
}

TEST_F(TrainedJob, WaitCancelAndCheckpointKnowThatItHasEnded) {
  const Outcome wait = home().ctl({"wait", id_, "--json"});
  EXPECT_EQ(wait.code, 0) << wait.err;
  EXPECT_EQ(Json::parse(wait.out)["job"]["state"], "COMPLETED");
  EXPECT_EQ(home().ctl({"cancel", id_}).code, 7);
  EXPECT_EQ(home().ctl({"checkpoint", id_}).code, 7);
  EXPECT_EQ(home().job(id_)["state"], "COMPLETED");
}

TEST_F(TrainedJob, CompletionOffersItsId) {
  const Outcome outcome = home().ctl({"__complete", "--", "status"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains("\n" + outcome.out, "\n" + id_ + "\n")) << outcome.out;
}

TEST_F(TrainedJob, UnknownJobsAreNotFoundEverywhere) {
  for (const char* verb :
       {"status", "metrics", "experts", "events", "logs", "wait", "cancel", "checkpoint"}) {
    const Outcome outcome = home().ctl({verb, "tiny-77"});
    EXPECT_EQ(outcome.code, 5) << verb << ": " << outcome.err;
    EXPECT_EQ(outcome.out, "") << verb << ": nothing found is not an empty answer";
    EXPECT_TRUE(contains(outcome.err, "tiny-77")) << verb << ": " << outcome.err;
    const Outcome as_json = home().ctl({verb, "tiny-77", "--json"});
    EXPECT_EQ(as_json.code, 5) << verb;
    const Json object = Json::parse(as_json.err, nullptr, false);
    ASSERT_TRUE(object.is_object()) << verb << ": " << as_json.err;
    expect_fields(object["error"], kError, verb);
    EXPECT_EQ(object["error"]["code"], "not_found") << verb;
  }
}

TEST_F(TrainedJob, AKilledCoordinatorReplaysToTheSameState) {
  const Json before = home().job(id_);
  const auto metrics = home().json_lines({"metrics", id_});
  const pid_t pid = home().coordinator_pid();
  ASSERT_GT(pid, 0);
  ASSERT_EQ(::kill(pid, SIGKILL), 0);
  ASSERT_TRUE(wait_until([&] { return home().processes("dsv3d").empty(); }));
  EXPECT_EQ(home().ctl({"status"}).code, 3);
  ASSERT_EQ(home().ctl({"up"}).code, 0);
  EXPECT_EQ(home().job(id_), before);
  EXPECT_EQ(home().json_lines({"metrics", id_}), metrics);
}

}  // namespace
}  // namespace dsv3::e2e
