// The selector's rows, its boundaries and gaps (reference cases F01–F11), and the fall-back where
// memory says no.
#include "cluster/plan/recommend.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

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

TEST(Recommend, TheLargerOnesNumberOfGpusIsSaid) {
  const Recommendation small = ask(32, 80);
  EXPECT_EQ(small.larger, "671b");
  ASSERT_TRUE(small.gpus_needed_for_larger.has_value());
  EXPECT_GE(*small.gpus_needed_for_larger,
            96);  // the reference tables: 128 at the least by bf16 states
  EXPECT_LE(*small.gpus_needed_for_larger, 256);
  const Recommendation eight = ask(8, 80);  // by the table's own row
  EXPECT_EQ(eight.larger, "15b");
  EXPECT_EQ(eight.gpus_needed_for_larger, 16);
  EXPECT_EQ(ask(256, 80).larger, "");
}

// By memory 671b takes far more than the 32 GPUs of its row; both are said.
TEST(Recommend, TheLargerOnesGpusAreTheMemorysWhereTheTableSaysFewer) {
  const Recommendation said = ask(24, 80);
  EXPECT_EQ(said.config, "20b");
  EXPECT_EQ(said.larger, "671b");
  spec::JobSpec job;
  for (const NamedJob& preset : presets())
    if (preset.name == "671b") job = preset.job;
  const std::optional<int64_t> needed = plan(job, cluster_of_gpus(24, 80, "")).gpus_needed;
  ASSERT_TRUE(needed.has_value());
  EXPECT_EQ(said.gpus_needed_for_larger, needed);
  EXPECT_NE(said.larger_reason.find("32 x 80 GB"), std::string::npos) << said.larger_reason;
  EXPECT_NE(said.larger_reason.find(std::to_string(*needed) + " x 80 GB"), std::string::npos)
      << said.larger_reason;
}

TEST(Recommend, TheLargerOnesGpusAreMoreThanThereAreOrAbsent) {
  for (const int64_t gpus : {1, 4, 7, 16, 33}) {
    for (const double gb : {16.0, 40.0, 80.0}) {
      const Recommendation said = ask(gpus, gb);
      if (said.gpus_needed_for_larger) {
        EXPECT_GT(*said.gpus_needed_for_larger, gpus) << gb << " GB";
      }
      EXPECT_EQ(said.larger.empty(), said.larger_reason.empty()) << gpus << " x " << gb;
    }
  }
  // Enough of them, and too small a card for the table: said instead of a number.
  const Recommendation many = ask(16, 40);
  EXPECT_EQ(many.larger, "10b");
  EXPECT_FALSE(many.gpus_needed_for_larger.has_value());
  EXPECT_NE(many.larger_reason.find("cards of 80 GB"), std::string::npos) << many.larger_reason;
}

// Below the table's 24 GB: 1b as it is, with shorter sequences, or not at all (reference case F11).
TEST(Recommend, BelowTheTableTheReasonSaysWhatMemorySays) {
  spec::JobSpec job;
  for (const NamedJob& preset : presets())
    if (preset.name == "1b") job = preset.job;
  const int64_t own = job.training.seq_length;
  const auto fits = [&](int64_t length, double gb) {
    job.training.seq_length = length;
    return plan(job, cluster_of_gpus(1, gb, "")).feasible;
  };
  int shorter = 0;
  for (const double gb : {12.0, 13.0, 14.0, 15.0, 16.0, 20.0}) {
    const Recommendation said = ask(1, gb);
    EXPECT_EQ(said.config, "");
    EXPECT_EQ(said.table_choice, "");
    EXPECT_EQ(said.larger, "1b");
    EXPECT_FALSE(said.gpus_needed_for_larger == 1) << "there is one";
    const bool alone = said.reason.find("by memory alone it fits") != std::string::npos;
    EXPECT_EQ(alone, fits(own, gb)) << said.reason;
    const std::string key = "training.seq_length=";
    const size_t at = said.reason.find(key);
    if (at == std::string::npos) {
      EXPECT_TRUE(alone || !fits(1024, gb)) << said.reason;
      continue;
    }
    ++shorter;
    const int64_t length = std::stoll(said.reason.substr(at + key.size()));
    EXPECT_TRUE(fits(length, gb)) << said.reason;
    EXPECT_FALSE(fits(2 * length, gb)) << said.reason;
  }
  EXPECT_GE(shorter, 1);
  const Recommendation tiny = ask(1, 12);
  EXPECT_EQ(tiny.config, "");
  ASSERT_FALSE(tiny.alternatives.empty());
  EXPECT_EQ(tiny.alternatives[0].config, "small");
}

