// SIGINT, SIGTERM and SIGHUP for the commands that a user types, at their stages: writing, asking
// the coordinator, waiting for a job, starting a coordinator.
//
// Law: the command ends by that signal; what it had not finished is gone; a job goes on.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/fault/freeze.h"
#include "tests/fault/gang.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;

constexpr int kForEver = 10'000'000;  // steps
constexpr int kTriesMax = 50;

class CommandSignal : public testing::Test {
 protected:
  void SetUp() override { default_signals(); }
};

// Runs `words` until it was caught writing something in `folder` whose name has `part`, and sends
// it the signal then. `redo` makes room for the next try of one that was too fast.
Outcome signalled_while_writing(const Home& home, const std::vector<std::string>& words,
                                const std::string& folder, const std::string& part, int signal,
                                const std::function<void()>& redo) {
  for (int i = 0; i < kTriesMax; ++i) {
    Watch watch(folder, part);
    Running command(home.ctl_words(words), home.environment());
    if (watch.freeze([&] { return command.pid(); })) {
      ::kill(command.pid(), signal);
      ::kill(command.pid(), SIGCONT);
      return command.finish(20);
    }
    const Outcome done = command.finish(30);
    EXPECT_EQ(done.code, 0) << done.err;
    redo();
  }
  ADD_FAILURE() << words[0] << " was never caught while it wrote " << part;
  return {};
}

void expect_interrupted(const Outcome& outcome, int signal) {
  EXPECT_EQ(outcome.code, 128 + signal) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("dsv3ctl: interrupted"), std::string::npos) << outcome.err;
}

// All or nothing in `folder`: the last byte may have been written just before the signal was heard.
void expect_nothing_half(const Outcome& outcome, int signal, const std::string& folder,
                         const std::string& last) {
  if (fs::is_empty(folder)) return expect_interrupted(outcome, signal);
  EXPECT_TRUE(outcome.code == 128 + signal || outcome.code == 0) << outcome.code;
  EXPECT_TRUE(fs::exists(folder + "/" + last)) << outcome.err;
  for (const auto& entry : fs::directory_iterator(folder)) {
    EXPECT_EQ(entry.path().filename().string().find(".tmp"), std::string::npos) << entry.path();
    EXPECT_EQ(entry.path().filename().string().find(".exporting"), std::string::npos);
  }
}

std::string new_folder(const std::string& path) {
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

TEST_F(CommandSignal, DataPrepareLeavesNoHalfOfADataset) {
  const Home home;
  const std::string folder = home.path() + "/out", text = home.path() + "/text.txt";
  std::ofstream(text) << std::string(4 << 20, 'x') << "\n";
  const std::vector<std::string> words = {"data",        "prepare", "--input", text,
                                          "--tokenizer", "byte",    "--out",   folder + "/bytes"};
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    new_folder(folder);
    const Outcome outcome =
        signalled_while_writing(home, words, folder, ".tmp.", signal, [&] { new_folder(folder); });
    expect_nothing_half(outcome, signal, folder, "bytes.json");
  }
}

TEST_F(CommandSignal, ImportExportAndScoreTakeBackWhatTheyWrote) {
  const Home home;
  const std::string id = home.start_job(2);
  ASSERT_EQ(home.ctl({"wait", id}, 60).code, 0);
  const std::string hf = home.path() + "/hf", out = home.path() + "/out";
  ASSERT_EQ(home.ctl({"export", id, "--format", "hf", "--out", hf}).code, 0);
  const std::string checkpoint = home.job(id)["checkpoint"]["path"];
  struct Case {
    std::vector<std::string> words;
    std::string begins;  // part of the name that says that it writes
    std::string last;    // what is there when all is
  };
  const std::vector<Case> cases = {
      {{"import", hf, "--out", out + "/ckpt"}, "ckpt", "ckpt/step-00000000/complete"},
      {{"export", "--checkpoint", checkpoint, "--format", "hf", "--out", out + "/hf"},
       ".exporting",
       "hf/model.safetensors"},
      {{"score", "--checkpoint", checkpoint, "--tokens", "1,2,3", "--logits", out + "/l"},
       ".tmp.",
       "l"},
  };
  for (const int signal : kEndingSignals) {
    for (const Case& c : cases) {
      SCOPED_TRACE(c.words[0] + " " + std::to_string(signal));
      new_folder(out);
      const Outcome outcome =
          signalled_while_writing(home, c.words, out, c.begins, signal, [&] { new_folder(out); });
      expect_nothing_half(outcome, signal, out, c.last);
    }
  }
}

