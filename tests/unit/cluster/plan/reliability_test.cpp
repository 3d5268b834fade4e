// Failures: worked examples, the published anchor, and a simulation that knows no formula.
#include "cluster/plan/reliability.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace dsv3::plan {
namespace {

constexpr double kHour = 3600;

// Runs `work_s` of useful time second by second of its own: draws the time to the next failure,
// and starts the interval again, after a restart that can fail too.
double simulated_ratio(const FailureModel& model, int64_t nodes, double interval_s, double work_s,
                       uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(static_cast<double>(nodes) / model.node_mtbf_s);
  double wall = 0, done = 0, next_failure = gap(random);
  const auto passes = [&](double seconds) {
    if (next_failure >= seconds) {
      next_failure -= seconds;
      wall += seconds;
      return true;
    }
    wall += next_failure;
    next_failure = gap(random);
    return false;
  };
  while (done < work_s) {
    while (!passes(interval_s + model.checkpoint_s)) {
      while (!passes(model.restart_s)) {
      }
    }
    done += interval_s;
  }
  return done / wall;
}

TEST(Reliability, MtbfOfAJobIsItsNodesShareOfOneNodes) {
  EXPECT_DOUBLE_EQ(job_mtbf_s({.node_mtbf_s = 1000 * kHour}, 10), 100 * kHour);
}

TEST(Reliability, WorkedExamples) {
  // C = 60 s, M = 3 h = 10,800 s: √(2·60·10800) = √1,296,000 = 1138.42 s.
  EXPECT_NEAR(young_interval_s(60, 10800), 1138.42, 0.01);
  // C/2M = 60/21600 = 1/360: 1138.42·(1 + 0.0527046/3 + 1/3240) − 60 = 1138.42·1.0178768 − 60.
  EXPECT_NEAR(daly_interval_s(60, 10800), 1098.77, 0.01);
  // A checkpoint that takes longer than two failures apart: once per failure.
  EXPECT_DOUBLE_EQ(daly_interval_s(25000, 10800), 10800);
  // M = 10,800, τ = 1,080, C = R = 0: 0.1/(e^0.1 − 1) = 0.1/0.1051709 = 0.950833.
  const FailureModel free{.node_mtbf_s = 10800, .checkpoint_s = 0, .restart_s = 0};
  EXPECT_NEAR(effective_time_ratio(free, 1, 1080), 0.950833, 1e-6);
}

TEST(Reliability, WithoutFailuresOnlyCheckpointsCost) {
  const FailureModel never{.node_mtbf_s = 1e18, .checkpoint_s = 10, .restart_s = 300};
  EXPECT_NEAR(effective_time_ratio(never, 1, 90), 0.9, 1e-9);
}

TEST(Reliability, ASimulationGivesTheSameRatio) {
  struct Case {
    FailureModel model;
    int64_t nodes;
    double interval_s;
  };
  for (const Case& c :
       {Case{{6335 * kHour, 30, 300}, 2048, 800}, Case{{6335 * kHour, 120, 900}, 256, 5000},
        Case{{100 * kHour, 60, 600}, 32, 1200}, Case{{20 * kHour, 300, 1800}, 16, 900}}) {
    const double predicted = effective_time_ratio(c.model, c.nodes, c.interval_s);
    // At least 20,000 failures: the ratio of a run is within 2 % of its mean.
    const double work = 20'000 * job_mtbf_s(c.model, c.nodes);
    const double simulated = simulated_ratio(c.model, c.nodes, c.interval_s, work, 20061);
    EXPECT_NEAR(simulated / predicted, 1, 0.02) << c.nodes << " nodes";
  }
}

// The same with writing in the background: a failure before the copy is on the disk falls back to
// the checkpoint before it.
double simulated_background_ratio(const FailureModel& model, int64_t nodes, double interval_s,
                                  double work_s) {
  std::mt19937_64 random(20061);
  std::exponential_distribution<double> gap(static_cast<double>(nodes) / model.node_mtbf_s);
  double wall = 0, written = 0, copied = 0, next_failure = gap(random);
  while (written < work_s) {
    const double segment = interval_s + model.checkpoint_s;
    if (next_failure >= segment) {
      next_failure -= segment;
      wall += segment;
      written = copied;  // write_s is no longer than the interval
      copied += interval_s;
      continue;
    }
    if (next_failure >= model.write_s) written = copied;
    copied = written;
    wall += next_failure;
    for (next_failure = gap(random); next_failure < model.restart_s; next_failure = gap(random))
      wall += next_failure;
    wall += model.restart_s;
    next_failure -= model.restart_s;
  }
  return written / wall;
}

TEST(Reliability, ASimulationOfBackgroundWritesGivesTheSameRatio) {
  struct Case {
    FailureModel model;
    int64_t nodes;
    double interval_s;
  };
  for (const Case& c :
       {Case{{6335 * kHour, 2, 300, 120}, 2048, 400}, Case{{6335 * kHour, 5, 900, 600}, 256, 2000},
        Case{{100 * kHour, 1, 600, 300}, 32, 600}}) {
    const double predicted = effective_time_ratio(c.model, c.nodes, c.interval_s);
    const double work = 20'000 * job_mtbf_s(c.model, c.nodes);
    const double simulated = simulated_background_ratio(c.model, c.nodes, c.interval_s, work);
    EXPECT_NEAR(simulated / predicted, 1, 0.02) << c.nodes << " nodes";
    FailureModel at_once = c.model;
    at_once.write_s = 0;
    EXPECT_LT(predicted, effective_time_ratio(at_once, c.nodes, c.interval_s));
    at_once.checkpoint_s += c.model.write_s;  // training stands still meanwhile
    EXPECT_GT(predicted, effective_time_ratio(at_once, c.nodes, c.interval_s));
  }
}

TEST(Reliability, TheNextCopyWaitsForTheWrite) {
  const FailureModel model{.node_mtbf_s = 1000 * kHour, .checkpoint_s = 0.01, .write_s = 600};
  const CheckpointChoice best = best_checkpoint_interval(model, 1000, 7);
  EXPECT_GE(best.interval_s, 600);
  EXPECT_LT(best.interval_s, 620);
}

TEST(Reliability, DalysIntervalIsTheBestOrNearlySo) {
  for (const double checkpoint_s : {1.0, 30.0, 300.0}) {
    for (const double mtbf_h : {0.5, 3.0, 100.0}) {
      const FailureModel model{mtbf_h * kHour, checkpoint_s, 300};
      const double daly = daly_interval_s(checkpoint_s, mtbf_h * kHour);
      const double there = effective_time_ratio(model, 1, daly);
      double best = 0;
      for (double interval = 1; interval < 4 * daly; interval *= 1.01)
        best = std::max(best, effective_time_ratio(model, 1, interval));
      EXPECT_GE(there, 0.999 * best) << checkpoint_s << " s, " << mtbf_h << " h";
    }
  }
}

// 16,384 GPUs, 419 interruptions in 54 days, "over 90 % effective training time".
TEST(Reliability, Llama3sAnchor) {
  const FailureModel model{.checkpoint_s = 5, .restart_s = 300};
  EXPECT_NEAR(job_mtbf_s(model, 2048) / kHour, 54.0 * 24 / 419, 0.01);
  const CheckpointChoice best = best_checkpoint_interval(model, 2048, 10);
  EXPECT_GT(best.effective_time_ratio, 0.90);
  EXPECT_LT(best.effective_time_ratio, 0.97);
}

TEST(Reliability, TheBestIntervalIsWholeStepsAndNoNeighbourIsBetter) {
  const FailureModel model{.node_mtbf_s = 1000 * kHour, .checkpoint_s = 20, .restart_s = 200};
  for (const double step_s : {0.5, 7.0, 90.0, 5000.0}) {
    const CheckpointChoice best = best_checkpoint_interval(model, 64, step_s);
    ASSERT_GE(best.interval_steps, 1);
    EXPECT_DOUBLE_EQ(best.interval_s, static_cast<double>(best.interval_steps) * step_s);
    for (const int64_t other : {best.interval_steps / 2, best.interval_steps * 2}) {
      if (other < 1) continue;
      EXPECT_GE(best.effective_time_ratio,
                effective_time_ratio(model, 64, static_cast<double>(other) * step_s));
    }
  }
}

TEST(Reliability, AFreeCheckpointIsWrittenAfterEveryStep) {
  EXPECT_EQ(best_checkpoint_interval({.checkpoint_s = 0}, 100, 10).interval_steps, 1);
}

TEST(Reliability, MoreNodesAreLessEffective) {
  const FailureModel model{.checkpoint_s = 30};
  double before = 1;
  for (const int64_t nodes : {1, 8, 64, 512, 4096, 32768}) {
    const double ratio = best_checkpoint_interval(model, nodes, 5).effective_time_ratio;
    EXPECT_LT(ratio, before);
    EXPECT_GT(ratio, 0);
    before = ratio;
  }
}

// A job that fails much more often than it restarts gets nothing done, and no NaN comes of it.
TEST(Reliability, HopelessIsZeroAndNotNaN) {
  const FailureModel model{.node_mtbf_s = 1, .checkpoint_s = 100, .restart_s = 1e6};
  EXPECT_EQ(effective_time_ratio(model, 1, 1), 0);
  EXPECT_EQ(best_checkpoint_interval(model, 1, 1).effective_time_ratio, 0);
}

TEST(Reliability, CheckpointBytes) {
  EXPECT_EQ(checkpoint_file_bytes(1'000, false), 12'000);
  EXPECT_EQ(checkpoint_file_bytes(1'000, true), 8'000);
}

}  // namespace
}  // namespace dsv3::plan
