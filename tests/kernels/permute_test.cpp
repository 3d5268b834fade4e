// The moves of tokens to their experts and back: plan, gather, gathered sum.
#include <omp.h>

#include "base/rng.h"
#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class PermuteTest : public OpTest {};
DSV3_OP_TEST_DTYPES(PermuteTest);

struct Plan {
  Tensor expert_idx, offsets, row_of_slot, slot_of_row;
  int64_t top_k, experts;

  Plan(int64_t tokens, int64_t k, int64_t e)
      : expert_idx(DType::kI32, tokens, k),
        offsets(DType::kI32, 1, e + 1),
        row_of_slot(DType::kI32, tokens, k),
        slot_of_row(DType::kI32, 1, tokens * k),
        top_k(k),
        experts(e) {
    // Skewed: low experts are chosen more often, some may get nothing.
    const CounterRng rng(9, 1);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < k; ++i) {
        const double u = rng.uniform(t * k + i);
        expert_idx.set(t, i, static_cast<int64_t>(u * u * static_cast<double>(e)));
      }
    }
  }
  ops::RoutePlan args() {
    return {expert_idx.vector<int32_t>(),
            top_k,
            experts,
            offsets.vector<int32_t>(),
            row_of_slot.vector<int32_t>(),
            slot_of_row.vector<int32_t>()};
  }
};

struct Case {
  int64_t tokens, top_k, experts, cols;
};
constexpr Case kCases[] = {{0, 2, 4, 8},   {1, 1, 1, 1},     {5, 3, 7, 13},
                           {64, 2, 8, 32}, {37, 8, 61, 517}, {9001, 3, 64, 3}};

TEST_P(PermuteTest, PlanSortsSlotsByExpertInTokenOrder) {
  for (const Case c : kCases) {
    Plan actual(c.tokens, c.top_k, c.experts), expected(c.tokens, c.top_k, c.experts);
    ops::route_plan(cpu(), actual.args());
    ops::route_plan(reference(), expected.args());
    EXPECT_TRUE(actual.offsets.bits_equal(expected.offsets)) << c.tokens;
    EXPECT_TRUE(actual.row_of_slot.bits_equal(expected.row_of_slot)) << c.tokens;
    EXPECT_TRUE(actual.slot_of_row.bits_equal(expected.slot_of_row)) << c.tokens;
  }
}

TEST_P(PermuteTest, PlanTakesOneExpertThatGetsEverything) {
  Plan plan(11, 2, 5);
  for (int64_t t = 0; t < 11; ++t) plan.expert_idx.set(t, 0, 3), plan.expert_idx.set(t, 1, 3);
  ops::route_plan(cpu(), plan.args());
  for (int64_t e = 0; e <= 5; ++e) EXPECT_EQ(plan.offsets.at(0, e), e <= 3 ? 0 : 22);
  for (int64_t r = 0; r < 22; ++r) EXPECT_EQ(plan.slot_of_row.at(0, r), r);
}

TEST_P(PermuteTest, PlanDoesNotDependOnTheNumberOfThreads) {
  const int threads = omp_get_max_threads();
  Plan one(20011, 2, 16), many(20011, 2, 16);
  omp_set_num_threads(1);
  ops::route_plan(cpu(), one.args());
  omp_set_num_threads(5);
  ops::route_plan(cpu(), many.args());
  omp_set_num_threads(threads);
  EXPECT_TRUE(one.row_of_slot.bits_equal(many.row_of_slot));
  EXPECT_TRUE(one.slot_of_row.bits_equal(many.slot_of_row));
}

