// What a migration says and writes: every key that differs has a reason, and the job that comes out
// plans as it was settled.
#include "cluster/plan/migrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "configs/spec/diff.h"
#include "configs/spec/parse.h"
#include "configs/spec/render.h"
#include "configs/spec/validate.h"

namespace dsv3::plan {
namespace {

spec::JobSpec preset(const std::string& name) {
  auto job = spec::load_valid(name);
  EXPECT_TRUE(job.ok()) << job.status().to_string();
  return job.ok() ? *job : spec::JobSpec{};
}

std::string advice(const Migration& migration, const std::string& topic) {
  for (const Advice& a : migration.advice) {
    if (a.topic == topic) return a.text;
  }
  return {};
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Every pair of the table, up and down, on hardware that the target fits.
TEST(Migrate, WhatComesOutReadsBackValidatesAndPlansTheSame) {
  struct Case {
    const char *from, *to;
    int64_t gpus;
    double gb;
  };
  for (const Case& c : {Case{"1b", "5b", 8, 40},
                        {"5b", "10b", 8, 80},
                        {"10b", "15b", 16, 80},
                        {"15b", "20b", 24, 80},
                        {"20b", "671b", 256, 80},
                        {"671b", "1b", 1, 24}}) {
    const ClusterSpec cluster = cluster_of_gpus(c.gpus, c.gb, "");
    const Migration m = migrate(preset(c.from), preset(c.to), cluster);
    ASSERT_TRUE(m.plan.feasible) << c.to << ": " << m.plan.reason;
    const spec::Parsed back = spec::parse_yaml(spec::to_yaml(m.job), "m.yaml");
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back.job, m.job);
    EXPECT_FALSE(spec::has_errors(spec::validate(back.job, {.gpus = c.gpus})));
    const Plan again = plan(back.job, cluster);
    EXPECT_TRUE(again.feasible) << again.reason;
    EXPECT_EQ(again.layout, m.plan.layout) << c.to;
    const spec::ParallelSpec& p = m.job.parallel;
    EXPECT_EQ(p.tensor_parallel_size * p.context_parallel_size * p.pipeline_parallel_size *
                  p.expert_parallel_size * p.data_parallel_size,
              c.gpus);
  }
}

TEST(Migrate, EveryDifferenceIsThereWithAReason) {
  const spec::JobSpec from = preset("1b");
  const Migration m = migrate(from, preset("5b"), cluster_of_gpus(8, 80, ""));
  const auto differences = spec::diff(from, m.job);
  ASSERT_EQ(m.changes.size(), differences.size());
  for (size_t i = 0; i < differences.size(); ++i) {
    EXPECT_EQ(m.changes[i].key, differences[i].key);
    EXPECT_FALSE(m.changes[i].why.empty()) << m.changes[i].key;
  }
  const auto vocabulary = std::find_if(m.changes.begin(), m.changes.end(),
                                       [](const Change& c) { return c.key == "model.vocab_size"; });
  ASSERT_NE(vocabulary, m.changes.end());
  EXPECT_TRUE(has(vocabulary->why, "tokenized again"));
}

TEST(Migrate, AnotherVocabularyMeansTheDataAgainAndNoCheckpoint) {
  const Migration m = migrate(preset("1b"), preset("5b"), cluster_of_gpus(8, 80, ""));
  EXPECT_TRUE(has(advice(m, "data"), "65,536")) << advice(m, "data");
  EXPECT_FALSE(m.checkpoints_carry_over);
  EXPECT_TRUE(has(advice(m, "checkpoints"), "[65536, 2048], was [32768, 1024]"))
      << advice(m, "checkpoints");
}

TEST(Migrate, EqualShapesKeepCheckpointsAndData) {
  const spec::JobSpec from = preset("1b");
  spec::JobSpec to = from;
  to.training.learning_rate *= 0.5;
  to.training.seq_length *= 2;
  const Migration m = migrate(from, to, cluster_of_gpus(2, 80, ""));
  EXPECT_TRUE(m.checkpoints_carry_over);
  EXPECT_TRUE(has(advice(m, "checkpoints"), "checkpoint.load"));
  EXPECT_TRUE(has(advice(m, "data"), "stays the same"));
  to.model.moe.num_experts *= 2;
  EXPECT_FALSE(migrate(from, to, cluster_of_gpus(2, 80, "")).checkpoints_carry_over);
}

TEST(Migrate, TheSourcesDataAreKeptWhereTheVocabularyIsTheSame) {
  spec::JobSpec from = preset("1b"), to = from;
  from.data.path = {{"/data/mine", 1.0}};
  EXPECT_EQ(migrate(from, to, cluster_of_gpus(2, 80, "")).job.data.path, from.data.path);
  to.data.path = {{"/data/theirs", 1.0}};
  EXPECT_EQ(migrate(from, to, cluster_of_gpus(2, 80, "")).job.data.path, to.data.path);
  const spec::JobSpec larger = preset("5b");
  EXPECT_EQ(migrate(from, larger, cluster_of_gpus(8, 80, "")).job.data.path, larger.data.path);
}

TEST(Migrate, WhatDoesNotFitSaysHowMuchItNeeds) {
  const spec::JobSpec to = preset("671b");
  const Migration m = migrate(preset("20b"), to, cluster_of_gpus(32, 80, ""));
  EXPECT_FALSE(m.plan.feasible);
  EXPECT_EQ(m.job.parallel, to.parallel) << "nothing was settled";
  ASSERT_TRUE(m.plan.gpus_needed.has_value());
  EXPECT_TRUE(has(advice(m, "gpus"), std::to_string(*m.plan.gpus_needed))) << advice(m, "gpus");
  EXPECT_TRUE(has(advice(m, "memory"), "GiB")) << advice(m, "memory");
}

// What one GPU would hold as the file stands, and what would do with which settings, are two
// sentences, and the second's figure is of its settings.
TEST(Migrate, WithoutGpusTheNeedComesWithItsSettings) {
  ClusterSpec cluster;
  cluster.nodes.push_back({"here", {{.memory_bytes = int64_t{16} << 30, .cores = 4}}});
  const spec::JobSpec to = preset("5b");
  const Migration m = migrate(preset("1b"), to, cluster);
  ASSERT_FALSE(m.plan.feasible);
  ASSERT_TRUE(m.plan.gpus_needed.has_value());
  const Plan there = plan(to, cluster_of_gpus(*m.plan.gpus_needed, 80, ""));
  ASSERT_TRUE(there.feasible);
  EXPECT_TRUE(has(advice(m, "gpus"), human_bytes(there.predicted.peak_memory_bytes)))
      << advice(m, "gpus");
  EXPECT_TRUE(has(advice(m, "gpus"), to_string(there.layout))) << advice(m, "gpus");
  EXPECT_TRUE(has(advice(m, "gpus"), "there are none")) << advice(m, "gpus");
  EXPECT_FALSE(has(advice(m, "gpus"), " 1 GPUs")) << advice(m, "gpus");
  EXPECT_TRUE(has(advice(m, "memory"), "as the configuration stands")) << advice(m, "memory");
}

TEST(Migrate, SmallNumbersAreWrittenAlike) {
  spec::JobSpec from = preset("1b"), to = from;
  from.training.learning_rate = 3e-4;
  to.training.learning_rate = 2.2e-4;
  const Migration m = migrate(from, to, cluster_of_gpus(2, 80, ""));
  EXPECT_FALSE(m.same);
  const auto rate = std::find_if(m.changes.begin(), m.changes.end(),
                                 [](const Change& c) { return c.key == "training.learning_rate"; });
  ASSERT_NE(rate, m.changes.end());
  EXPECT_EQ(rate->from, "3e-04");
  EXPECT_EQ(rate->to, "2.2e-04");
}

TEST(Migrate, ToItselfSettlesAndChangesNoModel) {
  const Migration m = migrate(preset("5b"), preset("5b"), cluster_of_gpus(8, 80, ""));
  EXPECT_TRUE(m.same);
  EXPECT_EQ(advice(m, "learning_rate"), "") << "nothing to scale";
  for (const Change& c : m.changes) EXPECT_FALSE(c.key.starts_with("model.")) << c.key;
  EXPECT_TRUE(m.checkpoints_carry_over);
}

// 10^8 times the compute: a tenth of the rate (8·0.125 = 1); 10 times: 2.124 times the batch.
TEST(Migrate, ScalingLaws) {
  EXPECT_NEAR(scaled_learning_rate(3e-4, 1e8), 3e-5, 1e-12);
  EXPECT_DOUBLE_EQ(scaled_learning_rate(3e-4, 1), 3e-4);
  EXPECT_NEAR(scaled_batch_tokens(1e6, 10), 2.1237e6, 1e2);
}

}  // namespace
}  // namespace dsv3::plan