// 11 is prime: a pipeline of 11 stages is slower than 8 GPUs cut well.
TEST(Recommend, FewerGpusAreUsedWhereTheyAreFaster) {
  const Recommendation said = ask(11, 80);
  ASSERT_TRUE(said.plan && said.plan->predicted.tokens_per_s);
  spec::JobSpec job;
  for (const NamedJob& preset : presets())
    if (preset.name == said.config) job = preset.job;
  const Plan all = plan(job, cluster_of_gpus(11, 80, ""));
  ASSERT_LT(said.plan->gpus, 11);
  EXPECT_GE(said.plan->gpus, 8);
  EXPECT_GT(*said.plan->predicted.tokens_per_s, all.predicted.tokens_per_s.value_or(0));
  EXPECT_NE(said.reason.find("of 11: "), std::string::npos) << said.reason;
  EXPECT_EQ(ask(24, 80).plan->gpus, 24);
}

TEST(Recommend, TokensOfAJobSaturate) {
  spec::JobSpec job;
  job.training.max_steps = 1'000'000'000;
  job.training.global_batch_size = int64_t{1} << 24;
  job.training.seq_length = int64_t{1} << 20;
  EXPECT_EQ(tokens_of(job), std::numeric_limits<int64_t>::max());
  job.training.max_steps = 3;
  EXPECT_EQ(tokens_of(job), 3 * (int64_t{1} << 44));
}

// The table of the selector, word by word, on hardware that holds everything but 671b.
TEST(Recommend, AUseCaseOrABudgetLowersTheChoice) {
  struct Case {
    const char *use_case, *budget, *config;
  };
  for (const Case& c : {Case{"learning", "", "1b"},
                        {"research", "", "10b"},
                        {"production", "", "15b"},
                        {"large-production", "", "20b"},
                        {"frontier", "", "20b"},
                        {"", "low", "1b"},
                        {"", "medium", "5b"},
                        {"", "high", "10b"},
                        {"", "very-high", "20b"},
                        {"", "extreme", "20b"},
                        {"frontier", "low", "1b"},
                        {"learning", "extreme", "1b"}}) {
    const Recommendation said =
        recommend({32, 80, ""}, presets(), {.use_case = c.use_case, .budget = c.budget});
    EXPECT_EQ(said.config, c.config) << c.use_case << " " << c.budget << ": " << said.reason;
    EXPECT_EQ(said.table_choice, "671b");
    EXPECT_EQ(said.table.by_use_case.empty(), *c.use_case == '\0');
    EXPECT_EQ(said.table.by_budget.empty(), *c.budget == '\0');
  }
}

TEST(Recommend, HardwareBelowTheUseCaseIsSaid) {
  const Recommendation said = recommend({4, 40, ""}, presets(), {.use_case = "production"});
  EXPECT_EQ(said.config, "5b");
  EXPECT_NE(said.reason.find("10b or 15b"), std::string::npos) << said.reason;
}

