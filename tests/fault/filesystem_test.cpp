// State directories on file systems that can't hold them: read-only, and of a program (FUSE, which
// stands for every file system whose locks can't be trusted).
//
// Law: refused before anything is written, with a sentence that names the folder and what to do.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/fault/gang.h"
#include "tests/fault/small_disk.h"

namespace dsv3::e2e {
namespace {

void expect_refused(const Outcome& outcome, int code, const std::vector<std::string>& parts) {
  EXPECT_EQ(outcome.code, code) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  for (const std::string& part : parts)
    EXPECT_NE(outcome.err.find(part), std::string::npos) << "no '" << part << "': " << outcome.err;
  EXPECT_EQ(errors_of(outcome).size(), 1u) << outcome.err;
}

TEST(StateDir, OnAReadOnlyDiskIsRefused) {
  if (const std::string why = why_no_mounts(); !why.empty()) GTEST_SKIP() << why;
  const Home home;
  const std::string config = home.write_config("tiny", home.prepare_text(), 2);
  std::filesystem::create_directories(home.state_dir());
  const auto disk = Mount::read_only(home.state_dir());
  for (const std::string& dir : {home.state_dir(), home.state_dir() + "/below"}) {
    SCOPED_TRACE(dir);
    expect_refused(home.ctl({"up", "--state-dir", dir}), 1, {dir, "Read-only file system"});
    expect_refused(home.ctl({"submit", config, "--state-dir", dir}), 1,
                   {dir, "Read-only file system"});
    EXPECT_EQ(home.ctl({"doctor", "--state-dir", dir}).code, 1);
  }
  expect_refused(home.ctl({"status"}), 3, {"no coordinator"});
  EXPECT_TRUE(home.processes().empty());
}

TEST(StateDir, OnAFileSystemOfAProgramIsRefused) {
  std::string why = why_no_mounts();
  if (!why.empty()) GTEST_SKIP() << why;
  const Home home;
  const auto mount = Mount::fuse(home.path() + "/behind", home.path() + "/fuse", &why);
  if (!mount) GTEST_SKIP() << why;
  const std::string dir = home.path() + "/fuse/state";
  const std::string config = home.write_config("tiny", home.prepare_text(), 2);
  expect_refused(home.ctl({"up", "--state-dir", dir}), 2,
                 {dir, "file system of a program", "--state-dir on a local disk"});
  expect_refused(home.ctl({"submit", config, "--state-dir", dir}), 2, {dir, "file system of"});
  EXPECT_FALSE(std::filesystem::exists(dir + "/dsv3d.db"));
  const Outcome doctor = home.ctl({"doctor", "--state-dir", dir});
  EXPECT_EQ(doctor.code, 1) << doctor.out;
  // Data and checkpoints may lie there.
  EXPECT_EQ(home.ctl({"data", "prepare", "--input", home.path() + "/text.txt", "--tokenizer",
                      "byte", "--out", home.path() + "/fuse/bytes"})
                .code,
            0);
}

}  // namespace
}  // namespace dsv3::e2e
