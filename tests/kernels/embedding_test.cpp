// The embedding: rows by token id, gradients added per row in token order.
#include <omp.h>

#include "base/rng.h"
#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class EmbeddingTest : public OpTest {};
DSV3_OP_TEST_DTYPES(EmbeddingTest);

struct Shape {
  int64_t tokens, vocabulary, cols;
};
constexpr Shape kShapes[] = {{0, 3, 4}, {1, 1, 1}, {50, 7, 13}, {700, 129, 33}};

Tensor random_ids(int64_t tokens, int64_t vocabulary) {
  Tensor ids(DType::kI32, 1, tokens);
  const CounterRng rng(4, 4);
  for (int64_t t = 0; t < tokens; ++t) ids.set(0, t, static_cast<double>(rng.below(t, vocabulary)));
  return ids;
}

TEST_P(EmbeddingTest, ForwardCopiesRows) {
  for (const Shape s : kShapes) {
    const Tensor table = Tensor::random(act(), s.vocabulary, s.cols, 1, 1.0, s.cols + 2);
    Tensor ids = random_ids(s.tokens, s.vocabulary), y(act(), s.tokens, s.cols, s.cols + 1);
    ops::embedding_forward(cpu(), {table.matrix(), ids.vector<int32_t>(), y.matrix()});
    EXPECT_TRUE(y.guards_hold());
    for (int64_t t = 0; t < s.tokens; ++t) {
      for (int64_t c = 0; c < s.cols; ++c)
        ASSERT_EQ(y.at(t, c), table.at(static_cast<int64_t>(ids.at(0, t)), c));
    }
  }
}

TEST_P(EmbeddingTest, BackwardMatchesReference) {
  for (const Shape s : kShapes) {
    const Tensor dy = Tensor::random(act(), s.tokens, s.cols, 2, 1.0, s.cols + 3);
    Tensor ids = random_ids(s.tokens, s.vocabulary);
    Tensor actual = Tensor::random(DType::kF32, s.vocabulary, s.cols, 3, 1.0, s.cols + 1),
           expected = actual;
    ops::embedding_backward(cpu(), {dy.matrix(), ids.vector<int32_t>(), actual.matrix()});
    ops::embedding_backward(reference(), {dy.matrix(), ids.vector<int32_t>(), expected.matrix()});
    expect_close(actual, expected, "dtable");
  }
}

// Rows of a table in three parts: the parts' outputs add up to the whole's, their gradients are its
// rows.
TEST_P(EmbeddingTest, PartsOfATableAddUpToIt) {
  const int64_t vocabulary = 30, cols = 9, tokens = 70, rows = 10;
  Tensor table = Tensor::random(act(), vocabulary, cols, 1);
  const Tensor dy = Tensor::random(act(), tokens, cols, 2, 1.0, cols + 3);
  Tensor ids = random_ids(tokens, vocabulary), y(act(), tokens, cols), sum(act(), tokens, cols);
  Tensor whole(DType::kF32, vocabulary, cols);
  ops::embedding_backward(cpu(), {dy.matrix(), ids.vector<int32_t>(), whole.matrix()});
  for (int64_t first = 0; first < vocabulary; first += rows) {
    ops::embedding_forward(cpu(), {.table = table.matrix().row_range(first, rows),
                                   .ids = ids.vector<int32_t>(),
                                   .y = y.matrix(),
                                   .first = first,
                                   .vocabulary = vocabulary});
    Tensor dtable(DType::kF32, rows, cols);
    ops::embedding_backward(cpu(), {.dy = dy.matrix(),
                                    .ids = ids.vector<int32_t>(),
                                    .dtable = dtable.matrix(),
                                    .first = first,
                                    .vocabulary = vocabulary});
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(dtable.at(r, c), whole.at(first + r, c));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t c = 0; c < cols; ++c) sum.set(t, c, sum.at(t, c) + y.at(t, c));
  }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < cols; ++c)
      ASSERT_EQ(sum.at(t, c), table.at(static_cast<int64_t>(ids.at(0, t)), c));
}

// <embed(table), dy> is linear in the table, so its gradient is exact.
TEST_P(EmbeddingTest, BackwardIsTheTransposeOfForward) {
  const Tensor table = Tensor::random(DType::kF32, 17, 5, 1),
               dy = Tensor::random(DType::kF32, 40, 5, 2);
  Tensor ids = random_ids(40, 17), y(DType::kF32, 40, 5), dtable(DType::kF32, 17, 5);
  ops::embedding_forward(cpu(), {table.matrix(), ids.vector<int32_t>(), y.matrix()});
  ops::embedding_backward(cpu(), {dy.matrix(), ids.vector<int32_t>(), dtable.matrix()});
  EXPECT_NEAR(weighted_sum(y, dy), weighted_sum(table, dtable), 1e-4);
}

TEST_P(EmbeddingTest, BackwardGivesTheSameBitsForAnyNumberOfThreads) {
  const Tensor dy = Tensor::random(act(), 3001, 32, 2);
  Tensor ids = random_ids(3001, 11), one(DType::kF32, 11, 32), many(DType::kF32, 11, 32);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  ops::embedding_backward(cpu(), {dy.matrix(), ids.vector<int32_t>(), one.matrix()});
  omp_set_num_threads(3);
  ops::embedding_backward(cpu(), {dy.matrix(), ids.vector<int32_t>(), many.matrix()});
  omp_set_num_threads(threads);
  EXPECT_TRUE(one.bits_equal(many));
}

}  // namespace
}  // namespace dsv3::test