TEST_P(PermuteTest, RowsGoToTheirExpertsWithTheirWeights) {
  for (const Case c : kCases) {
    Plan plan(c.tokens, c.top_k, c.experts);
    ops::route_plan(cpu(), plan.args());
    const int64_t rows = c.tokens * c.top_k;
    const Tensor x = Tensor::random(act(), c.tokens, c.cols, 2, 1.0, c.cols + 3);
    Tensor weights = Tensor::random(DType::kF32, c.tokens, c.top_k, 3);
    Tensor y(act(), rows, c.cols, c.cols + 1), row_weight(DType::kF32, 1, rows);
    ops::permute_rows(cpu(), {x.matrix(), plan.slot_of_row.vector<int32_t>(), c.top_k, y.matrix(),
                              weights.vector<float>(), row_weight.vector<float>()});
    EXPECT_TRUE(y.guards_hold());
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t k = 0; k < c.top_k; ++k) {
        const int64_t row = static_cast<int64_t>(plan.row_of_slot.at(t, k));
        ASSERT_EQ(row_weight.at(0, row), weights.at(t, k));
        for (int64_t i = 0; i < c.cols; ++i) ASSERT_EQ(y.at(row, i), x.at(t, i));
      }
    }
  }
}

TEST_P(PermuteTest, UnpermuteMatchesReference) {
  for (const Case c : kCases) {
    Plan plan(c.tokens, c.top_k, c.experts);
    ops::route_plan(cpu(), plan.args());
    const int64_t rows = c.tokens * c.top_k;
    const Tensor x = Tensor::random(act(), rows, c.cols, 2, 1.0, c.cols + 3);
    Tensor row_values = Tensor::random(DType::kF32, 1, rows, 5);
    for (const bool accumulate : {false, true}) {
      Tensor y = Tensor::random(act(), c.tokens, c.cols, 4),
             slot_values(DType::kF32, c.tokens, c.top_k);
      Tensor expected_y = y, expected_values = slot_values;
      ops::UnpermuteSum args{x.matrix(),
                             plan.row_of_slot.vector<int32_t>(),
                             c.top_k,
                             y.matrix(),
                             accumulate,
                             row_values.vector<float>(),
                             slot_values.vector<float>()};
      ops::unpermute_sum(cpu(), args);
      args.y = expected_y.matrix();
      args.slot_values = expected_values.vector<float>();
      ops::unpermute_sum(reference(), args);
      expect_close(y, expected_y, "y");
      EXPECT_TRUE(slot_values.bits_equal(expected_values));
    }
  }
}

TEST_P(PermuteTest, EitherHalfOfUnpermuteMayBeLeftOut) {
  Plan plan(6, 2, 4);
  ops::route_plan(cpu(), plan.args());
  Tensor row_values = Tensor::random(DType::kF32, 1, 12, 5), slot_values(DType::kF32, 6, 2);
  ops::UnpermuteSum values_only;
  values_only.row_of_slot = plan.row_of_slot.vector<int32_t>();
  values_only.top_k = 2;
  values_only.row_values = row_values.vector<float>();
  values_only.slot_values = slot_values.vector<float>();
  ops::unpermute_sum(cpu(), values_only);
  for (int64_t t = 0; t < 6; ++t) {
    for (int64_t k = 0; k < 2; ++k) {
      EXPECT_EQ(slot_values.at(t, k),
                row_values.at(0, static_cast<int64_t>(plan.row_of_slot.at(t, k))));
    }
  }
  const Tensor x = Tensor::filled(act(), 12, 3, 1.5);
  Tensor y(act(), 6, 3);
  ops::unpermute_sum(cpu(), {x.matrix(), plan.row_of_slot.vector<int32_t>(), 2, y.matrix()});
  for (int64_t t = 0; t < 6; ++t) EXPECT_EQ(y.at(t, 2), 3.0);
}

// <permute(x), u> = <x, unpermute(u)>: each is the other's backward.
TEST_P(PermuteTest, UnpermuteIsTheTransposeOfPermute) {
  Plan plan(29, 3, 8);
  ops::route_plan(cpu(), plan.args());
  const Tensor x = Tensor::random(DType::kF32, 29, 11, 2),
               u = Tensor::random(DType::kF32, 87, 11, 3);
  Tensor px(DType::kF32, 87, 11), qu(DType::kF32, 29, 11);
  ops::permute_rows(cpu(), {x.matrix(), plan.slot_of_row.vector<int32_t>(), 3, px.matrix()});
  ops::unpermute_sum(cpu(), {u.matrix(), plan.row_of_slot.vector<int32_t>(), 3, qu.matrix()});
  EXPECT_NEAR(weighted_sum(px, u), weighted_sum(x, qu), 1e-4);
}

