// See home.h.
#include "tests/e2e/home.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/text.h"

namespace dsv3::e2e {
namespace {

// Sentences of a small grammar, in a fixed order: a text that a model of bytes learns something of
// in a few steps.
std::string some_text() {
  const std::vector<std::string> who = {"the router", "an expert", "the coordinator", "a worker",
                                        "the agent"};
  const std::vector<std::string> does = {"sends", "keeps", "counts", "returns", "reads"};
  const std::vector<std::string> what = {"the tokens", "a checkpoint", "its weights", "the loss",
                                         "every step"};
  std::string text;
  for (size_t i = 0; i < 400; ++i) {
    text += fmt::format("{} {} {}.{}", who[i % 5], does[(i * 7 + i / 5) % 5],
                        what[(i * 3 + i / 7) % 5], i % 4 == 3 ? "\n\n" : " ");
  }
  return text;
}

constexpr const char* kConfig = R"(model:
  name: tiny
  vocab_size: 260
  num_layers: 2
  d_model: 32
  num_heads: 2
  dense_intermediate_size: 64
  max_context_length: 32
  mla:
    kv_lora_rank: 16
    q_lora_rank: null
    qk_nope_head_dim: 16
    qk_rope_head_dim: 8
    v_head_dim: 16
  moe:
    num_experts: 4
    num_experts_per_token: 2
    expert_intermediate_size: 32
    num_shared_experts: 1
    first_k_dense: 1
parallel: {{tensor_parallel_size: 1, pipeline_parallel_size: 1, expert_parallel_size: 1, data_parallel_size: 1}}
training:
  max_steps: {}
  global_batch_size: 4
  micro_batch_size: 2
  seq_length: 32
  dtype: fp32
  learning_rate: 1.0e-2
  lr_schedule: constant
  eval_batches: 1
data:
  path: {}
  split: [0.9, 0.1]
  tokenizer: byte
cluster:
  launcher: local
  devices: cpu
)";

}  // namespace

Home::Home() : path_(testing::TempDir() + "dsv3-e2e-XXXXXX") {
  EXPECT_NE(::mkdtemp(path_.data()), nullptr) << path_;
}

Home::~Home() {
  if (std::filesystem::exists(state_dir())) (void)ctl({"down"}, 40);
  for (const pid_t pid : processes()) ::kill(pid, SIGKILL);
  EXPECT_TRUE(wait_until([&] { return processes().empty(); }));
  std::error_code ignored;
  if (!testing::Test::HasFailure()) std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> Home::ctl_words(const std::vector<std::string>& words) const {
  std::vector<std::string> argv = {std::string(DSV3_BIN_DIR) + "/dsv3ctl"};
  argv.insert(argv.end(), words.begin(), words.end());
  return argv;
}

Outcome Home::ctl(const std::vector<std::string>& words, int timeout_s) const {
  const Outcome outcome = run(ctl_words(words), environment(), timeout_s);
  EXPECT_FALSE(outcome.timed_out) << "dsv3ctl " << words[0] << " took more than " << timeout_s
                                  << " s; stderr: " << outcome.err;
  return outcome;
}

Json Home::json(std::vector<std::string> words) const {
  words.emplace_back("--json");
  const Outcome outcome = ctl(words);
  EXPECT_EQ(outcome.code, 0) << words[0] << ": " << outcome.err;
  const Json object = Json::parse(outcome.out, nullptr, false);
  EXPECT_TRUE(object.is_object()) << words[0] << " printed: " << outcome.out;
  return object.is_object() ? object : Json();
}

std::vector<Json> Home::json_lines(std::vector<std::string> words) const {
  words.emplace_back("--json");
  const Outcome outcome = ctl(words);
  EXPECT_EQ(outcome.code, 0) << words[0] << ": " << outcome.err;
  std::vector<Json> objects;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);) {
    objects.push_back(Json::parse(line, nullptr, false));
    EXPECT_TRUE(objects.back().is_object()) << words[0] << " printed: " << line;
  }
  return objects;
}

Json Home::sql(const std::string& statement) const {
  return json({"sql", statement}).value("rows", Json::array());
}

std::string Home::prepare_text() const {
  std::ofstream(path_ + "/text.txt") << some_text();
  const std::string prefix = path_ + "/data/bytes";
  const Outcome outcome = ctl(
      {"data", "prepare", "--input", path_ + "/text.txt", "--tokenizer", "byte", "--out", prefix});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return prefix;
}

std::string Home::write_config(const std::string& name, const std::string& data_prefix,
                               int max_steps) const {
  const std::string file = fmt::format("{}/{}.yaml", path_, name);
  std::ofstream(file) << fmt::format(fmt::runtime(kConfig), max_steps, data_prefix);
  return file;
}

std::string Home::submit_job(int max_steps, const std::vector<std::string>& more) const {
  const std::string prefix = path_ + "/data/bytes";
  if (!std::filesystem::exists(prefix + ".idx")) (void)prepare_text();
  std::vector<std::string> words = {"submit", write_config("long", prefix, max_steps)};
  words.insert(words.end(), more.begin(), more.end());
  const Outcome outcome = ctl(words);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return split(outcome.out, '\n')[0];
}

std::string Home::start_job(int max_steps, const std::vector<std::string>& more) const {
  const std::string id = submit_job(max_steps, more);
  EXPECT_TRUE(wait_until([&] { return step(id) > 0; }, 60)) << job(id).dump(1);
  return id;
}

Json Home::job(const std::string& id) const {
  return json({"status", id}).value("job", Json::object());
}

int64_t Home::step(const std::string& id) const {
  const Json status = job(id);
  return status.contains("step") && status["step"].is_number() ? status["step"].get<int64_t>() : 0;
}

std::vector<pid_t> Home::processes(const std::string& program) const {
  std::vector<pid_t> found;
  for (const pid_t pid : processes_of(path_)) {
    if (command_of(pid).find(program) != std::string::npos) found.push_back(pid);
  }
  return found;
}

pid_t Home::coordinator_pid() const {
  return json({"status"})["coordinator"].value("pid", -1);
}

}  // namespace dsv3::e2e
