// A job whose processes are about to be killed: finding them, killing them, and what a user then
// asks of the job.
//
// Law: a process is killed by its own id, found by this test's folder in its environment. How many
// ranks the jobs have is one constant, so that the same faults are shown for gangs of any size.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/e2e/home.h"

namespace dsv3::e2e {

// Ranks of every job here that doesn't say otherwise.
inline constexpr int kRanks = 2;

inline std::vector<std::string> set_words(const std::vector<std::string>& settings) {
  std::vector<std::string> words;
  for (const std::string& setting : settings) words.insert(words.end(), {"--set", setting});
  return words;
}

// Settings of a job of kRanks ranks that saves a checkpoint every `interval_steps` (0: never).
inline std::vector<std::string> gang_words(int interval_steps) {
  return set_words({"parallel.data_parallel_size=" + std::to_string(kRanks),
                    "parallel.zero_stage=0",
                    "checkpoint.interval_steps=" + std::to_string(interval_steps)});
}

// True when the job's attempt `number` has finished a step.
inline bool trains(const Home& home, const std::string& id, int number, int timeout_s = 30) {
  return wait_until(
      [&] {
        const Json rows = home.sql("SELECT count(*) AS n FROM metrics WHERE job = '" + id +
                                   "' AND attempt = " + std::to_string(number));
        return rows.is_array() && !rows.empty() && rows[0]["n"] > 0;
      },
      timeout_s);
}

// True when all ranks of an attempt are there, which `before` were not.
inline std::vector<pid_t> wait_for_ranks(const Home& home, const std::vector<pid_t>& before = {},
                                         int ranks = kRanks) {
  std::vector<pid_t> now;
  EXPECT_TRUE(wait_until([&] {
    now = home.processes("dsv3-worker");
    for (const pid_t old : before) {
      if (std::find(now.begin(), now.end(), old) != now.end()) return false;
    }
    return static_cast<int>(now.size()) == ranks;
  })) << now.size()
      << " ranks";
  return now;
}

inline void kill_all(const std::vector<pid_t>& pids, int signal = SIGKILL) {
  for (const pid_t pid : pids) EXPECT_EQ(::kill(pid, signal), 0) << pid;
}

// The lines on stderr that are errors (warnings of the configuration may stand before).
inline std::vector<std::string> errors_of(const Outcome& outcome) {
  std::vector<std::string> lines;
  std::istringstream text(outcome.err);
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("dsv3ctl: ")) lines.push_back(line);
  }
  return lines;
}

inline bool reaches(const Home& home, const std::string& id, const std::string& state,
                    int timeout_s = 30) {
  return wait_until([&] { return home.job(id)["state"] == state; }, timeout_s);
}

// (step, loss as printed) of every line of `metrics --json`.
inline std::vector<std::pair<int64_t, std::string>> losses(const Home& home,
                                                           const std::string& id) {
  std::vector<std::pair<int64_t, std::string>> all;
  for (const Json& row : home.json_lines({"metrics", id}))
    all.emplace_back(row["step"].get<int64_t>(), row["loss"].dump());
  return all;
}

}  // namespace dsv3::e2e
