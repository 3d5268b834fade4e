// The selector's rows, its boundaries and gaps (reference cases F01–F11), and the fall-back where
// memory says no.
#include "cluster/plan/recommend.h"

#include <gtest/gtest.h>

#include "configs/spec/presets.h"

namespace dsv3::plan {
namespace {

const std::vector<NamedJob>& presets() {
  static const std::vector<NamedJob> all = [] {
    std::vector<NamedJob> named;
    const auto list = spec::list_presets();
    EXPECT_TRUE(list.ok());
    for (const spec::Preset& preset : *list) named.push_back({preset.name, preset.job});
    return named;
  }();
  return all;
}

Recommendation ask(int64_t gpus, double gb) {
  return recommend({gpus, gb, ""}, presets());
}

TEST(Recommend, GivesTheRowOfTheTableWhereItFits) {
  EXPECT_EQ(ask(1, 24).config, "1b");
  EXPECT_EQ(ask(4, 40).config, "5b");
  EXPECT_EQ(ask(8, 80).config, "10b");
  EXPECT_EQ(ask(16, 80).config, "15b");
  EXPECT_EQ(ask(24, 80).config, "20b");
  EXPECT_TRUE(ask(8, 80).plan.has_value());
  const Recommendation eight = ask(8, 80);
  ASSERT_EQ(eight.rejected.size(), 1u);
  EXPECT_EQ(eight.rejected[0].config, "15b");
  EXPECT_NE(eight.rejected[0].reason.find("16 x 80 GB"), std::string::npos);
}

TEST(Recommend, AGapTakesTheLargestSatisfiedRow) {
  EXPECT_EQ(table_choice({3, 40, ""}), "1b");
  EXPECT_EQ(table_choice({8, 40, ""}), "5b");
  EXPECT_EQ(table_choice({1000, 80, ""}), "671b");
  EXPECT_EQ(table_choice({1000, 16, ""}), "");
}

TEST(Recommend, FallsBackWithTheFiguresWhereTheTableIsWrong) {
  const Recommendation said = ask(32, 80);
  EXPECT_EQ(said.table_choice, "671b");
  EXPECT_EQ(said.config, "20b");
  ASSERT_EQ(said.rejected.size(), 1u);
  EXPECT_EQ(said.rejected[0].config, "671b");
  EXPECT_NE(said.reason.find("671b"), std::string::npos);
  EXPECT_NE(said.reason.find("GiB"), std::string::npos);
  ASSERT_EQ(said.alternatives.size(), 4u);  // 15b, 10b, 5b, 1b
  EXPECT_EQ(said.alternatives[0].config, "15b");
}

TEST(Recommend, TakesTheLargestOnceThereIsRoom) {
  EXPECT_EQ(ask(256, 80).config, "671b");
}

TEST(Recommend, NothingFitsNamesTheSmallest) {
  const Recommendation said = ask(1, 12);
  EXPECT_EQ(said.config, "");
  EXPECT_EQ(said.table_choice, "");
  EXPECT_FALSE(said.plan.has_value());
  EXPECT_NE(said.reason.find("small"), std::string::npos);
}

}  // namespace
}  // namespace dsv3::plan
