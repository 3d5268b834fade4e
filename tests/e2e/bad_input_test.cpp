// Bad input from a user's hands: files, folders, options and states that are not what they should
// be, made for real.
//
// Law: each ends with its documented code and one sentence on stderr that names the thing; nothing
// on stdout, no crash, nothing lost, and quickly.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/e2e/home.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;

// One line on stderr that contains `part`, and the code; nothing on stdout.
void expect_refused(const Outcome& outcome, int code, const std::string& part) {
  EXPECT_EQ(outcome.code, code) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find(part), std::string::npos) << "no '" << part << "' in: " << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_TRUE(outcome.err.ends_with("\n")) << outcome.err;
}

std::string write(const Home& home, const std::string& name, const std::string& bytes) {
  const std::string path = home.path() + "/" + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

std::string repeated(const std::string& part, size_t times) {
  std::string text;
  for (size_t i = 0; i < times; ++i) text += part;
  return text;
}

// Root may write anywhere: without this capability it obeys modes as everybody does.
std::vector<std::string> without_privileges(std::vector<std::string> argv) {
  if (::geteuid() != 0) return argv;
  std::vector<std::string> words = {"/usr/bin/setpriv", "--bounding-set", "-dac_override",
                                    "--inh-caps", "-dac_override"};
  words.insert(words.end(), argv.begin(), argv.end());
  return words;
}

TEST(BadInput, FilesThatAreNoConfiguration) {
  const Home home;
  fs::create_directories(home.path() + "/dir.yaml");
  std::string garbage(20000, '\0');
  uint32_t random = 7;
  for (char& c : garbage) c = static_cast<char>((random = random * 1664525u + 1013904223u) >> 24);
  const std::vector<std::tuple<std::string, int, std::string>> cases = {
      {home.path() + "/absent.yaml", 5, "there is no file"},
      {home.path() + "/dir.yaml", 2, "is a directory"},
      {"/dev/null", 2, "the file is empty"},
      {"/dev/zero", 2, "larger than 4.0 MiB"},
      {write(home, "garbage.yaml", garbage), 2, "UTF-8"},
      {write(home, "utf16.yaml", std::string("\xff\xfem\0o\0d\0", 8)), 2, "UTF-8"},
      {write(home, "nul.yaml", std::string("model: {}\n\0", 11)), 2, "NUL byte"},
      {write(home, "latin.yaml", "model: {name: caf\xe9}\n"), 2, "UTF-8"},
      {write(home, "brackets.yaml", repeated("[", 20000)), 2, "more than 32 levels"},
      {write(home, "braces.yaml", repeated("{a: ", 20000)), 2, "more than 32 levels"},
      {write(home, "dashes.yaml", repeated("- ", 20000)), 2, "more than 32 levels"},
      {write(home, "brackets.json", repeated("[", 20000)), 2, "more than 32 levels"},
  };
  for (const auto& [file, code, part] : cases) {
    for (const char* verb : {"validate", "submit"}) {
      SCOPED_TRACE(std::string(verb) + " " + file);
      expect_refused(home.ctl({verb, file}), code, part);
    }
  }
  EXPECT_TRUE(home.processes().empty()) << "a refused submission started something";
}

TEST(BadInput, AHundredMegabytesAreRefusedWithoutBeingRead) {
  const Home home;
  const std::string path = write(home, "big.yaml", "model:\n");
  fs::resize_file(path, 100 << 20);
  expect_refused(home.ctl({"validate", path}, 2), 2, "larger than 4.0 MiB");
}

TEST(BadInput, WhatYamlCanSayButAConfigurationMustNot) {
  const Home home;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"model: !!python/object:os.system {}\n", "a tag"},
      {"model: &a {}\nparallel: *a\n", "an alias"},
      {"model: {}\nmodel: {}\n", "given twice"},
      {"model: {d_model: [}\n", "not valid YAML"},
  };
  for (const auto& [text, part] : cases) {
    const Outcome outcome = home.ctl({"validate", write(home, "f.yaml", text)});
    EXPECT_EQ(outcome.code, 2) << text;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("f.yaml:"), std::string::npos) << outcome.err;
  }
}

