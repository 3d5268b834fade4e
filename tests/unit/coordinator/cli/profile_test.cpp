// dsv3ctl profile without a worker: what it offers, and what it refuses by itself.
#include <filesystem>

#include "tests/unit/coordinator/cli/command_line.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::cli {
namespace {

TEST(ProfileVerb, CompletesPresetsAndItsOptions) {
  const Outcome outcome =
      command_line({"--state-dir", "/nonexistent", "__complete", "--", "profile"});
  for (const char* word : {"demo\n", "15b\n", "--steps\n", "--set\n", "--json\n"})
    EXPECT_TRUE(contains(outcome.out, word)) << word << outcome.out;
}

TEST(ProfileVerb, AnUnknownTargetIsNotFoundAndSaysWhereToLook) {
  for (const char* target : {"demo-7", "nothing.yaml", "a/b", "../jobs"}) {
    const Outcome outcome = command_line({"--state-dir", "/nonexistent", "profile", target});
    EXPECT_EQ(outcome.code, 5) << target << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "dsv3ctl status")) << outcome.err;
  }
  EXPECT_EQ(command_line({"--state-dir", "/nonexistent", "profile", "."}).code, 2);
  EXPECT_EQ(command_line({"profile"}).code, 2);
}

TEST(ProfileVerb, AnUnknownTargetNamesTheNearestPresetOrJob) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "jobs/tour-1");
  const auto said = [&](const char* target) {
    return command_line({"--state-dir", folder.path(), "profile", target}).err;
  };
  EXPECT_TRUE(contains(said("demoo"), "'demoo'; did you mean 'demo'?")) << said("demoo");
  EXPECT_TRUE(contains(said("tour1"), "did you mean 'tour-1'?")) << said("tour1");
  std::filesystem::create_directories(folder / "jobs/demo-1");
  EXPECT_TRUE(contains(said("demo1"), "did you mean 'demo-1'?")) << said("demo1");
  EXPECT_FALSE(contains(said("xyzzyplugh"), "did you mean")) << said("xyzzyplugh");
}

}  // namespace
}  // namespace dsv3::cli
