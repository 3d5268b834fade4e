// SwiGLU against the reference, its backward against finite differences; rows past *num_rows stay
// untouched.
#include <cmath>
#include <limits>

#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class SwigluTest : public OpTest {};
DSV3_OP_TEST_DTYPES(SwigluTest);

struct Shape {
  int64_t rows, width;
};
constexpr Shape kShapes[] = {{0, 8}, {1, 1}, {3, 7}, {17, 64}, {61, 193}};

// Inputs and outputs of one call; strides leave gaps on purpose.
struct Swiglu {
  Tensor gate_up, row_scale, y, dy, dgate_up, drow_scale;
  bool scaled;

  Swiglu(DType act, Shape s, bool with_scale, uint64_t seed)
      : gate_up(Tensor::random(act, s.rows, 2 * s.width, seed, 2.0, 2 * s.width + 3)),
        row_scale(Tensor::random(DType::kF32, 1, s.rows, seed + 1)),
        y(act, s.rows, s.width, s.width + 1),
        dy(Tensor::random(act, s.rows, s.width, seed + 2, 1.0, s.width + 5)),
        dgate_up(act, s.rows, 2 * s.width, 2 * s.width + 2),
        drow_scale(DType::kF32, 1, s.rows),
        scaled(with_scale) {}
  ops::SwigluForward forward() {
    return {gate_up.matrix(), scaled ? row_scale.vector<float>() : ops::Vector<float>(),
            y.matrix()};
  }
  ops::SwigluBackward backward() {
    return {dy.matrix(), gate_up.matrix(),
            scaled ? row_scale.vector<float>() : ops::Vector<float>(), dgate_up.matrix(),
            scaled ? drow_scale.vector<float>() : ops::Vector<float>()};
  }
};

TEST_P(SwigluTest, MatchesReference) {
  for (const Shape shape : kShapes) {
    for (const bool scaled : {false, true}) {
      Swiglu actual(act(), shape, scaled, 7), expected(act(), shape, scaled, 7);
      ops::swiglu_forward(cpu(), actual.forward());
      ops::swiglu_forward(reference(), expected.forward());
      expect_close(actual.y, expected.y, "y");
      ops::swiglu_backward(cpu(), actual.backward());
      ops::swiglu_backward(reference(), expected.backward());
      expect_close(actual.dgate_up, expected.dgate_up, "dgate_up");
      expect_close(actual.drow_scale, expected.drow_scale, "drow_scale");
    }
  }
}

TEST_P(SwigluTest, LeavesRowsPastNumRowsAlone) {
  const int32_t num_rows = 5;
  Swiglu s(act(), {9, 16}, true, 3), expected(act(), {9, 16}, true, 3);
  for (Swiglu* one : {&s, &expected}) {
    one->y = Tensor::filled(act(), 9, 16, 42.0);
    one->dgate_up = Tensor::filled(act(), 9, 32, 42.0);
    one->drow_scale = Tensor::filled(DType::kF32, 1, 9, 42.0);
    ops::SwigluForward forward = one->forward();
    ops::SwigluBackward backward = one->backward();
    forward.num_rows = backward.num_rows = &num_rows;
    const ops::Context& context = one == &s ? cpu() : reference();
    ops::swiglu_forward(context, forward);
    ops::swiglu_backward(context, backward);
  }
  expect_close(s.y, expected.y, "y");
  expect_close(s.dgate_up, expected.dgate_up, "dgate_up");
  for (int64_t r = num_rows; r < 9; ++r) {
    EXPECT_EQ(s.y.at(r, 3), 42.0);
    EXPECT_EQ(s.dgate_up.at(r, 31), 42.0);
    EXPECT_EQ(s.drow_scale.at(0, r), 42.0);
  }
}

// silu(g) / g is the sigmoid: the whole range of the vector exponential, one row per value.
TEST_P(SwigluTest, IsAccurateFromVeryNegativeToVeryPositiveGates) {
  constexpr int64_t kCount = 4001;
  Tensor gate_up = Tensor::filled(act(), kCount, 2, 1.0), y(act(), kCount, 1),
         expected(act(), kCount, 1);
  for (int64_t i = 0; i < kCount; ++i) gate_up.set(i, 0, (i - 2000) * 0.1);
  ops::swiglu_forward(cpu(), {gate_up.matrix(), {}, y.matrix()});
  ops::swiglu_forward(reference(), {gate_up.matrix(), {}, expected.matrix()});
  const double relative = act() == DType::kF32 ? 1e-6 : 4e-3;
  for (int64_t i = 0; i < kCount; ++i) {
    EXPECT_NEAR(y.at(i, 0), expected.at(i, 0), relative * std::abs(expected.at(i, 0)) + 1e-35)
        << gate_up.at(i, 0);
  }
}

TEST_P(SwigluTest, KeepsNotANumber) {
  Tensor gate_up = Tensor::filled(act(), 1, 22, 1.0), y(act(), 1, 11);
  gate_up.set(0, 4, std::numeric_limits<double>::quiet_NaN());
  ops::swiglu_forward(cpu(), {gate_up.matrix(), {}, y.matrix()});
  for (int64_t i = 0; i < 11; ++i) EXPECT_EQ(std::isnan(y.at(0, i)), i == 4);
}

TEST_P(SwigluTest, BackwardIsTheGradientOfTheForward) {
  Swiglu s(DType::kF64, {3, 5}, true, 11);
  s.dgate_up = Tensor(DType::kF64, 3, 10);
  reference_backend().swiglu_backward(reference(), s.backward());
  const auto loss = [&] {
    reference_backend().swiglu_forward(reference(), s.forward());
    return weighted_sum(s.y, s.dy);
  };
  expect_gradient(s.dgate_up, s.gate_up, loss, "dgate_up");
  expect_gradient(s.drow_scale, s.row_scale, loss, "drow_scale");
}

TEST_P(SwigluTest, TwoRunsGiveTheSameBits) {
  Swiglu a(act(), {333, 129}, true, 5), b(act(), {333, 129}, true, 5);
  for (Swiglu* one : {&a, &b}) {
    ops::swiglu_forward(cpu(), one->forward());
    ops::swiglu_backward(cpu(), one->backward());
  }
  EXPECT_TRUE(a.y.bits_equal(b.y));
  EXPECT_TRUE(a.dgate_up.bits_equal(b.dgate_up));
  EXPECT_TRUE(a.drow_scale.bits_equal(b.drow_scale));
}

}  // namespace
}  // namespace dsv3::test