TEST(BadInput, OptionsBeyondTheirRange) {
  const Home home;
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"plan", "15b", "--gpus", "99999999999999999999"}, "--gpus"},
      {{"plan", "15b", "--gpus", "-5"}, "--gpus"},
      {{"plan", "15b", "--gpus", "8", "--gpu-memory", "nan"}, "--gpu-memory"},
      {{"plan", "15b", "--gpus", "8", "--gpu-memory", "inf"}, "--gpu-memory"},
      {{"recommend", "--gpus", "9223372036854775807", "--gpu-memory", "80"}, "--gpus"},
      {{"recommend", "--gpus", "8", "--gpu-memory", "0"}, "--gpu-memory"},
      {{"params", "demo", "--sequence", "-4"}, "--sequence"},
      {{"wait", "demo-1", "--timeout", "nan"}, "--timeout"},
      {{"sql", "SELECT 1", "--limit", "-1"}, "--limit"},
      {{"experts", "demo-1", "--step", "-1"}, "--step"},
      {{"logs", "demo-1", "--rank", "-1"}, "--rank"},
      {{"params", "demo", "--set", "nonsense"}, "key=value"},
      {{"params", "demo", "--set", "=5"}, "key=value"},
      {{"params", "demo", "--set", "no.such.key=1"}, "unknown key"},
      {{"params", "demo", "--set", "training.max_steps=99999999999999999999999"}, "integer"},
      {{"params", "demo", "--set", "model=" + repeated("[", 20000)}, "more than 32 levels"},
      {{"params", "demo", "--set", "model.name=\xff"}, "UTF-8"},
  };
  for (const auto& [words, part] : cases) {
    SCOPED_TRACE(words[0] + " " + words.back().substr(0, 60));
    expect_refused(home.ctl(words, 5), 2, part);
  }
}

TEST(BadInput, JobIdsThatNoJobCanHave) {
  const Home home;
  const Outcome up = home.ctl({"up"});
  ASSERT_EQ(up.code, 0) << up.err;
  for (const std::string& id :
       {std::string("../../etc/passwd"), std::string("a\nb\x1b[31m"), std::string(100000, 'x'),
        std::string("demo 1"), std::string("'; DROP TABLE job_rows; --")}) {
    for (const char* verb : {"status", "logs", "cancel", "resume", "events"}) {
      const Outcome outcome = home.ctl({verb, id});
      SCOPED_TRACE(std::string(verb) + " " + id.substr(0, 30));
      expect_refused(outcome, 5, "no job can have the id");
      EXPECT_LT(outcome.err.size(), 300u);
    }
  }
  expect_refused(home.ctl({"status", "demo-99"}), 5, "demo-99");
  expect_refused(home.ctl({"status", "\xff"}), 2, "UTF-8");
  EXPECT_EQ(home.ctl({"status"}).code, 0) << "the coordinator must not have noticed";
}

TEST(BadInput, AStateDirThatCannotBeWritten) {
  if (::geteuid() == 0 && !fs::exists("/usr/bin/setpriv")) GTEST_SKIP() << "root without setpriv";
  const Home home;
  const std::string locked = home.path() + "/locked";
  fs::create_directory(locked);
  fs::permissions(locked, fs::perms(0500));
  for (const std::string& dir : {locked, locked + "/below"}) {
    const auto ctl = [&](std::vector<std::string> words) {
      words.insert(words.end(), {"--state-dir", dir});
      return run(without_privileges(home.ctl_words(words)), home.environment());
    };
    SCOPED_TRACE(dir);
    expect_refused(ctl({"up"}), 1, locked);
    const Outcome doctor = ctl({"doctor"});
    EXPECT_EQ(doctor.code, 1) << doctor.out;
    EXPECT_NE(doctor.out.find("can't be written"), std::string::npos) << doctor.out;
  }
  fs::permissions(locked, fs::perms(0700));
}