// A capacity of 2 a sequence of 4 tokens, one choice each, one expert: the first two are kept, of
// the second sequence fewer, because one choice came before what is here.
TEST_P(PermuteTest, ACapacityKeepsTheFirstSlotsOfEverySequence) {
  for (const ops::Context* context : {&cpu(), &reference()}) {
    Plan plan(8, 1, 2);
    for (int64_t t = 0; t < 8; ++t) plan.expert_idx.set(t, 0, 1);
    Tensor before(DType::kI32, 2, 2);
    before.set(1, 1, 1);
    double dropped = 3.0;
    ops::RoutePlan args = plan.args();
    args.capacity = 2;
    args.run = 4;
    args.before = before.vector<int32_t>();
    args.dropped = &dropped;
    ops::route_plan(*context, args);
    const int64_t rows[] = {0, 1, -1, -1, 2, -1, -1, -1};
    for (int64_t t = 0; t < 8; ++t) EXPECT_EQ(plan.row_of_slot.at(t, 0), rows[t]) << t;
    const int64_t slots[] = {0, 1, 4};
    for (int64_t r = 0; r < 3; ++r) EXPECT_EQ(plan.slot_of_row.at(0, r), slots[r]) << r;
    EXPECT_EQ(plan.offsets.at(0, 1), 0);
    EXPECT_EQ(plan.offsets.at(0, 2), 3);
    EXPECT_EQ(dropped, 3.0 + 5.0);
  }
}

TEST_P(PermuteTest, DroppedSlotsHaveNoRowAndAddNothing) {
  const int threads = omp_get_max_threads();
  for (const int workers : {1, 3}) {
    omp_set_num_threads(workers);
    const int64_t tokens = 9000, top_k = 3, experts = 16;
    Plan actual(tokens, top_k, experts), expected(tokens, top_k, experts);
    double dropped[2] = {};
    for (Plan* plan : {&actual, &expected}) {
      ops::RoutePlan args = plan->args();
      args.capacity = 40;
      args.run = 180;
      args.dropped = &dropped[plan == &expected];
      ops::route_plan(plan == &actual ? cpu() : reference(), args);
    }
    EXPECT_TRUE(actual.offsets.bits_equal(expected.offsets));
    EXPECT_TRUE(actual.row_of_slot.bits_equal(expected.row_of_slot));
    const int64_t rows = static_cast<int64_t>(actual.offsets.at(0, experts));
    for (int64_t r = 0; r < rows; ++r)
      ASSERT_EQ(actual.slot_of_row.at(0, r), expected.slot_of_row.at(0, r));
    EXPECT_EQ(dropped[0], dropped[1]);
    EXPECT_EQ(static_cast<double>(tokens * top_k - rows), dropped[0]);
    EXPECT_GT(dropped[0], 0);

    const Tensor x = Tensor::random(act(), rows, 5, 2);
    Tensor row_values = Tensor::random(DType::kF32, 1, rows, 5);
    Tensor y(act(), tokens, 5), values(DType::kF32, tokens, top_k);
    Tensor expected_y = y, expected_values = values;
    ops::UnpermuteSum args{x.matrix(),
                           actual.row_of_slot.vector<int32_t>(),
                           top_k,
                           y.matrix(),
                           false,
                           row_values.vector<float>(),
                           values.vector<float>()};
    ops::unpermute_sum(cpu(), args);
    args.y = expected_y.matrix();
    args.slot_values = expected_values.vector<float>();
    ops::unpermute_sum(reference(), args);
    expect_close(y, expected_y, "y");
    EXPECT_TRUE(values.bits_equal(expected_values));
  }
  omp_set_num_threads(threads);
}

using PermuteDeathTest = PermuteTest;
DSV3_OP_TEST_DTYPES(PermuteDeathTest);

TEST_P(PermuteDeathTest, PlanRefusesAnExpertThatIsNotThere) {
  Plan plan(4, 2, 3);
  plan.expert_idx.set(3, 1, 3);
  EXPECT_DEATH(ops::route_plan(cpu(), plan.args()), "route_plan: an expert index");
}

}  // namespace
}  // namespace dsv3::test
