// Matrix products: every transposition, accumulation, output dtype and odd size against the
// reference; grouped ones with empty groups and one group that holds everything.
#include <string>
#include <vector>

#include "kernels/cpu/matmul.h"
#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class GemmTest : public OpTest {
 protected:
  // f32 outputs, and the activation dtype's where it differs.
  std::vector<DType> outputs() const {
    if (act() == DType::kF32) return {DType::kF32};
    return {DType::kF32, DType::kBf16};
  }
};
DSV3_OP_TEST_DTYPES(GemmTest);

struct Size {
  int64_t m, n, k;
};
const Size kSizes[] = {{1, 1, 1},   {1, 17, 5},   {3, 1, 7},     {16, 16, 16}, {13, 31, 29},
                       {64, 48, 1}, {67, 96, 53}, {128, 33, 96}, {1, 64, 127}, {130, 70, 257}};

std::string name_of(const Size& s, bool ta, bool tb, bool accumulate) {
  return "[" + std::to_string(s.m) + ", " + std::to_string(s.n) + ", " + std::to_string(s.k) + "]" +
         (ta ? " aT" : "") + (tb ? " bT" : "") + (accumulate ? " +=" : "");
}

TEST_P(GemmTest, MatchesReference) {
  for (const Size& s : kSizes)
    for (int flags = 0; flags < 8; ++flags)
      for (DType out : outputs())
        for (int64_t pad : {0, 5}) {
          const bool ta = flags & 1, tb = flags & 2, accumulate = flags & 4;
          const Tensor a =
              Tensor::random(act(), ta ? s.k : s.m, ta ? s.m : s.k, 1, 1.0, (ta ? s.m : s.k) + pad);
          const Tensor b =
              Tensor::random(act(), tb ? s.n : s.k, tb ? s.k : s.n, 2, 1.0, (tb ? s.k : s.n) + pad);
          Tensor actual = Tensor::random(out, s.m, s.n, 3, 1.0, s.n + pad), expected = actual;
          ops::gemm(cpu(), {a.matrix(), b.matrix(), actual.matrix(), ta, tb, accumulate});
          ops::gemm(reference(), {a.matrix(), b.matrix(), expected.matrix(), ta, tb, accumulate});
          expect_close(actual, expected,
                       name_of(s, ta, tb, accumulate) + " pad " + std::to_string(pad));
        }
}

// Sums over nothing: zero, or what was there.
TEST_P(GemmTest, EmptyDimensions) {
  for (DType out : outputs())
    for (bool accumulate : {false, true}) {
      const Tensor a(act(), 4, 0), b(act(), 0, 6);
      Tensor c = Tensor::filled(out, 4, 6, 2.0);
      ops::gemm(cpu(), {a.matrix(), b.matrix(), c.matrix(), false, false, accumulate});
      expect_close(c, Tensor::filled(out, 4, 6, accumulate ? 2.0 : 0.0), "k = 0");
      const Tensor no_rows(act(), 0, 3), full(act(), 3, 6);
      Tensor none(out, 0, 6);
      ops::gemm(cpu(), {no_rows.matrix(), full.matrix(), none.matrix(), false, false, accumulate});
      EXPECT_TRUE(none.guards_hold());
    }
}

TEST_P(GemmTest, RunsAreBitwiseEqual) {
  const Tensor a = Tensor::random(act(), 301, 517, 1), b = Tensor::random(act(), 517, 203, 2);
  Tensor first(DType::kF32, 301, 203), second = first;
  ops::gemm(cpu(), {a.matrix(), b.matrix(), first.matrix()});
  ops::gemm(cpu(), {a.matrix(), b.matrix(), second.matrix()});
  EXPECT_TRUE(first.bits_equal(second));
}

// Groups of rows: several small, some empty, one with everything, more than a piece, none at all.
const std::vector<std::vector<int64_t>> kGroups = {{3, 0, 5, 1},  {0, 37, 0}, {0, 0, 0}, {1},
                                                   {300, 2, 513}, {0},        {64, 64}};

