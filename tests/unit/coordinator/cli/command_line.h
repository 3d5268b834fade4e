// dsv3ctl as a function: words in, exit code and both outputs back.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coordinator/cli/verb.h"

namespace dsv3::cli {

struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
};

inline Outcome command_line(const std::vector<std::string>& words) {
  std::vector<const char*> argv = {"dsv3ctl"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.code = run(static_cast<int>(argv.size()), argv.data());
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace dsv3::cli
