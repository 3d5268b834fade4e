// Cross entropy against the reference, its gradient against finite differences, and what must not
// overflow.
#include <cmath>

#include <omp.h>

#include "base/rng.h"
#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class CrossEntropyTest : public OpTest {};
DSV3_OP_TEST_DTYPES(CrossEntropyTest);

struct Shape {
  int64_t rows, vocabulary;
};
constexpr Shape kShapes[] = {{0, 5}, {1, 1}, {3, 2}, {13, 127}, {40, 2051}};

// Every fifth label is left out.
Tensor random_labels(int64_t rows, int64_t vocabulary) {
  Tensor labels(DType::kI32, 1, rows);
  const CounterRng rng(6, 2);
  for (int64_t r = 0; r < rows; ++r)
    labels.set(0, r, r % 5 == 4 ? -1.0 : static_cast<double>(rng.below(r, vocabulary)));
  return labels;
}

TEST_P(CrossEntropyTest, MatchesReference) {
  for (const Shape s : kShapes) {
    for (const bool want_grad : {false, true}) {
      Tensor labels = random_labels(s.rows, s.vocabulary);
      Tensor actual = Tensor::random(act(), s.rows, s.vocabulary, 8, 3.0, s.vocabulary + 3),
             expected = actual;
      const Tensor before = actual;
      double loss = 1.0, expected_loss = 1.0;
      ops::cross_entropy(cpu(),
                         {actual.matrix(), labels.vector<int32_t>(), 0.25, 0.5f, want_grad, &loss});
      ops::cross_entropy(reference(), {expected.matrix(), labels.vector<int32_t>(), 0.25, 0.5f,
                                       want_grad, &expected_loss});
      EXPECT_NEAR(loss, expected_loss, 2e-6 * std::abs(expected_loss));
      if (want_grad) {
        expect_close(actual, expected, "gradient");
      } else {
        EXPECT_TRUE(actual.bits_equal(before));
      }
    }
  }
}

TEST_P(CrossEntropyTest, SmallProbabilitiesKeepTheirRelativePrecision) {
  Tensor labels(DType::kI32, 1, 1), actual(act(), 1, 64), expected(act(), 1, 64);
  for (int64_t v = 0; v < 64; ++v) actual.set(0, v, -1.0 * v), expected.set(0, v, -1.0 * v);
  double loss = 0.0;
  ops::cross_entropy(cpu(), {actual.matrix(), labels.vector<int32_t>(), 1.0, 1.0f, true, &loss});
  ops::cross_entropy(reference(),
                     {expected.matrix(), labels.vector<int32_t>(), 1.0, 1.0f, true, &loss});
  const double relative = act() == DType::kF32 ? 2e-6 : 4e-3;
  for (int64_t v = 0; v < 64; ++v)
    EXPECT_NEAR(actual.at(0, v), expected.at(0, v), relative * std::abs(expected.at(0, v)));
}

TEST_P(CrossEntropyTest, HugeLogitsDoNotOverflow) {
  Tensor labels(DType::kI32, 1, 2), logits = Tensor::filled(act(), 2, 3, -1e30);
  logits.set(0, 0, 1e30);
  logits.set(1, 0, 1e4), logits.set(1, 1, 1e4), logits.set(1, 2, 1e4);
  double loss = 0.0;
  ops::cross_entropy(cpu(), {logits.matrix(), labels.vector<int32_t>(), 1.0, 1.0f, true, &loss});
  EXPECT_NEAR(loss, std::log(3.0), 1e-5);
  EXPECT_EQ(logits.at(0, 0), 0.0);
  EXPECT_EQ(logits.at(0, 1), 0.0);
  EXPECT_NEAR(logits.at(1, 0), -2.0 / 3.0, 4e-3);
}

TEST_P(CrossEntropyTest, ANotANumberReachesTheLoss) {
  Tensor labels(DType::kI32, 1, 1), logits = Tensor::filled(act(), 1, 9, 1.0);
  logits.set(0, 5, std::nan(""));
  double loss = 0.0;
  ops::cross_entropy(cpu(), {logits.matrix(), labels.vector<int32_t>(), 1.0, 1.0f, false, &loss});
  EXPECT_TRUE(std::isnan(loss));
}

