// What ops cost, against counts made by hand from args.h. No memory is touched: a cost is a
// function of shapes.
#include "kernels/ops/cost.h"

#include <gtest/gtest.h>

namespace dsv3::ops {
namespace {

int64_t byte = 0;
void* const kSome = &byte;
constexpr DType kF32 = DType::kF32, kBf16 = DType::kBf16;

template <typename T>
Vector<T> vec(int64_t n) {
  return {static_cast<T*>(kSome), n};
}
Matrix mat(DType dtype, int64_t rows, int64_t cols, int64_t stride = -1) {
  return Matrix(kSome, dtype, rows, cols, stride);
}

void expect_cost(OpCost cost, double flops, double bytes) {
  EXPECT_EQ(cost.flops, flops);
  EXPECT_EQ(cost.bytes, bytes);
}

TEST(OpCost, OfAProductIsTwiceItsMultiplyAdds) {
  // y [3, 5] = x [3, 7] W [5, 7]ᵀ: 3·5·7 = 105 multiply-adds; 21 + 35 elements of bf16, 15 of f32.
  Gemm args{
      .a = mat(kBf16, 3, 7), .b = mat(kBf16, 5, 7), .c = mat(kF32, 3, 5), .transpose_b = true};
  expect_cost(cost_of(args), 210, 2 * (21 + 35) + 4 * 15);
  args.accumulate = true;
  expect_cost(cost_of(args), 210, 2 * (21 + 35) + 2 * 4 * 15);
  // dW [5, 7] += dy [3, 5]ᵀ x [3, 7].
  expect_cost(cost_of(Gemm{.a = mat(kF32, 3, 5),
                           .b = mat(kF32, 3, 7),
                           .c = mat(kF32, 5, 7),
                           .transpose_a = true,
                           .accumulate = true}),
              210, 4 * (15 + 21 + 2 * 35));
}

TEST(OpCost, CountsAViewsColumnsNotItsStride) {
  const Gemm args{.a = mat(kF32, 3, 7, 100), .b = mat(kF32, 7, 5), .c = mat(kF32, 3, 5, 50)};
  expect_cost(cost_of(args), 210, 4 * (21 + 35 + 15));
}

TEST(OpCost, OfGroupsIsThatOfAllRowsAndEveryWeight) {
  // 10 rows in 4 groups, [10, 6] · [4][8, 6]ᵀ.
  expect_cost(cost_of(GroupedGemm{.a = mat(kBf16, 10, 6),
                                  .b = ConstStack(kSome, kBf16, 4, 8, 6),
                                  .c = mat(kBf16, 10, 8),
                                  .offsets = vec<const int32_t>(5),
                                  .transpose_b = true}),
              2 * 10 * 8 * 6, 2 * (60 + 4 * 48 + 80) + 5 * 4);
  expect_cost(cost_of(GroupedGemmWeightGrad{.a = mat(kBf16, 10, 8),
                                            .b = mat(kBf16, 10, 6),
                                            .c = Stack(kSome, kF32, 4, 8, 6),
                                            .offsets = vec<const int32_t>(5)}),
              2 * 10 * 8 * 6, 2 * (80 + 60) + 5 * 4 + 2 * 4 * 4 * 48);
}

// Two sequences of 3, two heads: 2·2·(1 + 2 + 3) = 24 pairs; q·k of 4 + 2, values of 5.
TEST(OpCost, OfAttentionCountsThePairsThatAreSeen) {
  const MlaShape shape{
      .batch = 2, .sequence = 3, .heads = 2, .nope_dim = 4, .rope_dim = 2, .v_dim = 5};
  const Matrix q = mat(kF32, 6, 12), kv = mat(kF32, 6, 18), rope = mat(kF32, 6, 2),
               out = mat(kF32, 6, 10);
  expect_cost(
      cost_of(MlaAttentionForward{
          .shape = shape, .q = q, .kv = kv, .k_rope = rope, .out = out, .lse = vec<float>(12)}),
      24 * 2 * (6 + 5), 4 * (72 + 108 + 12 + 60 + 12));
  // Scores (6), their gradient (5), dv (5), dq (6), dk (6).
  expect_cost(cost_of(MlaAttentionBackward{.shape = shape,
                                           .q = q,
                                           .kv = kv,
                                           .k_rope = rope,
                                           .out = out,
                                           .lse = vec<const float>(12),
                                           .dout = out,
                                           .dq = q,
                                           .dkv = kv,
                                           .dk_rope = rope}),
              24 * 2 * (6 + 5 + 5 + 6 + 6), 4 * (2 * (72 + 108 + 12) + 2 * 60 + 12));
}

// The last 2 of 5 positions ask: they see 4 and 5 keys, in each of 2 sequences and 3 heads.
TEST(OpCost, OfAPartsAttentionCountsWhatItsQueriesSee) {
  const MlaShape shape{.batch = 2,
                       .sequence = 5,
                       .heads = 3,
                       .nope_dim = 4,
                       .rope_dim = 2,
                       .v_dim = 5,
                       .queries = 2};
  expect_cost(cost_of(MlaAttentionForward{.shape = shape,
                                          .q = mat(kF32, 4, 18),
                                          .kv = mat(kF32, 10, 27),
                                          .k_rope = mat(kF32, 10, 2),
                                          .out = mat(kF32, 4, 15),
                                          .lse = vec<float>(12)}),
              2 * 3 * (4 + 5) * 2 * (6 + 5), 4 * (72 + 270 + 20 + 60 + 12));
}

TEST(OpCost, OfNormsAndElementwiseOpsIsWhatTheyMove) {
  expect_cost(cost_of(RmsNormForward{.x = mat(kBf16, 4, 8),
                                     .gain = vec<const float>(8),
                                     .y = mat(kBf16, 4, 8),
                                     .rstd = vec<float>(4)}),
              0, 2 * 2 * 32 + 4 * 8 + 4 * 4);
  RmsNormBackward norm{.dy = mat(kBf16, 4, 8),
                       .x = mat(kBf16, 4, 8),
                       .gain = vec<const float>(8),
                       .rstd = vec<const float>(4),
                       .dx = mat(kBf16, 4, 8),
                       .dgain = vec<float>(8)};
  expect_cost(cost_of(norm), 0, 3 * 64 + 32 + 16 + 2 * 32);
  norm.accumulate_dx = true;
  expect_cost(cost_of(norm), 0, 4 * 64 + 32 + 16 + 2 * 32);
  norm.dx = {};  // left out
  norm.dgain = {};
  expect_cost(cost_of(norm), 0, 2 * 64 + 32 + 16);
  // 6 tokens, 2 heads, 4 of each rotated in place; tables of 3 positions.
  expect_cost(cost_of(Rope{.x = kSome,
                           .dtype = kBf16,
                           .tokens = 6,
                           .heads = 2,
                           .rope_dim = 4,
                           .sequence = 3,
                           .cos = vec<const float>(6),
                           .sin = vec<const float>(6)}),
              0, 2 * 2 * 48 + 2 * 4 * 6);
  expect_cost(cost_of(SwigluForward{.gate_up = mat(kBf16, 3, 10), .y = mat(kBf16, 3, 5)}), 0,
              2 * 45);
  expect_cost(cost_of(SwigluBackward{.dy = mat(kBf16, 3, 5),
                                     .gate_up = mat(kBf16, 3, 10),
                                     .row_scale = vec<const float>(3),
                                     .dgate_up = mat(kBf16, 3, 10),
                                     .drow_scale = vec<float>(3)}),
              0, 2 * (15 + 30 + 30) + 4 * 6);
  expect_cost(cost_of(Add{.x = mat(kF32, 2, 3), .y = mat(kF32, 2, 3)}), 0, 4 * 18);
  expect_cost(cost_of(Cast{.x = mat(kF32, 2, 3), .y = mat(kBf16, 2, 3)}), 0, 4 * 6 + 2 * 6);
}

TEST(OpCost, OfTheRouterDependsOnTheLossesThatAreAsked) {
  const RouterShape shape{.tokens = 6, .sequence = 3, .experts = 4, .top_k = 2};  // [6, 4], [6, 2]
  expect_cost(cost_of(RouterForward{.shape = shape,
                                    .logits = vec<const float>(24),
                                    .bias = vec<const float>(4),
                                    .scores = vec<float>(24),
                                    .expert_idx = vec<int32_t>(12),
                                    .weights = vec<float>(12),
                                    .counts = vec<int64_t>(4)}),
              0, 4 * (24 + 4 + 24 + 12 + 12) + 2 * 8 * 4);
  RouterLoss loss{.shape = shape,
                  .logits = vec<const float>(24),
                  .scores = vec<const float>(24),
                  .expert_idx = vec<const int32_t>(12),
                  .fraction = vec<float>(8)};
  expect_cost(cost_of(loss), 0, 0);
  loss.aux_weight = 0.1f;
  expect_cost(cost_of(loss), 0, 4 * (24 + 12 + 8));
  loss.z_weight = 0.1f;
  expect_cost(cost_of(loss), 0, 4 * (24 + 12 + 8 + 24));
  RouterBackward backward{.shape = shape,
                          .logits = vec<const float>(24),
                          .scores = vec<const float>(24),
                          .expert_idx = vec<const int32_t>(12),
                          .dweights = vec<const float>(12),
                          .fraction = vec<const float>(8),
                          .dlogits = vec<float>(24)};
  expect_cost(cost_of(backward), 0, 4 * (24 + 12 + 12 + 24));
  backward.aux_weight = 0.1f;
  backward.z_weight = 0.1f;
  expect_cost(cost_of(backward), 0, 4 * (24 + 12 + 12 + 24 + 8 + 24));
  expect_cost(cost_of(RouterBiasUpdate{vec<const int64_t>(4), vec<float>(4)}), 0,
              8 * 4 + 2 * 4 * 4);
}

TEST(OpCost, OfMovingTokensCountsEachRowOnce) {
  expect_cost(cost_of(RoutePlan{.expert_idx = vec<const int32_t>(12),
                                .top_k = 2,
                                .experts = 4,
                                .offsets = vec<int32_t>(5),
                                .row_of_slot = vec<int32_t>(12),
                                .slot_of_row = vec<int32_t>(12)}),
              0, 4 * (12 + 5 + 12 + 12));
  PermuteRows permute{.x = mat(kBf16, 6, 8),
                      .slot_of_row = vec<const int32_t>(12),
                      .top_k = 2,
                      .y = mat(kBf16, 12, 8)};
  expect_cost(cost_of(permute), 0, 2 * (48 + 96) + 4 * 12);
  permute.weights = vec<const float>(12);
  permute.row_weight = vec<float>(12);
  expect_cost(cost_of(permute), 0, 2 * (48 + 96) + 4 * (12 + 12 + 12));
  UnpermuteSum sum{.x = mat(kBf16, 12, 8),
                   .row_of_slot = vec<const int32_t>(12),
                   .top_k = 2,
                   .y = mat(kBf16, 6, 8),
                   .accumulate = true};
  expect_cost(cost_of(sum), 0, 2 * (96 + 2 * 48) + 4 * 12);
  sum.row_values = vec<const float>(12);
  sum.slot_values = vec<float>(12);
  expect_cost(cost_of(sum), 0, 2 * (96 + 2 * 48) + 4 * (12 + 12 + 12));
  expect_cost(
      cost_of(EmbeddingForward{
          .table = mat(kBf16, 100, 8), .ids = vec<const int32_t>(6), .y = mat(kBf16, 6, 8)}),
      0, 4 * 6 + 2 * 2 * 48);
  expect_cost(
      cost_of(EmbeddingBackward{
          .dy = mat(kBf16, 6, 8), .ids = vec<const int32_t>(6), .dtable = mat(kF32, 100, 8)}),
      0, 2 * 48 + 4 * 6 + 2 * 4 * 48);
}

TEST(OpCost, OfTheLossAndTheOptimizer) {
  CrossEntropy loss{.logits = mat(kF32, 6, 10), .labels = vec<const int32_t>(6)};
  expect_cost(cost_of(loss), 0, 4 * 60 + 4 * 6);
  loss.want_grad = true;
  expect_cost(cost_of(loss), 0, 2 * 4 * 60 + 4 * 6);
  CrossEntropyStatistics statistics{
      .logits = mat(kF32, 6, 10), .labels = vec<const int32_t>(6), .statistics = vec<float>(18)};
  expect_cost(cost_of(statistics), 0, 4 * 60 + 4 * 6 + 4 * 18);
  statistics.keep_terms = true;
  expect_cost(cost_of(statistics), 0, 2 * 4 * 60 + 4 * 6 + 4 * 18);
  CrossEntropyFinish finish{.terms = mat(kF32, 6, 10),
                            .labels = vec<const int32_t>(6),
                            .ranks = 2,
                            .statistics = vec<const float>(36)};
  expect_cost(cost_of(finish), 0, 4 * 6 + 4 * 36);
  finish.want_grad = true;
  expect_cost(cost_of(finish), 0, 2 * 4 * 60 + 4 * 6 + 4 * 36);
  expect_cost(cost_of(SquaredNorm{.x = vec<const float>(100)}), 0, 400);
  AdamW adamw{.master = vec<float>(100),
              .grad = vec<const float>(100),
              .exp_avg = kSome,
              .exp_avg_sq = kSome};
  expect_cost(cost_of(adamw), 0, 100 * (8 + 4 + 8 + 8));
  adamw.moments_dtype = kBf16;
  adamw.compute = kSome;
  expect_cost(cost_of(adamw), 0, 100 * (8 + 4 + 4 + 4 + 2));
  expect_cost(cost_of(ClipScale{}), 0, 8 + 8 + 4);
}

TEST(OpSignature, SaysWhichProductOfALayerItIsAndWhoseWeight) {
  int x = 0, w = 0, dw = 0;
  const OpSignature forward = signature_of(Gemm{.a = Matrix(&x, kBf16, 3, 7),
                                                .b = Matrix(&w, kBf16, 5, 7),
                                                .c = mat(kBf16, 3, 5),
                                                .transpose_b = true});
  EXPECT_EQ(forward, (OpSignature{Role::kForward, kBf16, std::array<int64_t, 3>{3, 5, 7}, &w}));
  const OpSignature input = signature_of(
      Gemm{.a = Matrix(&x, kBf16, 3, 5), .b = Matrix(&w, kBf16, 5, 7), .c = mat(kBf16, 3, 7)});
  EXPECT_EQ(input, (OpSignature{Role::kInputGrad, kBf16, std::array<int64_t, 3>{3, 7, 5}, &w}));
  const OpSignature weight = signature_of(Gemm{.a = mat(kBf16, 3, 5),
                                               .b = mat(kBf16, 3, 7),
                                               .c = Matrix(&dw, kF32, 5, 7),
                                               .transpose_a = true,
                                               .accumulate = true});
  EXPECT_EQ(weight, (OpSignature{Role::kWeightGrad, kBf16, std::array<int64_t, 3>{5, 7, 3}, &dw}));
  EXPECT_STREQ(role_name(weight.role), "weight grad");
}

}  // namespace
}  // namespace dsv3::ops