TEST(BadInput, AStateDirThatIsAFile) {
  const Home home;
  const std::string file = write(home, "file", "precious");
  for (const std::string& dir : {file, file + "/below"}) {
    SCOPED_TRACE(dir);
    expect_refused(home.ctl({"up", "--state-dir", dir}), 1, file);
    EXPECT_EQ(home.ctl({"doctor", "--state-dir", dir}).code, 1);
    EXPECT_EQ(home.ctl({"status", "--state-dir", dir}).out, "");
  }
  std::ifstream in(file);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "precious");
}

// PRAGMA user_version of a closed database: four bytes, big-endian, at offset 60 of the file. Gives
// back those that were there.
std::string set_schema(const std::string& path, const std::string& bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  std::string before(4, '\0');
  file.seekg(60).read(before.data(), 4);
  file.seekp(60).write(bytes.data(), 4);
  EXPECT_TRUE(file.good()) << path;
  return before;
}

TEST(BadInput, ADatabaseOfANewerReleaseIsLeftAlone) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  ASSERT_EQ(home.ctl({"down"}).code, 0);
  const std::string path = home.state_dir() + "/dsv3d.db";
  const std::string ours = set_schema(path, std::string("\0\0\x03\xE8", 4));  // 1000
  expect_refused(home.ctl({"up"}), 2, "schema 1000");
  set_schema(path, ours);
  EXPECT_EQ(home.ctl({"up"}).code, 0) << "what was there must still be there";
}

TEST(BadInput, ADatabaseThatIsGarbageIsNamedAndKept) {
  const Home home;
  fs::create_directories(home.state_dir());
  const std::string path = write(home, "dsv3ctl/dsv3d.db", repeated("not a database ", 1000));
  const Outcome outcome = home.ctl({"up"});
  expect_refused(outcome, 1, "dsv3d.db");
  EXPECT_EQ(fs::file_size(path), 15000u) << "it may be all that is left of something";
}

TEST(BadInput, AKeyThatIsNotOnTheList) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const std::string listed = home.state_dir() + "/keys/allowed/client.pub";
  fs::rename(listed, home.path() + "/client.pub");
  expect_refused(home.ctl({"status"}), 4, "refused this user's key");
  expect_refused(home.ctl({"submit", "--json", "demo", "--dry-run", "--set", "nonsense"}), 2,
                 "key");
  const Outcome doctor = home.ctl({"doctor"});
  EXPECT_EQ(doctor.code, 1);
  EXPECT_NE(doctor.out.find("refused this user's key"), std::string::npos) << doctor.out;
  fs::rename(home.path() + "/client.pub", listed);
  EXPECT_EQ(home.ctl({"status"}).code, 0);
}

TEST(BadInput, AKeyThatOthersCanReadOrThatIsDamaged) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const std::string key = home.state_dir() + "/keys/client.key";
  fs::permissions(key, fs::perms(0644));
  expect_refused(home.ctl({"status"}), 4, "chmod 600 " + key);
  EXPECT_NE(home.ctl({"doctor"}).out.find("other users can read"), std::string::npos);
  fs::permissions(key, fs::perms(0600));
  fs::copy_file(key, home.path() + "/client.key");
  std::ofstream(key) << "garbage";
  expect_refused(home.ctl({"status"}), 2, "is not a key file");
  fs::copy_file(home.path() + "/client.key", key, fs::copy_options::overwrite_existing);
  EXPECT_EQ(home.ctl({"status"}).code, 0);
}

TEST(BadInput, ACoordinatorFileThatIsGarbage) {
  const Home home;
  fs::create_directories(home.state_dir());
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[1, 2]"),
        std::string("{\"endpoint\": 5, \"pid\": 1e400}"), repeated("[", 60000)}) {
    write(home, "dsv3ctl/coordinator.json", text);
    expect_refused(home.ctl({"status"}), 2, "coordinator.json");
  }
}

}  // namespace
}  // namespace dsv3::e2e