TEST_P(CrossEntropyTest, GradientIsTheGradientOfTheLoss) {
  Tensor labels = random_labels(6, 9), logits = Tensor::random(DType::kF64, 6, 9, 3),
         gradient = logits;
  double ignored = 0.0;
  reference_backend().cross_entropy(
      reference(), {gradient.matrix(), labels.vector<int32_t>(), 0.3, 0.3f, true, &ignored});
  const auto loss = [&] {
    double sum = 0.0;
    reference_backend().cross_entropy(
        reference(), {logits.matrix(), labels.vector<int32_t>(), 0.3, 0.3f, false, &sum});
    return sum;
  };
  expect_gradient(gradient, logits, loss, "logits");
}

// A vocabulary in parts, each with its statistics, gives the loss and the gradient of the whole.
void expect_parts_are_the_whole(const ops::Context& ctx, int64_t rows, int64_t vocabulary,
                                int64_t ranks) {
  Tensor labels = random_labels(rows, vocabulary);
  Tensor logits = Tensor::random(DType::kF32, rows, vocabulary, 8, 3.0, vocabulary + 3);
  const int64_t columns = vocabulary / ranks;
  Tensor statistics(DType::kF32, ranks, rows * 3);
  const auto all = statistics.vector<float>();
  std::vector<Tensor> parts;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    Tensor& part = parts.emplace_back(DType::kF32, rows, columns, columns + 2);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t v = 0; v < columns; ++v) part.set(r, v, logits.at(r, rank * columns + v));
    ops::cross_entropy_statistics(ctx, {part.matrix(),
                                        labels.vector<int32_t>(),
                                        rank * columns,
                                        true,
                                        {all.data + rank * rows * 3, rows * 3}});
  }
  auto plain = make_reference_backend();
  double expected_loss = 1.0;
  plain->cross_entropy(
      ctx, {logits.matrix(), labels.vector<int32_t>(), 0.25, 0.5f, true, &expected_loss});
  for (int64_t rank = 0; rank < ranks; ++rank) {
    double loss = 1.0;
    ops::cross_entropy_finish(ctx, {.terms = parts[static_cast<size_t>(rank)].matrix(),
                                    .labels = labels.vector<int32_t>(),
                                    .first = rank * columns,
                                    .ranks = ranks,
                                    .rank = rank,
                                    .statistics = all,
                                    .loss_scale = 0.25,
                                    .grad_scale = 0.5f,
                                    .want_grad = true,
                                    .loss = rank == 0 ? &loss : nullptr});
    if (rank == 0) {
      EXPECT_NEAR(loss, expected_loss, 2e-6 * std::abs(expected_loss));
    }
    Tensor expected(DType::kF32, rows, columns);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t v = 0; v < columns; ++v) expected.set(r, v, logits.at(r, rank * columns + v));
    dsv3::test::expect_close(parts[static_cast<size_t>(rank)], expected,
                             tolerance(DType::kF32, DType::kF32), "gradient");
    EXPECT_TRUE(parts[static_cast<size_t>(rank)].guards_hold());
  }
}

TEST_P(CrossEntropyTest, PartsOfTheVocabularyAreTheWhole) {
  if (act() != DType::kF32) return;  // logits of a cut vocabulary are f32
  for (const ops::Context* ctx : {&cpu(), &reference()}) {
    expect_parts_are_the_whole(*ctx, 0, 6, 2);
    expect_parts_are_the_whole(*ctx, 3, 2, 2);
    expect_parts_are_the_whole(*ctx, 13, 128, 4);
    expect_parts_are_the_whole(*ctx, 40, 2049, 3);
  }
}

TEST_P(CrossEntropyTest, LossHasTheSameBitsForAnyNumberOfThreads) {
  Tensor labels = random_labels(150, 4099), one = Tensor::random(act(), 150, 4099, 3), many = one;
  double loss_one = 0.0, loss_many = 0.0;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  ops::cross_entropy(cpu(), {one.matrix(), labels.vector<int32_t>(), 1.0, 1.0f, true, &loss_one});
  omp_set_num_threads(3);
  ops::cross_entropy(cpu(), {many.matrix(), labels.vector<int32_t>(), 1.0, 1.0f, true, &loss_many});
  omp_set_num_threads(threads);
  EXPECT_EQ(loss_one, loss_many);
  EXPECT_TRUE(one.bits_equal(many));
}

}  // namespace
}  // namespace dsv3::test
