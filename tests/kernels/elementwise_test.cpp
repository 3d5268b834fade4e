// Add and cast: shapes, strides, and bf16 rounding of every kind of number.
#include <bit>
#include <cmath>
#include <cstring>

#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class ElementwiseTest : public OpTest {};
DSV3_OP_TEST_DTYPES(ElementwiseTest);

struct Shape {
  int64_t rows, cols, gap;
};
// The last one is larger than a block, contiguous and not.
constexpr Shape kShapes[] = {{0, 4, 0},  {4, 0, 0},     {1, 1, 0},
                             {7, 13, 5}, {3, 20011, 0}, {3, 20011, 1}};

TEST_P(ElementwiseTest, AddMatchesReference) {
  for (const Shape s : kShapes) {
    const Tensor x = Tensor::random(act(), s.rows, s.cols, 1, 1.0, s.cols + s.gap);
    Tensor actual = Tensor::random(act(), s.rows, s.cols, 2, 1.0, s.cols + 2 * s.gap),
           expected = actual;
    ops::add(cpu(), {x.matrix(), actual.matrix()});
    ops::add(reference(), {x.matrix(), expected.matrix()});
    EXPECT_TRUE(actual.bits_equal(expected))
        << s.rows << " x " << s.cols;  // one rounding: no tolerance
  }
}

TEST_P(ElementwiseTest, CastRoundsLikeTheReference) {
  for (const Shape s : kShapes) {
    const Tensor x = Tensor::random(act(), s.rows, s.cols, 1, 1.0, s.cols + s.gap);
    for (const DType to : {DType::kF32, DType::kBf16}) {
      Tensor actual(to, s.rows, s.cols, s.cols + s.gap), expected = actual;
      ops::cast(cpu(), {x.matrix(), actual.matrix()});
      ops::cast(reference(), {x.matrix(), expected.matrix()});
      EXPECT_TRUE(actual.bits_equal(expected))
          << s.rows << " x " << s.cols << " to " << dtype_name(to);
    }
  }
}

TEST_P(ElementwiseTest, EveryBf16SurvivesTheWayThroughF32) {
  constexpr int64_t kAll = 1 << 16;
  Tensor x(DType::kBf16, 1, kAll), wide(DType::kF32, 1, kAll), back(DType::kBf16, 1, kAll);
  for (int64_t i = 0; i < kAll; ++i) x.data<Bf16>()[i].bits = static_cast<uint16_t>(i);
  ops::cast(cpu(), {x.matrix(), wide.matrix()});
  ops::cast(cpu(), {wide.matrix(), back.matrix()});
  for (int64_t i = 0; i < kAll; ++i) {
    const bool is_nan = (i & 0x7FFF) > 0x7F80;
    ASSERT_EQ(back.data<Bf16>()[i].bits,
              is_nan ? i | 0x40 : i);  // a NaN stays one, and becomes quiet
  }
}

TEST_P(ElementwiseTest, CastRoundsTiesToEven) {
  const uint32_t bits[] = {0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF,
                           0x7F7FFFFF, 0x80000001, 0x7F800001, 0xFF800000};
  const uint16_t rounded[] = {0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x7F80, 0x8000, 0x7FC0, 0xFF80};
  Tensor x(DType::kF32, 1, 8), y(DType::kBf16, 1, 8);
  std::memcpy(x.raw(), bits, sizeof(bits));
  ops::cast(cpu(), {x.matrix(), y.matrix()});
  for (int i = 0; i < 8; ++i) EXPECT_EQ(y.data<Bf16>()[i].bits, rounded[i]) << std::hex << bits[i];
}

}  // namespace
}  // namespace dsv3::test
