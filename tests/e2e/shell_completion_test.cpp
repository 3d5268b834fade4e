// Completion as the shells do it: each installed shell sources the script and is asked what it
// would offer. zsh and fish are skipped, visibly, where they are not installed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/text.h"
#include "tests/e2e/home.h"

namespace dsv3::e2e {
namespace {

constexpr const char* kBin = DSV3_BIN_DIR;

// What a line of words, the last one unfinished, completes to in bash.
std::set<std::string> in_bash(const Home& home, const std::vector<std::string>& words) {
  std::string quoted;
  for (const std::string& word : words) quoted += " '" + word + "'";
  const std::string script = fmt::format(
      "PATH={}:$PATH; source <(dsv3ctl completion bash); COMP_WORDS=(dsv3ctl{}); COMP_CWORD={}; "
      "_dsv3ctl; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
      kBin, quoted, words.size());
  const Outcome outcome = run({"/bin/bash", "--norc", "-c", script}, home.environment());
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  std::set<std::string> offered;
  for (const std::string& line : split(outcome.out, '\n')) {
    if (!line.empty()) offered.insert(line);
  }
  return offered;
}

using Words = std::set<std::string>;

TEST(ShellCompletion, BashOffersVerbsOptionsChoicesAndKeys) {
  const Home home;
  EXPECT_EQ(in_bash(home, {"re"}), (Words{"resume", "recommend", "rehearse"}));
  EXPECT_EQ(in_bash(home, {"do"}), (Words{"doctor", "down"}));
  for (const char* verb : {"import", "export", "score", "man"})
    EXPECT_EQ(in_bash(home, {verb}).count(verb), 1u) << verb;
  EXPECT_EQ(in_bash(home, {"export", "--format", ""}), (Words{"hf"}));
  EXPECT_EQ(in_bash(home, {"submit", "de"}), (Words{"demo"}));
  EXPECT_EQ(in_bash(home, {"submit", "demo", "--launcher", ""}), (Words{"local", "ssh", "slurm"}));
  EXPECT_EQ(in_bash(home, {"submit", "demo", "--set", "training.max_"}),
            (Words{"training.max_steps"}));
  EXPECT_EQ(in_bash(home, {"data", "pre"}), (Words{"prepare"}));
  EXPECT_EQ(in_bash(home, {"man", "con"}), (Words{"config", "configs"}));
  EXPECT_EQ(in_bash(home, {"score", "--checkpoint", ""}), Words{}) << "a folder: the shell's own";
  EXPECT_EQ(in_bash(home, {"__comp"}), Words{});
}

TEST(ShellCompletion, BashOffersLiveJobIds) {
  const Home home;
  EXPECT_EQ(in_bash(home, {"logs", "lo"}), Words{}) << "no coordinator: nothing, silently";
  const std::string id = home.submit_job(1);
  EXPECT_EQ(in_bash(home, {"logs", ""}).count(id), 1u);
  EXPECT_EQ(in_bash(home, {"--json", "status", ""}).count(id), 1u);
  EXPECT_EQ(in_bash(home, {"--state-dir", home.path() + "/other", "status", ""}).count(id), 0u);
  EXPECT_EQ(in_bash(home, {"--state-dir", home.state_dir(), "status", ""}).count(id), 1u);
}

std::string shell_path(const std::string& name) {
  for (const char* dir : {"/usr/bin/", "/bin/", "/usr/local/bin/"})
    if (std::filesystem::exists(dir + name)) return dir + name;
  return {};
}

// What zsh is given for the words; compadd is replaced to show it, _files stands for the file
// system.
Words in_zsh(const std::string& zsh, const Home& home, const std::vector<std::string>& words) {
  std::string quoted;
  for (const std::string& word : words) quoted += " '" + word + "'";
  const Outcome outcome = run(
      {zsh, "-f", "-c",
       fmt::format(
           "PATH={}:$PATH; compdef() {{ }}; _files() {{ }}; compadd() {{ print -l -- ${{(P)2}} }}; "
           "source <(dsv3ctl completion zsh); words=(dsv3ctl{}); CURRENT={}; _dsv3ctl",
           kBin, quoted, words.size() + 1)},
      home.environment());
  EXPECT_EQ(outcome.err, "");
  const std::vector<std::string> lines = split(outcome.out, '\n');
  Words offered(lines.begin(), lines.end());
  offered.erase("");
  return offered;
}

TEST(ShellCompletion, ZshOffersChoicesAndLiveJobIds) {
  const std::string zsh = shell_path("zsh");
  if (zsh.empty()) GTEST_SKIP() << "zsh is not installed";
  const Home home;
  EXPECT_EQ(in_zsh(zsh, home, {"export", "--format", ""}), Words{"hf"});
  const std::string id = home.submit_job(1);
  EXPECT_EQ(in_zsh(zsh, home, {"logs", ""}).count(id), 1u);
}

// What fish offers for the start of a line; a description may follow each word.
Words in_fish(const std::string& fish, const Home& home, const std::string& line) {
  Environment environment = home.environment();
  environment.emplace_back("HOME", home.path());  // fish keeps its own files there
  environment.emplace_back("XDG_CONFIG_HOME", home.path());
  environment.emplace_back("XDG_DATA_HOME", home.path());
  const Outcome outcome =
      run({fish, "--no-config", "-c",
           fmt::format("set -x PATH {} $PATH; dsv3ctl completion fish | source; complete -C '{}'",
                       kBin, line)},
          environment);
  EXPECT_EQ(outcome.err, "");
  Words offered;
  for (const std::string& word : split(outcome.out, '\n'))
    offered.insert(word.substr(0, word.find('\t')));
  offered.erase("");
  return offered;
}

TEST(ShellCompletion, FishOffersVerbsAndLiveJobIds) {
  const std::string fish = shell_path("fish");
  if (fish.empty()) GTEST_SKIP() << "fish is not installed";
  const Home home;
  EXPECT_EQ(in_fish(fish, home, "dsv3ctl doct"), Words{"doctor"});
  const std::string id = home.submit_job(1);
  EXPECT_EQ(in_fish(fish, home, "dsv3ctl logs ").count(id), 1u);
}

}  // namespace
}  // namespace dsv3::e2e
