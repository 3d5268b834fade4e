// A user of their own for one test: a folder that is XDG_STATE_HOME, a text to train on, and
// dsv3ctl at hand.
//
// Law: nothing of a test outlives it: the coordinator is brought down, and what is left is killed
// by its own process id.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/e2e/run.h"

namespace dsv3::e2e {

using Json = nlohmann::json;

class Home {
 public:
  Home();
  ~Home();
  Home(const Home&) = delete;
  Home& operator=(const Home&) = delete;

  const std::string& path() const { return path_; }
  std::string state_dir() const { return path_ + "/dsv3ctl"; }
  // One thread for each worker: tests run beside each other.
  Environment environment() const {
    return {{"XDG_STATE_HOME", path_}, {"NO_COLOR", "1"}, {"OMP_NUM_THREADS", "1"}};
  }

  Outcome ctl(const std::vector<std::string>& words, int timeout_s = 30) const;
  // The words of a dsv3ctl that is to be watched while it runs.
  std::vector<std::string> ctl_words(const std::vector<std::string>& words) const;
  // Standard output of `dsv3ctl … --json` as one object; a failure is reported and gives null.
  Json json(std::vector<std::string> words) const;
  // The same, one object a line.
  std::vector<Json> json_lines(std::vector<std::string> words) const;
  // Rows of a SELECT.
  Json sql(const std::string& statement) const;

  // Writes a text and prepares it with the byte tokenizer; the prefix.
  std::string prepare_text() const;
  // Writes NAME.yaml: one dense and one MoE layer, 4 experts, top-2, 4 sequences of 32 tokens a
  // step.
  std::string write_config(const std::string& name, const std::string& data_prefix,
                           int max_steps) const;
  // Submits and waits until a step is on record; the job id. `more`: words for submit, such as
  // "--set", "checkpoint.interval_steps=5".
  std::string start_job(int max_steps, const std::vector<std::string>& more = {}) const;
  // As start_job(), but returns at once.
  std::string submit_job(int max_steps, const std::vector<std::string>& more = {}) const;
  // JOB of CLI.md.
  Json job(const std::string& id) const;
  int64_t step(const std::string& id) const;  // 0 before the first
  // Live processes of this home whose command line contains `program`.
  std::vector<pid_t> processes(const std::string& program = "") const;
  pid_t coordinator_pid() const;

 private:
  std::string path_;
};

// What a config of write_config() trains on in a step.
inline constexpr int64_t kTokensPerStep = 4 * 32;
inline constexpr int64_t kTopK = 2;
inline constexpr int64_t kExperts = 4;
inline constexpr int64_t kMoeLayer = 1;

}  // namespace dsv3::e2e
