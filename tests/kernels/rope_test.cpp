// RoPE: CPU against the reference in place and strided, the backward as the transposed rotation,
// known angles.
#include <cmath>
#include <string>

#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class RopeTest : public OpTest {};
DSV3_OP_TEST_DTYPES(RopeTest);

// cos and sin of position · 10000^(−2i / rope_dim), times YaRN's `scale`.
struct Angles {
  Angles(int64_t sequence, int64_t rope_dim, double scale)
      : cos(DType::kF32, sequence, rope_dim / 2), sin(DType::kF32, sequence, rope_dim / 2) {
    for (int64_t t = 0; t < sequence; ++t)
      for (int64_t i = 0; i < rope_dim / 2; ++i) {
        const double angle = t * std::pow(10000.0, -2.0 * i / rope_dim);
        cos.set(t, i, scale * std::cos(angle));
        sin.set(t, i, scale * std::sin(angle));
      }
  }
  Tensor cos, sin;
};

// x [tokens, heads · (skip + rope_dim)]: each head's last rope_dim columns are rotated.
ops::Rope rope_args(Tensor& x, Angles& angles, int64_t heads, int64_t rope_dim, bool transpose) {
  const int64_t head_dim = x.cols() / heads;
  char* first = static_cast<char*>(x.raw()) + (head_dim - rope_dim) * dtype_bytes(x.dtype());
  return {first,
          x.dtype(),
          x.rows(),
          heads,
          x.matrix().stride,
          head_dim,
          rope_dim,
          angles.cos.rows(),
          angles.cos.vector<float>(),
          angles.sin.vector<float>(),
          transpose};
}

TEST_P(RopeTest, MatchesReference) {
  struct Size {
    int64_t batch, sequence, heads, skip, rope_dim;
  };
  for (const Size& s : {Size{1, 1, 1, 0, 2},
                        {2, 7, 3, 5, 8},
                        {1, 33, 1, 0, 64},
                        {3, 40, 4, 16, 24},
                        {0, 4, 2, 1, 4}})
    for (bool transpose : {false, true}) {
      Angles angles(s.sequence, s.rope_dim, 1.2);
      const int64_t width = s.heads * (s.skip + s.rope_dim);
      Tensor actual = Tensor::random(act(), s.batch * s.sequence, width, 1, 1.0, width + 3),
             expected = actual;
      ops::rope(cpu(), rope_args(actual, angles, s.heads, s.rope_dim, transpose));
      ops::rope(reference(), rope_args(expected, angles, s.heads, s.rope_dim, transpose));
      expect_close(actual, expected,
                   "heads " + std::to_string(s.heads) + " rope " + std::to_string(s.rope_dim));
    }
}

TEST_P(RopeTest, NoRotatedColumnsIsNothingToDo) {
  Tensor x = Tensor::random(act(), 4, 6, 1), before = x;
  ops::Rope args;
  args.x = x.raw();
  args.dtype = act();
  args.tokens = 4;
  ops::rope(cpu(), args);
  EXPECT_TRUE(x.bits_equal(before));
}

TEST_P(RopeTest, TransposeUndoesTheRotation) {
  Angles angles(32, 16, 1.0);
  Tensor x = Tensor::random(act(), 64, 48, 1), before = x;
  ops::rope(cpu(), rope_args(x, angles, 3, 16, false));
  EXPECT_FALSE(x.bits_equal(before));
  ops::rope(cpu(), rope_args(x, angles, 3, 16, true));
  expect_close(x, before, "x");
}

// The pair (1, 0) at position 1 of the fastest frequency turns to (cos 1, sin 1): pairs are
// interleaved, not halves.
TEST_P(RopeTest, RotatesNeighbouringPairs) {
  Angles angles(2, 4, 1.0);
  Tensor x(act(), 2, 4);
  x.set(1, 0, 1.0);
  ops::rope(cpu(), rope_args(x, angles, 1, 4, false));
  EXPECT_NEAR(x.at(1, 0), 0.5403023, 2e-3);
  EXPECT_NEAR(x.at(1, 1), 0.8414710, 2e-3);
  EXPECT_EQ(x.at(1, 2), 0.0);
  EXPECT_EQ(x.at(1, 3), 0.0);
}

TEST(RopeReference, TransposeIsTheGradient) {
  auto backend = make_reference_backend();
  const ops::Context ctx{backend.get(), nullptr, nullptr};
  Angles angles(3, 4, 1.3);
  Tensor x = Tensor::random(DType::kF64, 3, 6, 1), dy = Tensor::random(DType::kF64, 3, 6, 2);
  const auto loss = [&] {
    Tensor y = x;
    backend->rope(ctx, rope_args(y, angles, 1, 4, false));
    return weighted_sum(y, dy);
  };
  Tensor dx = dy;
  backend->rope(ctx, rope_args(dx, angles, 1, 4, true));
  expect_gradient(dx, x, loss, "dx");
}

}  // namespace
}  // namespace dsv3::test
