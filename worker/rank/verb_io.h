// What the verbs that dsv3ctl runs as a child have in common: errors, exit codes, progress.
//
// Law: data on stdout, the rest on stderr; whatever ends a verb, also an exception, is one sentence
// (or one JSON object) and an exit code of dsv3ctl, not of a rank. SIGINT, SIGTERM and SIGHUP take
// away what a verb has not finished (base/leftovers.h).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace CLI {
class App;
}

namespace dsv3::rank {

// Text for people, on stderr. What can't be written is lost, where fmt::print would throw.
template <typename... Values>
void say(fmt::format_string<Values...> text, Values&&... values) {
  std::fputs(fmt::format(text, std::forward<Values>(values)...).c_str(), stderr);
}

// Prints the error on stderr ({"error": …} with json) and returns dsv3ctl's exit code for it: a
// rank's own codes become 1 (6 for a lack of memory).
int fail_verb(bool json, const Status& status);

// One line on stdout, with "schema_version": 1 in front; text that is not UTF-8 (a path may be
// anything) is mended.
void print_object(const nlohmann::ordered_json& object);

// Parses `words` and, unless help was asked or a word is wrong, runs `body`. Returns the exit code.
// `json` is looked at after parsing.
int run_verb(CLI::App& app, const std::vector<std::string>& words, const bool& json,
             const std::function<Status()>& body);

// One line that is rewritten on a terminal; elsewhere nothing, or a line a phase.
class ProgressLine {
 public:
  explicit ProgressLine(bool phases_without_terminal = false);
  ~ProgressLine() { end(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  void show(std::string_view phase, int64_t done, int64_t total);
  // Wipes the line, so that what is printed next begins on an empty one. Idempotent.
  void end();

 private:
  const bool terminal_;
  const bool phases_;
  bool open_ = false;
  int last_percent_ = -1;
  std::string last_phase_;
};

}  // namespace dsv3::rank
