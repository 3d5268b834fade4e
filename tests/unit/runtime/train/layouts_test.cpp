// Training over ranks is training in one process: the same losses, step by step, in every kind of
// layout, and every rank is told them.
#include <gtest/gtest.h>
#include <omp.h>
#include <sys/mman.h>

#include <cmath>
#include <new>

#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/train/session.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/train/trainer_fixture.h"

namespace dsv3::train {
namespace {

using testing_support::Recorder;

constexpr int64_t kSteps = 3;

// What a rank reports, where the parent reads it.
struct Report {
  double loss[kSteps], grad_norm[kSteps], validation;
  int64_t steps, params_total, counts, dropped;
};

class LayoutTrainer : public testing_support::TrainerFixture {
 protected:
  LayoutTrainer() {
    job_.training.max_steps = kSteps;
    job_.training.global_batch_size = 8;
    job_.training.eval_batches = 1;
    job_.model.num_layers = 4;
  }

  static Report report_of(const Recorder& recorder) {
    Report report{};
    report.steps = static_cast<int64_t>(recorder.steps.size());
    for (size_t i = 0; i < recorder.steps.size(); ++i) {
      report.loss[i] = recorder.steps[i].loss;
      report.grad_norm[i] = recorder.steps[i].grad_norm;
      report.dropped += recorder.steps[i].dropped;
    }
    report.validation = recorder.validations.back().loss;
    report.params_total = recorder.start.params_total;
    for (const auto& [key, counts] : recorder.counts)
      for (const int64_t count : counts) report.counts += count;
    return report;
  }

  Report alone() {
    ::omp_set_num_threads(1);  // no pool of threads that later forks would lack
    Recorder recorder;
    run(recorder);
    return report_of(recorder);
  }

  std::vector<Report> ranks(const plan::Layout& layout) {
    const auto world = static_cast<size_t>(layout.world_size());
    auto* shared =
        static_cast<Report*>(::mmap(nullptr, world * sizeof(Report), PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const std::string rendezvous = comm::unique_rendezvous();
    comm::all_ranks(static_cast<int>(world), [&](int rank) {
      ::omp_set_num_threads(1);
      const auto mesh =
          comm::connect_or_throw(comm::options_for(rendezvous, rank, static_cast<int>(world)));
      const comm::RankGroups owned(*mesh, layout, plan::copies_embedding(job_.model, layout));
      TrainOptions given = options();
      given.groups = &owned.groups();
      Recorder recorder;
      const auto summary = train(given, recorder);
      comm::expect(summary.ok(), summary.status().to_string());
      shared[rank] = report_of(recorder);
    });
    std::vector<Report> reports(shared, shared + world);
    ::munmap(shared, world * sizeof(Report));
    return reports;
  }

  void expect_as_alone(const plan::Layout& layout) {
    SCOPED_TRACE(plan::to_string(layout));
    const Report want = alone();
    for (const Report& got : ranks(layout)) {
      ASSERT_EQ(got.steps, kSteps);
      for (int64_t step = 0; step < kSteps; ++step) {
        EXPECT_NEAR(got.loss[step], want.loss[step], 1e-5 * want.loss[step]) << step;
        EXPECT_NEAR(got.grad_norm[step], want.grad_norm[step], 1e-4 * want.grad_norm[step]) << step;
      }
      EXPECT_NEAR(got.validation, want.validation, 1e-5 * want.validation);
      EXPECT_EQ(got.params_total, want.params_total);
      EXPECT_EQ(got.counts, want.counts);
      EXPECT_EQ(got.dropped, want.dropped);
      EXPECT_EQ(got.dropped > 0, job_.model.moe.capacity_factor.has_value());
    }
  }
};

TEST_F(LayoutTrainer, TensorParallel) {
  expect_as_alone({.tp = 2, .zero_stage = 0});
}
TEST_F(LayoutTrainer, ExpertParallel) {
  expect_as_alone({.ep = 2});
}
TEST_F(LayoutTrainer, ContextParallel) {
  expect_as_alone({.cp = 2});
}
TEST_F(LayoutTrainer, Pipeline) {
  expect_as_alone({.pp = 2, .schedule = "zero_bubble"});
}
TEST_F(LayoutTrainer, ShardedOptimizer) {
  for (const int64_t zero_stage : {0, 1, 2}) expect_as_alone({.dp = 2, .zero_stage = zero_stage});
}
// Validation too: 7 samples are shared by ranks that compute together.
TEST_F(LayoutTrainer, AxesTogether) {
  expect_as_alone({.tp = 2, .pp = 2, .ep = 2});
  expect_as_alone({.cp = 2, .ep = 2, .dp = 2, .zero_stage = 2});
  expect_as_alone({.tp = 2, .cp = 2, .etp = 2, .recompute = "full"});
}
TEST_F(LayoutTrainer, WhatACapacityDropsIsReported) {
  job_.model.moe.capacity_factor = 1.0;
  expect_as_alone({.tp = 2, .cp = 2});
  expect_as_alone({.pp = 2, .ep = 2, .recompute = "full"});
}
// With one stage a data rank's last micro-batch may be smaller.
TEST_F(LayoutTrainer, ASmallerLastMicroBatch) {
  job_.training.micro_batch_size = 3;
  expect_as_alone({.dp = 2});
}

}  // namespace
}  // namespace dsv3::train