TEST(Recommend, DollarsAreComparedWithThePredictedCost) {
  Wishes wishes;
  wishes.tokens = 300'000'000'000;
  const Hardware hardware{64, 80, "h100"};
  const Recommendation free = recommend(hardware, presets(), wishes);
  ASSERT_TRUE(free.plan && free.plan->predicted.cost_usd);
  const double cost = *free.plan->predicted.cost_usd;
  wishes.budget_usd = 1.001 * cost;
  EXPECT_EQ(recommend(hardware, presets(), wishes).config, free.config);
  wishes.budget_usd = 0.999 * cost;
  const Recommendation less = recommend(hardware, presets(), wishes);
  EXPECT_NE(less.config, free.config);
  ASSERT_TRUE(less.plan && less.plan->predicted.cost_usd);
  EXPECT_LE(*less.plan->predicted.cost_usd, wishes.budget_usd);
  wishes.budget_usd = 1;
  const Recommendation none = recommend(hardware, presets(), wishes);
  EXPECT_EQ(none.config, "");
  EXPECT_NE(none.reason.find("within the budget"), std::string::npos) << none.reason;
}

// Twice the price, twice the cost; twice the tokens, twice the days.
TEST(Recommend, PriceAndTokensAreLinear) {
  const Hardware hardware{8, 80, "h100"};
  const auto one =
      recommend(hardware, presets(), {.tokens = 1'000'000'000, .usd_per_gpu_hour = 2.0});
  const auto two =
      recommend(hardware, presets(), {.tokens = 2'000'000'000, .usd_per_gpu_hour = 4.0});
  ASSERT_TRUE(one.plan->predicted.days && two.plan->predicted.days);
  EXPECT_NEAR(*two.plan->predicted.days / *one.plan->predicted.days, 2, 1e-6);
  EXPECT_NEAR(*two.plan->predicted.cost_usd / *one.plan->predicted.cost_usd, 4, 1e-5);
  // Dollars are days × 24 × GPUs × price.
  EXPECT_NEAR(*one.plan->predicted.cost_usd, *one.plan->predicted.days * 24 * 8 * 2.0, 1e-6);
  EXPECT_EQ(one.tokens, 1'000'000'000);
}

TEST(Recommend, WithoutGpusTheDemoRunsAndTheReasonIsSaid) {
  ClusterSpec cluster;
  cluster.nodes.push_back(
      {"here", {{.kind = DeviceKind::kCpu, .memory_bytes = int64_t{16} << 30, .cores = 4}}});
  const Recommendation said = recommend_on_cpus(cluster, presets());
  EXPECT_EQ(said.config, "demo");
  ASSERT_TRUE(said.plan.has_value());
  EXPECT_TRUE(said.plan->runnable);
  EXPECT_NE(said.reason.find("no GPUs"), std::string::npos);
  cluster.nodes[0].devices[0].memory_bytes = int64_t{64} << 20;
  const Recommendation tiny = recommend_on_cpus(cluster, presets());
  EXPECT_EQ(tiny.config, "");
  EXPECT_NE(tiny.reason.find("MiB"), std::string::npos) << tiny.reason;
}

TEST(Recommend, HardwareOfAClusterHasTheLabelsMemory) {
  ClusterSpec cluster = cluster_of_gpus(16, 80, "NVIDIA H100 80GB HBM3", 90, 8);
  const Hardware label = hardware_of(cluster);
  EXPECT_EQ(label.gpus, 16);
  EXPECT_EQ(label.gpus_per_node, 8);
  EXPECT_EQ(label.gpu_memory_gb, 80);
  EXPECT_EQ(label.gpu_name, "NVIDIA H100 80GB HBM3");
  // The smallest card counts, by what it holds where its name doesn't say: 40 / 0.98 = 40.8.
  cluster.nodes[1].devices[3].memory_bytes = int64_t{40} << 30;
  EXPECT_NEAR(hardware_of(cluster).gpu_memory_gb, 40.8, 1e-9);
  EXPECT_EQ(hardware_of({}).gpus, 0);
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
