// AdamW, the gradient norm and the clipping factor. The parameter is the dtype of the moments.
#include <cmath>

#include <omp.h>

#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class OptimizerTest : public OpTest {};
DSV3_OP_TEST_DTYPES(OptimizerTest);

constexpr int64_t kSizes[] = {0, 1, 7, 1000, 40009};

// The state of one parameter, and steps on it.
struct Adam {
  Tensor master, grad, exp_avg, exp_avg_sq, compute;
  float grad_scale = 0.5f;
  bool has_compute = true, has_scale = true;

  Adam(DType moments, int64_t size)
      : master(Tensor::random(DType::kF32, 1, size, 1)),
        grad(DType::kF32, 1, size),
        exp_avg(moments, 1, size),
        exp_avg_sq(moments, 1, size),
        compute(DType::kBf16, 1, size) {}
  void step(const ops::Context& ctx, int t) {
    grad = Tensor::random(DType::kF32, 1, grad.size(), 100 + t);
    ops::AdamW args;
    args.master = master.vector<float>();
    args.grad = grad.vector<float>();
    args.exp_avg = exp_avg.raw();
    args.exp_avg_sq = exp_avg_sq.raw();
    args.moments_dtype = exp_avg.dtype();
    args.compute = has_compute ? compute.raw() : nullptr;
    args.grad_scale = has_scale ? &grad_scale : nullptr;
    args.lr = 0.01f;
    args.weight_decay = 0.1f;
    args.bias1 = static_cast<float>(1.0 - std::pow(0.9, t));
    args.bias2 = static_cast<float>(1.0 - std::pow(0.95, t));
    ops::adamw(ctx, args);
  }
};

TEST_P(OptimizerTest, AdamWMatchesReferenceOverThreeSteps) {
  for (const int64_t size : kSizes) {
    for (const bool with_options : {true, false}) {
      Adam actual(act(), size), expected(act(), size);
      actual.has_compute = expected.has_compute = actual.has_scale = expected.has_scale =
          with_options;
      for (int t = 1; t <= 3; ++t) {
        actual.step(cpu(), t);
        expected.step(reference(), t);
      }
      // A moment that lies between two bf16 numbers may round either way, which moves the update by
      // 2^-8 of lr.
      const bool is_bf16 = act() == DType::kBf16;
      test::expect_close(actual.master, expected.master, {is_bf16 ? 1e-4 : 1e-6, 1e-6}, "master");
      expect_close(actual.exp_avg, expected.exp_avg, "exp_avg");
      expect_close(actual.exp_avg_sq, expected.exp_avg_sq, "exp_avg_sq");
      test::expect_close(actual.compute, expected.compute, {8e-3, 8e-3}, "compute");
      for (int64_t i = 0; i < size && with_options; ++i) {
        ASSERT_EQ(actual.compute.data<Bf16>()[i].bits, Bf16(actual.master.data<float>()[i]).bits);
      }
    }
  }
}

// t = 1 from zero moments: m / bias1 = g and sqrt(v / bias2) = |g|, so the step is lr · sign(g),
// then the decay.
TEST_P(OptimizerTest, FirstStepMovesByTheLearningRate) {
  Adam adam(act(), 100);
  const Tensor before = adam.master;
  adam.step(cpu(), 1);
  for (int64_t i = 0; i < 100; ++i) {
    const double sign = adam.grad.at(0, i) > 0 ? 1.0 : -1.0;
    EXPECT_NEAR(adam.master.at(0, i), before.at(0, i) * (1.0 - 0.01 * 0.1) - 0.01 * sign, 1e-6);
  }
}

TEST_P(OptimizerTest, SquaredNormIsExactToRoundingAndAccumulates) {
  for (const int64_t size : kSizes) {
    Tensor x = Tensor::random(DType::kF32, 1, size, 5, 10.0);
    double sum = 2.0, expected = 2.0;
    ops::squared_norm(cpu(), {x.vector<float>(), &sum});
    ops::squared_norm(reference(), {x.vector<float>(), &expected});
    EXPECT_NEAR(sum, expected, 1e-12 * expected);
  }
}

TEST_P(OptimizerTest, SquaredNormTakesValuesWhoseSquaresOverflowFloats) {
  Tensor x = Tensor::filled(DType::kF32, 1, 4, 1e30);
  double sum = 0.0;
  ops::squared_norm(cpu(), {x.vector<float>(), &sum});
  EXPECT_NEAR(sum / 4e60, 1.0, 1e-6);
}

TEST_P(OptimizerTest, ResultsHaveTheSameBitsForAnyNumberOfThreads) {
  Tensor x = Tensor::random(DType::kF32, 1, 100003, 5);
  Adam adam_one(act(), 40009), adam_many(act(), 40009);
  double one = 0.0, many = 0.0;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  ops::squared_norm(cpu(), {x.vector<float>(), &one});
  adam_one.step(cpu(), 1);
  omp_set_num_threads(3);
  ops::squared_norm(cpu(), {x.vector<float>(), &many});
  adam_many.step(cpu(), 1);
  omp_set_num_threads(threads);
  EXPECT_EQ(one, many);
  EXPECT_TRUE(adam_one.master.bits_equal(adam_many.master));
}

TEST_P(OptimizerTest, ClipScaleShortensOnlyLongGradients) {
  struct Row {
    double sum_of_squares;
    float max_norm, scale;
  };
  for (const Row row : {Row{16.0, 1.0f, 0.25f}, Row{0.25, 1.0f, 1.0f}, Row{1.0, 1.0f, 1.0f},
                        Row{0.0, 1.0f, 1.0f}, Row{16.0, 0.0f, 1.0f}}) {
    for (const ops::Context* context : {&cpu(), &reference()}) {
      float scale = -1.0f;
      double norm = -1.0;
      ops::clip_scale(*context, {&row.sum_of_squares, row.max_norm, &scale, &norm});
      EXPECT_EQ(scale, row.scale);
      EXPECT_EQ(norm, std::sqrt(row.sum_of_squares));
    }
  }
}

TEST_P(OptimizerTest, ClipScaleOfABrokenGradientIsNotANumber) {
  const double sum_of_squares = std::nan("");
  float scale = 1.0f;
  double norm = 0.0;
  ops::clip_scale(cpu(), {&sum_of_squares, 1.0f, &scale, &norm});
  EXPECT_TRUE(std::isnan(scale));
  EXPECT_TRUE(std::isnan(norm));
}

}  // namespace
}  // namespace dsv3::test