TEST_F(CommandSignal, AnImportIntoAFolderThatWasThereLeavesTheFolder) {
  const Home home;
  const std::string id = home.start_job(2);
  ASSERT_EQ(home.ctl({"wait", id}, 60).code, 0);
  const std::string hf = home.path() + "/hf", out = home.path() + "/out";
  ASSERT_EQ(home.ctl({"export", id, "--format", "hf", "--out", hf}).code, 0);
  new_folder(out);
  expect_interrupted(signalled_while_writing(home, {"import", hf, "--out", out}, out, ".tmp-step-",
                                             SIGINT, [&] { new_folder(out); }),
                     SIGINT);
  EXPECT_TRUE(fs::exists(out));
  EXPECT_EQ(home.ctl({"import", hf, "--out", out}).code, 0) << "it counts as empty";
}

TEST_F(CommandSignal, WaitingDetachesAndTheJobGoesOn) {
  const Home home;
  const std::string id = home.start_job(kForEver);
  const auto workers = home.processes("dsv3-worker");
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    Running waiting(home.ctl_words({"wait", id}), home.environment());
    ASSERT_TRUE(wait_until([&] { return catches(waiting.pid(), SIGINT); }));
    ::kill(waiting.pid(), signal);
    const Outcome outcome = waiting.finish(10);
    EXPECT_EQ(outcome.code, 128 + signal);
    if (signal == SIGHUP) continue;  // its terminal is gone
    EXPECT_NE(outcome.err.find("job " + id + " goes on"), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(home.processes("dsv3-worker"), workers);
  EXPECT_EQ(home.job(id)["state"], "RUNNING");
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

TEST_F(CommandSignal, ARehearsalLeavesNeitherRanksNorItsFolder) {
  const Home home;
  Environment environment = home.environment();
  const std::string folder = home.path() + "/tmp";
  fs::create_directory(folder);
  environment.emplace_back("TMPDIR", folder);
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    Running rehearsal(
        home.ctl_words({"rehearse", "10b", "--gpus", "8", "--ranks-max", "2", "--steps", "1000"}),
        environment);
    ASSERT_TRUE(wait_until([&] { return home.processes("dsv3-worker train").size() == 2; }))
        << rehearsal.err();
    ::kill(rehearsal.pid(), signal);
    const Outcome outcome = rehearsal.finish(20);
    EXPECT_EQ(outcome.code, 128 + signal) << outcome.err;
    EXPECT_TRUE(home.processes("dsv3-worker").empty());
    EXPECT_TRUE(fs::is_empty(folder));
  }
}

TEST_F(CommandSignal, SubmitWithWaitDetachesAndTheJobGoesOn) {
  const Home home;
  const std::string config = home.write_config("long", home.prepare_text(), kForEver);
  Running submit(home.ctl_words({"submit", config, "--wait"}), home.environment());
  ASSERT_TRUE(wait_until([&] { return submit.out() == "tiny-1\n"; })) << submit.err();
  ASSERT_TRUE(trains(home, "tiny-1", 1));
  ::kill(submit.pid(), SIGINT);
  const Outcome outcome = submit.finish(10);
  EXPECT_EQ(outcome.code, 130);
  EXPECT_NE(outcome.err.find("dsv3ctl wait tiny-1"), std::string::npos) << outcome.err;
  EXPECT_EQ(home.job("tiny-1")["state"], "RUNNING");
  EXPECT_EQ(home.ctl({"cancel", "tiny-1"}, 60).code, 0);
}

// The coordinator doesn't answer yet: whether the job is taken is its decision, and either is
// whole.
TEST_F(CommandSignal, SubmitThatIsNotAnsweredYetHarmsNothing) {
  const Home home;
  const std::string config = home.write_config("long", home.prepare_text(), 2);
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const pid_t coordinator = home.coordinator_pid();
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    ASSERT_EQ(::kill(coordinator, SIGSTOP), 0);
    ASSERT_TRUE(wait_until([&] { return is_stopped(coordinator); }));
    Running submit(home.ctl_words({"submit", config}), home.environment());
    ASSERT_TRUE(wait_until([&] { return is_connected(submit.pid()); }));
    ::kill(submit.pid(), signal);
    const Outcome outcome = submit.finish(10);
    EXPECT_EQ(outcome.code, 128 + signal);
    EXPECT_NE(outcome.err.find("'dsv3ctl status' shows whether"), std::string::npos) << outcome.err;
    ASSERT_EQ(::kill(coordinator, SIGCONT), 0);
    for (const Json& job : home.json({"status"})["jobs"])
      EXPECT_EQ(home.ctl({"wait", job["id"].get<std::string>()}, 60).code, 0);
  }
  EXPECT_EQ(home.coordinator_pid(), coordinator);
}

