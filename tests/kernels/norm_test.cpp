// RMSNorm: CPU against the reference, optional gradients apart and together, the reference against
// finite differences.
#include <string>

#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class RmsNormTest : public OpTest {};
DSV3_OP_TEST_DTYPES(RmsNormTest);

struct Case {
  Case(DType act, int64_t rows, int64_t width, int64_t pad)
      : x(Tensor::random(act, rows, width, 1, 2.0, width + pad)),
        gain(Tensor::random(DType::kF32, 1, width, 2)),
        y(act, rows, width, width + pad),
        rstd(DType::kF32, 1, rows),
        dy(Tensor::random(act, rows, width, 3, 1.0, width + pad)),
        dx(Tensor::random(act, rows, width, 4, 1.0, width + pad)),
        dgain(Tensor::random(DType::kF32, 1, width, 5)) {}

  ops::RmsNormForward forward() {
    return {x.matrix(), gain.vector<float>(), y.matrix(), rstd.vector<float>(), 1e-6f};
  }
  ops::RmsNormBackward backward(bool accumulate) {
    return {
        dy.matrix(),           x.matrix(), gain.vector<float>(), rstd.vector<float>(), dx.matrix(),
        dgain.vector<float>(), accumulate};
  }

  Tensor x, gain, y, rstd, dy, dx, dgain;
};

// No width 1: its input gradient is zero but for eps, and only rounding is left to compare.
const int64_t kSizes[][2] = {{0, 8}, {1, 2}, {1, 17}, {5, 64}, {37, 129}, {200, 96}, {2500, 31}};

TEST_P(RmsNormTest, ForwardMatchesReference) {
  for (const auto& [rows, width] : kSizes)
    for (int64_t pad : {0, 7}) {
      Case actual(act(), rows, width, pad), expected(act(), rows, width, pad);
      ops::rms_norm_forward(cpu(), actual.forward());
      ops::rms_norm_forward(reference(), expected.forward());
      expect_close(actual.y, expected.y, "y " + std::to_string(rows));
      expect_close(actual.rstd, expected.rstd, "rstd " + std::to_string(rows));
    }
}

TEST_P(RmsNormTest, BackwardMatchesReference) {
  for (const auto& [rows, width] : kSizes)
    for (bool accumulate : {false, true}) {
      Case actual(act(), rows, width, 3), expected(act(), rows, width, 3);
      ops::rms_norm_forward(reference(), expected.forward());
      actual.rstd = expected.rstd;
      ops::rms_norm_backward(cpu(), actual.backward(accumulate));
      ops::rms_norm_backward(reference(), expected.backward(accumulate));
      expect_close(actual.dx, expected.dx, "dx " + std::to_string(rows));
      expect_close(actual.dgain, expected.dgain, "dgain " + std::to_string(rows));
    }
}

TEST_P(RmsNormTest, InPlaceOverTheIncomingGradient) {
  Case apart(act(), 40, 33, 0), in_place(act(), 40, 33, 0);
  for (Case* c : {&apart, &in_place}) ops::rms_norm_forward(cpu(), c->forward());
  ops::rms_norm_backward(cpu(), apart.backward(false));
  auto args = in_place.backward(false);
  args.dx = in_place.dy.matrix();
  ops::rms_norm_backward(cpu(), args);
  EXPECT_TRUE(in_place.dy.bits_equal(apart.dx));
  EXPECT_TRUE(in_place.dgain.bits_equal(apart.dgain));
}

// Input and gain gradients may run apart (zero-bubble schedules): the same bits as together, and on
// every run.
TEST_P(RmsNormTest, GradientsApartEqualTogetherBitwise) {
  Case joint(act(), 300, 65, 0), apart(act(), 300, 65, 0);
  for (Case* c : {&joint, &apart}) ops::rms_norm_forward(cpu(), c->forward());
  EXPECT_TRUE(joint.y.bits_equal(apart.y));
  ops::rms_norm_backward(cpu(), joint.backward(true));
  auto input_only = apart.backward(true), gain_only = apart.backward(true);
  input_only.dgain = {};
  gain_only.dx = {};
  ops::rms_norm_backward(cpu(), input_only);
  ops::rms_norm_backward(cpu(), gain_only);
  EXPECT_TRUE(joint.dx.bits_equal(apart.dx));
  EXPECT_TRUE(joint.dgain.bits_equal(apart.dgain));
}

TEST(RmsNormReference, BackwardMatchesFiniteDifferences) {
  Case c(DType::kF64, 4, 5, 1);
  auto backend = make_reference_backend();
  const ops::Context ctx{backend.get(), nullptr, nullptr};
  const auto loss = [&] {
    backend->rms_norm_forward(ctx, c.forward());
    return weighted_sum(c.y, c.dy);
  };
  loss();
  c.dgain = Tensor::filled(DType::kF32, 1, 5, 0.0);
  backend->rms_norm_backward(ctx, c.backward(false));
  expect_gradient(c.dx, c.x, loss, "dx");
  expect_gradient(c.dgain, c.gain, loss, "dgain");
}

}  // namespace
}  // namespace dsv3::test
