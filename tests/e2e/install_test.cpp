// What `cmake --install` leaves: binaries that find each other and the presets from any folder, man
// pages that a reader's man shows without a complaint, completions where the shells look.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/text.h"
#include "tests/e2e/home.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;

// The tree, installed once and then moved, so that no path of the first place helps.
class Installed : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = testing::TempDir() + "dsv3-install-XXXXXX";
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
    const Outcome outcome = run({DSV3_CMAKE, "--install", DSV3_BUILD_DIR, "--prefix",
                                 folder_ + "/first", "--component", "dsv3ctl"},
                                {{"DESTDIR", ""}}, 60);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    fs::rename(folder_ + "/first", folder_ + "/moved");
  }
  static void TearDownTestSuite() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  static std::string at(const std::string& path) { return folder_ + "/moved/" + path; }
  static Outcome ctl(const Home& home, std::vector<std::string> words) {
    words.insert(words.begin(), at("bin/dsv3ctl"));
    return run(words, home.environment(), 30);
  }

  static std::string folder_;
};

std::string Installed::folder_;

TEST_F(Installed, FindsItsOwnPresets) {
  const Home home;
  const Outcome outcome = ctl(home, {"configs", "list", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json list = Json::parse(outcome.out, nullptr, false);
  ASSERT_GE(list["configs"].size(), 9u);
  for (const Json& config : list["configs"])
    EXPECT_TRUE(config["file"].get<std::string>().starts_with(at("share/"))) << config["file"];
}

TEST_F(Installed, StartsItsOwnCoordinator) {
  const Home home;
  ASSERT_EQ(ctl(home, {"up"}).code, 0);
  EXPECT_EQ(home.processes(at("bin/dsv3d")).size(), 1u);
  EXPECT_EQ(ctl(home, {"down"}).code, 0);
  const Json doctor = Json::parse(ctl(home, {"doctor", "--json"}).out, nullptr, false);
  for (const Json& check : doctor["checks"]) {
    if (check["name"] == "binaries") {
      EXPECT_EQ(check["level"], "ok") << check;
    }
  }
}

TEST_F(Installed, HasAPageForEveryCommandAndTheConfiguration) {
  const Home home;
  EXPECT_TRUE(fs::exists(at("share/man/man1/dsv3ctl.1")));
  EXPECT_TRUE(fs::exists(at("share/man/man5/dsv3ctl-config.5")));
  const Outcome verbs = ctl(home, {"__complete"});
  int pages = 0;
  for (const std::string& verb : split(verbs.out, '\n')) {
    if (verb.empty()) continue;
    EXPECT_TRUE(fs::exists(at("share/man/man1/dsv3ctl-" + verb + ".1"))) << verb;
    ++pages;
  }
  EXPECT_GE(pages, 25);
}

TEST_F(Installed, PagesPassTheReadersOwnCheck) {
  const bool has_man = fs::exists("/usr/bin/man") && fs::exists("/usr/bin/groff");
  const bool has_mandoc = fs::exists("/usr/bin/mandoc");
  if (!has_man && !has_mandoc) GTEST_SKIP() << "neither man nor mandoc is installed";
  for (const char* page : {"man1/dsv3ctl.1", "man1/dsv3ctl-submit.1", "man5/dsv3ctl-config.5"}) {
    const std::string file = at("share/man/") + page;
    if (has_man) {
      const Outcome shown = run({"/usr/bin/man", "--warnings", "-P", "cat", "-l", file},
                                {{"LC_ALL", "C.UTF-8"}, {"MANWIDTH", "80"}}, 30);
      EXPECT_EQ(shown.code, 0) << page;
      EXPECT_EQ(shown.err, "") << page;
      EXPECT_NE(shown.out.find("dsv3ctl"), std::string::npos) << page;
    }
    if (has_mandoc) {
      const Outcome lint = run({"/usr/bin/mandoc", "-T", "lint", "-W", "warning", file}, {}, 30);
      EXPECT_EQ(lint.code, 0) << page << ": " << lint.out << lint.err;
    }
  }
}

TEST_F(Installed, HasACompletionForEachShell) {
  const Home home;
  const std::vector<std::pair<std::string, std::string>> files = {
      {"bash", "share/bash-completion/completions/dsv3ctl"},
      {"zsh", "share/zsh/site-functions/_dsv3ctl"},
      {"fish", "share/fish/vendor_completions.d/dsv3ctl.fish"}};
  for (const auto& [shell, file] : files) {
    std::ifstream stream(at(file));
    std::stringstream text;
    text << stream.rdbuf();
    EXPECT_EQ(text.str(), ctl(home, {"completion", shell}).out) << file;
  }
}

}  // namespace
}  // namespace dsv3::e2e
