// See run_worker.h.
#include "coordinator/cli/run_worker.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/file.h"
#include "coordinator/cli/output.h"

namespace dsv3::cli {

int run_worker(const Globals& globals, const std::string& verb,
               const std::vector<std::string>& words) {
  const std::string program = executable_dir() + "/dsv3-worker";
  std::vector<std::string> argv = {program, verb};
  // In front: what stands behind a "--" is no option.
  if (globals.json && std::find(words.begin(), words.end(), "--json") == words.end())
    argv.emplace_back("--json");
  argv.insert(argv.end(), words.begin(), words.end());
  for (const std::string& word : words) {  // an unset shell variable
    if (!word.starts_with("--") || !word.ends_with("=")) continue;
    return fail(globals, Status(Code::kInvalid, word.substr(0, word.size() - 1) + " is empty",
                                "give it a value"));
  }
  std::vector<char*> raw;
  for (std::string& word : argv) raw.push_back(word.data());
  raw.push_back(nullptr);
  std::fflush(nullptr);
  ::execv(program.c_str(), raw.data());
  return fail(globals,
              Status(Code::kFailed, "cannot start '" + program + "': " + std::strerror(errno)));
}

}  // namespace dsv3::cli