Tensor offsets_of(const std::vector<int64_t>& groups) {
  Tensor offsets(DType::kI32, 1, static_cast<int64_t>(groups.size()) + 1);
  int64_t sum = 0;
  for (size_t g = 0; g < groups.size(); ++g)
    offsets.set(0, static_cast<int64_t>(g) + 1, sum += groups[g]);
  return offsets;
}

std::string name_of(const std::vector<int64_t>& groups, bool transpose, bool accumulate) {
  std::string name = "groups";
  for (int64_t g : groups) name += " " + std::to_string(g);
  return name + (transpose ? " bT" : "") + (accumulate ? " +=" : "");
}

TEST_P(GemmTest, GroupedMatchesReference) {
  for (const auto& groups : kGroups)
    for (int flags = 0; flags < 4; ++flags)
      for (DType out : outputs()) {
        const bool tb = flags & 1, accumulate = flags & 2;
        Tensor offsets = offsets_of(groups);
        const int64_t count = static_cast<int64_t>(groups.size());
        const int64_t rows = static_cast<int64_t>(offsets.at(0, count)) + 2, n = 37,
                      k = 19;  // two rows behind the last group
        const Tensor a = Tensor::random(act(), rows, k, 1, 1.0, k + 4);
        Tensor b = Tensor::random(act(), count * (tb ? n : k), tb ? k : n, 2);
        Tensor actual = Tensor::random(out, rows, n, 3, 1.0, n + 1), expected = actual;
        ops::grouped_gemm(cpu(), {a.matrix(), b.stack(count), actual.matrix(),
                                  offsets.vector<int32_t>(), tb, accumulate});
        ops::grouped_gemm(reference(), {a.matrix(), b.stack(count), expected.matrix(),
                                        offsets.vector<int32_t>(), tb, accumulate});
        expect_close(actual, expected, name_of(groups, tb, accumulate));
      }
}

TEST_P(GemmTest, GroupedWeightGradMatchesReference) {
  for (const auto& groups : kGroups)
    for (int64_t m : {5, 300})
      for (bool accumulate : {false, true}) {
        Tensor offsets = offsets_of(groups);
        const int64_t count = static_cast<int64_t>(groups.size()), n = 23;
        const int64_t rows = static_cast<int64_t>(offsets.at(0, count)) + 2;
        const Tensor a = Tensor::random(act(), rows, m, 1, 1.0, m + 4),
                     b = Tensor::random(act(), rows, n, 2, 1.0, n + 2);
        Tensor actual = Tensor::random(DType::kF32, count * m, n, 3), expected = actual;
        ops::grouped_gemm_weight_grad(cpu(), {a.matrix(), b.matrix(), actual.stack(count),
                                              offsets.vector<int32_t>(), accumulate});
        ops::grouped_gemm_weight_grad(reference(), {a.matrix(), b.matrix(), expected.stack(count),
                                                    offsets.vector<int32_t>(), accumulate});
        expect_close(actual, expected,
                     name_of(groups, false, accumulate) + " m " + std::to_string(m));
      }
}

TEST_P(GemmTest, GroupedRunsAreBitwiseEqual) {
  Tensor offsets = offsets_of({90, 460});
  const int64_t rows = 550, n = 64, k = 48;
  const Tensor a = Tensor::random(act(), rows, k, 1), dy = Tensor::random(act(), rows, n, 4);
  Tensor b = Tensor::random(act(), 2 * n, k, 2);
  Tensor first(act(), rows, n), second = first, first_grad(DType::kF32, 2 * n, k),
                                second_grad = first_grad;
  for (auto [y, dw] : {std::pair{&first, &first_grad}, std::pair{&second, &second_grad}}) {
    ops::grouped_gemm(cpu(),
                      {a.matrix(), b.stack(2), y->matrix(), offsets.vector<int32_t>(), true});
    ops::grouped_gemm_weight_grad(
        cpu(), {dy.matrix(), a.matrix(), dw->stack(2), offsets.vector<int32_t>()});
  }
  EXPECT_TRUE(first.bits_equal(second));
  EXPECT_TRUE(first_grad.bits_equal(second_grad));
}

