// Learning rate and AdamW against their closed forms in double, written independently.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "runtime/optim/adamw.h"
#include "runtime/optim/schedule.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::optim {
namespace {

using testing_support::tiny_job;
using testing_support::TinyModel;
using testing_support::to_host;

spec::TrainingSpec training(const std::string& schedule) {
  spec::TrainingSpec t;
  t.max_steps = 200;
  t.learning_rate = 2e-3;
  t.min_learning_rate = 2e-4;
  t.lr_warmup_steps = 20;
  t.lr_schedule = schedule;
  return t;
}

TEST(Schedule, WarmsUpLinearly) {
  for (const char* schedule : {"cosine", "linear", "constant"}) {
    EXPECT_DOUBLE_EQ(learning_rate(training(schedule), 1), 1e-4);
    EXPECT_DOUBLE_EQ(learning_rate(training(schedule), 10), 1e-3);
    EXPECT_DOUBLE_EQ(learning_rate(training(schedule), 20), 2e-3);
  }
}

TEST(Schedule, CosineAndLinearEndAtTheMinimum) {
  EXPECT_NEAR(learning_rate(training("cosine"), 110), 1.1e-3, 1e-12);
  EXPECT_NEAR(learning_rate(training("cosine"), 65),
              2e-4 + 9e-4 * (1 + std::cos(std::numbers::pi / 4)), 1e-12);
  EXPECT_NEAR(learning_rate(training("cosine"), 200), 2e-4, 1e-12);
  EXPECT_NEAR(learning_rate(training("cosine"), 999), 2e-4, 1e-12);
  EXPECT_NEAR(learning_rate(training("linear"), 65), 2e-3 - 0.25 * 1.8e-3, 1e-12);
  EXPECT_NEAR(learning_rate(training("linear"), 200), 2e-4, 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(training("constant"), 200), 2e-3);
}

TEST(Schedule, WithoutWarmupTheFirstStepIsBelowThePeak) {
  spec::TrainingSpec t = training("linear");
  t.lr_warmup_steps = 0;
  EXPECT_NEAR(learning_rate(t, 1), 2e-3 - 1.8e-3 / 200, 1e-12);
}

// Three updates with given gradients; the oracle keeps its own state in double.
TEST(Optimizer, IsAdamWWithDecayOnMatricesAndClippingByTheGlobalNorm) {
  spec::JobSpec job = tiny_job();
  job.training.lr_schedule = "constant";
  job.training.lr_warmup_steps = 0;
  job.training.grad_clip = 0.5;
  TinyModel tiny(job);
  model::ParamStore& params = tiny.transformer->params();
  Optimizer optimizer(job.training, params, tiny.arena);
  const std::vector<float> start = tiny.weights();
  const size_t n = start.size();
  std::vector<double> w(start.begin(), start.end()), m(n), v(n);
  std::vector<bool> decayed(n), used(n);
  for (const model::ParamSlice& slice : params.layout().slices) {
    for (int64_t i = 0; i < slice.info.num_elements(); ++i) {
      decayed[static_cast<size_t>(slice.offset + i)] =
          slice.info.name.find("norm") == std::string::npos;
      used[static_cast<size_t>(slice.offset + i)] = true;
    }
  }
  const CounterRng rng(1, 2);
  for (int step = 1; step <= 3; ++step) {
    std::vector<float> g(n);
    double squares = 0;
    for (size_t i = 0; i < n; ++i) {
      g[i] = used[i] ? 0.01f * rng.normal(i + static_cast<size_t>(step) * n) : 0.0f;
      squares += static_cast<double>(g[i]) * g[i];
    }
    params.write(params.grad(), 0, g);
    tiny.transformer->step().reset();
    optimizer.add_squared_norm(tiny.transformer->step());
    const double lr = optimizer.update(step, tiny.transformer->step());
    tiny.transformer->step().read_back();
    EXPECT_NEAR(tiny.transformer->step().host_scalar(model::Scalar::kGradNorm), std::sqrt(squares),
                1e-6 * std::sqrt(squares));
    const double clip = std::min(1.0, 0.5 / std::sqrt(squares));
    EXPECT_LT(clip, 1.0);  // the case clips
    for (size_t i = 0; i < n; ++i) {
      const double gi = g[i] * clip;
      m[i] = 0.9 * m[i] + 0.1 * gi;
      v[i] = 0.95 * v[i] + 0.05 * gi * gi;
      const double update =
          m[i] / (1 - std::pow(0.9, step)) / (std::sqrt(v[i] / (1 - std::pow(0.95, step))) + 1e-8);
      w[i] -= lr * (update + (decayed[i] ? 0.1 * w[i] : 0.0));
    }
  }
  const std::vector<float> got = tiny.weights();
  for (size_t i = 0; i < n; ++i) {
    if (!used[i]) continue;
    ASSERT_NEAR(got[i], w[i], 2e-6) << i;
  }
}

TEST(Optimizer, Bf16MomentsTakeHalfTheMemoryAndStayClose) {
  spec::JobSpec job = tiny_job();
  TinyModel exact(job), rounded(job);
  Optimizer a(job.training, exact.transformer->params(), exact.arena);
  job.training.moments_dtype = "bf16";
  Optimizer b(job.training, rounded.transformer->params(), rounded.arena);
  EXPECT_EQ(rounded.arena.ledger().peak_bytes("optimizer/") * 2,
            exact.arena.ledger().peak_bytes("optimizer/"));
  const std::vector<int32_t> tokens = testing_support::random_tokens(job, 4);
  for (int step = 1; step <= 3; ++step) {
    exact.accumulate(tokens, 4);
    rounded.accumulate(tokens, 4);
    a.add_squared_norm(exact.transformer->step());
    b.add_squared_norm(rounded.transformer->step());
    a.update(step, exact.transformer->step());
    b.update(step, rounded.transformer->step());
  }
  exact.accumulate(tokens, 4);
  rounded.accumulate(tokens, 4);
  EXPECT_NE(exact.weights(), rounded.weights());
  EXPECT_NEAR(exact.lm_loss(), rounded.lm_loss(), 5e-3);
}

TEST(Optimizer, TheComputeCopyFollowsTheMaster) {
  spec::JobSpec job = tiny_job();
  TinyModel tiny(job, 4, DType::kBf16);
  Optimizer optimizer(job.training, tiny.transformer->params(), tiny.arena);
  tiny.accumulate(testing_support::random_tokens(job, 4), 4);
  optimizer.add_squared_norm(tiny.transformer->step());
  optimizer.update(1, tiny.transformer->step());
  const model::ParamStore& params = tiny.transformer->params();
  const std::vector<float> master = tiny.weights();
  std::vector<Bf16> compute(static_cast<size_t>(params.compute().num_elements()));
  tiny.device->backend().copy_to_host(compute.data(), params.compute().data,
                                      compute.size() * sizeof(Bf16), nullptr);
  for (size_t i = 0; i < compute.size(); ++i) ASSERT_EQ(compute[i].bits, Bf16(master[i]).bits) << i;
}

// Pieces on several ranks: each is updated as the whole would be, and nothing else is touched.
TEST(Optimizer, UpdatesWhatItOwnsLikeTheWhole) {
  const spec::JobSpec job = tiny_job();
  TinyModel whole(job), part(job);
  const model::ParamLayout& layout = whole.transformer->params().layout();
  // Two pieces, one of them across the end of decay.
  const parallel::Ownership owned{
      .updated = {{32, 96}, {layout.decay_elements - 64, layout.decay_elements + 16}},
      .represented = {{32, 96}}};
  Optimizer a(job.training, whole.transformer->params(), whole.arena);
  Optimizer b(job.training, part.transformer->params(), owned, part.arena);
  EXPECT_EQ(b.exp_avg().num_elements(), 64 + 80);
  const std::vector<float> start = part.weights();
  const std::vector<int32_t> tokens = testing_support::random_tokens(job, 4);
  for (int step = 1; step <= 2; ++step) {
    whole.accumulate(tokens, 4);
    model::ParamStore& params = part.transformer->params();
    const std::vector<float> grads = whole.grads();
    params.write(params.grad(), 0, grads);
    part.transformer->step().reset();
    a.add_squared_norm(whole.transformer->step());
    b.add_squared_norm(part.transformer->step());
    // What it represents alone; the rest of the norm comes from other ranks.
    double squares = 0;
    for (const float g : std::span(grads).subspan(32, 64)) squares += double{g} * g;
    double* sum = part.transformer->step().scalar(model::Scalar::kSquaredNorm);
    EXPECT_NEAR(*sum, squares, 1e-12 * squares);
    *sum = *whole.transformer->step().scalar(model::Scalar::kSquaredNorm);
    a.update(step, whole.transformer->step());
    b.update(step, part.transformer->step());
    const std::vector<float> all = whole.weights(), own = part.weights();
    const std::vector<float> moments = to_host(whole.arena, a.exp_avg());
    const std::vector<float> pieces = to_host(part.arena, b.exp_avg());
    size_t at = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const auto inside = [i](const parallel::Range& range) {
        return static_cast<int64_t>(i) >= range.begin && static_cast<int64_t>(i) < range.end;
      };
      if (inside(owned.updated[0]) || inside(owned.updated[1])) {
        ASSERT_EQ(own[i], all[i]) << i;
        ASSERT_EQ(pieces[at++], moments[i]) << i;
      } else {
        ASSERT_EQ(own[i], start[i]) << i;
      }
    }
    EXPECT_EQ(at, pieces.size());
  }
}

TEST(Optimizer, OffloadedMomentsAreBookedAsTheHosts) {
  const spec::JobSpec job = tiny_job();
  auto device = testing_support::cpu_device();
  tensor::Arena arena(*device);
  const plan::Layout cut{.offload_optimizer = true};
  model::ParamStore params(job.model, arena, {.cut = cut});
  const Optimizer optimizer(job.training, params, arena);
  EXPECT_EQ(arena.ledger().peak_bytes("optimizer/"), 0);
  EXPECT_EQ(arena.ledger().peak_bytes("host/optimizer/"), 8 * params.layout().elements);
}

}  // namespace
}  // namespace dsv3::optim