TEST_F(CommandSignal, SubmitThatStartsACoordinatorLeavesOneThatWorks) {
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    const Home home;
    const std::string config = home.write_config("tiny", home.prepare_text(), 2);
    Running submit(home.ctl_words({"submit", config}), home.environment());
    ASSERT_TRUE(wait_until([&] { return !home.processes("dsv3d").empty(); }));
    ::kill(submit.pid(), signal);
    const int code = submit.finish(10).code;
    EXPECT_TRUE(code == 128 + signal || code == 0) << code;
    const Json up = home.json({"up"});  // waits for the one that is starting
    // One that came second has gone again.
    EXPECT_TRUE(wait_until([&] { return home.processes("dsv3d").size() == 1; }));
    const Outcome next = home.ctl({"submit", config, "--wait"}, 60);
    EXPECT_EQ(next.code, 0) << next.err;
  }
}

// The worker that prepares the data is a child: it ends with the command that wanted it.
TEST_F(CommandSignal, SubmitThatPreparesItsDataLeavesNoHalfOfIt) {
  const Home home;
  const std::string data = home.state_dir() + "/data";
  fs::create_directories(data + "/demo.source");
  std::ofstream(data + "/demo.source/gcide.txt") << std::string(4 << 20, 'x') << "\n";
  const std::string config = home.write_config("demo", "'@demo'", 2);
  const std::vector<std::string> words = home.ctl_words({"submit", config});
  const auto worker = [&]() -> pid_t {
    const auto found = home.processes("data-prepare");
    return found.empty() ? 0 : found.front();
  };
  for (const int signal : kEndingSignals) {
    SCOPED_TRACE(signal);
    bool caught = false;
    for (int i = 0; i < kTriesMax && !caught; ++i) {
      for (const char* suffix : {".bin", ".idx", ".json"}) fs::remove(data + "/demo" + suffix);
      Watch watch(data, ".tmp.");
      Running submit(words, home.environment());
      caught = watch.freeze(worker);
      if (!caught) continue;
      const pid_t child = worker();
      ::kill(submit.pid(), signal);
      ::kill(child, SIGCONT);
      EXPECT_EQ(submit.finish(20).code, 128 + signal);
      EXPECT_TRUE(wait_until([&] { return worker() == 0; }, 10));
    }
    EXPECT_TRUE(caught);
    for (const auto& entry : fs::directory_iterator(data))
      EXPECT_EQ(entry.path().filename(), "demo.source") << entry.path();
  }
}

}  // namespace
}  // namespace dsv3::e2e