// Row counts per expert change every step; a primitive for each would cost up to 10 ms apiece.
TEST_P(GemmTest, NewRowCountsMakeNoPrimitives) {
  const int64_t rows = 700, n = 32, k = 24;
  const Tensor a = Tensor::random(act(), rows, k, 1), dy = Tensor::random(act(), rows, n, 2);
  Tensor b = Tensor::random(act(), 2 * n, k, 3), y(act(), rows, n), dw(DType::kF32, 2 * n, k);
  int64_t made = 0;
  for (int64_t first : {350, 349, 300, 511, 650}) {
    Tensor offsets = offsets_of({first, rows - first});
    ops::grouped_gemm(cpu(), {a.matrix(), b.stack(2), y.matrix(), offsets.vector<int32_t>(), true});
    ops::grouped_gemm_weight_grad(
        cpu(), {dy.matrix(), a.matrix(), dw.stack(2), offsets.vector<int32_t>()});
    if (made == 0) made = cpu::matmuls_made();
    EXPECT_EQ(cpu::matmuls_made(), made) << first;
  }
}

// The gradients of a linear layer, y = x Wᵀ: dx = dy W, dW = dyᵀ x, by finite differences of the
// reference.
TEST(GemmReference, LinearLayerGradientsMatchFiniteDifferences) {
  auto backend = make_reference_backend();
  const ops::Context ctx{backend.get(), nullptr, nullptr};
  const DType f64 = DType::kF64;
  Tensor x = Tensor::random(f64, 4, 3, 1), w = Tensor::random(f64, 5, 3, 2), y(f64, 4, 5);
  Tensor dy = Tensor::random(f64, 4, 5, 3), dx(f64, 4, 3), dw(f64, 5, 3);
  const auto loss = [&] {
    backend->gemm(ctx, {x.matrix(), w.matrix(), y.matrix(), false, true, false});
    return weighted_sum(y, dy);
  };
  backend->gemm(ctx, {dy.matrix(), w.matrix(), dx.matrix(), false, false, false});
  backend->gemm(ctx, {dy.matrix(), x.matrix(), dw.matrix(), true, false, false});
  expect_gradient(dx, x, loss, "dx");
  expect_gradient(dw, w, loss, "dW");
}

TEST(GemmReference, GroupedGradientsMatchFiniteDifferences) {
  auto backend = make_reference_backend();
  const ops::Context ctx{backend.get(), nullptr, nullptr};
  const DType f64 = DType::kF64;
  Tensor offsets = offsets_of({2, 0, 3});
  Tensor x = Tensor::random(f64, 5, 3, 1), w = Tensor::random(f64, 3 * 4, 3, 2), y(f64, 5, 4);
  Tensor dy = Tensor::random(f64, 5, 4, 3), dx(f64, 5, 3), dw(f64, 3 * 4, 3);
  const auto loss = [&] {
    backend->grouped_gemm(
        ctx, {x.matrix(), w.stack(3), y.matrix(), offsets.vector<int32_t>(), true, false});
    return weighted_sum(y, dy);
  };
  backend->grouped_gemm(
      ctx, {dy.matrix(), w.stack(3), dx.matrix(), offsets.vector<int32_t>(), false, false});
  backend->grouped_gemm_weight_grad(
      ctx, {dy.matrix(), x.matrix(), dw.stack(3), offsets.vector<int32_t>(), true});
  expect_gradient(dx, x, loss, "dx");
  expect_gradient(dw, w, loss, "dW");
}

}  // namespace
}  // namespace dsv3::test
