// MLA attention: CPU against the reference on many shapes, the reference's backward against finite
// differences, workspace size.
#include <omp.h>

#include <algorithm>

#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

class AttentionTest : public OpTest {};
DSV3_OP_TEST_DTYPES(AttentionTest);

// The tensors of one forward and backward, with padded rows so that a wrong stride shows.
struct Case {
  Case(ops::MlaShape s, DType act, uint64_t seed, int64_t pad = 3)
      : shape(s),
        q(input(act, queries(), s.heads * (s.nope_dim + s.rope_dim), seed, pad)),
        kv(input(act, tokens(), s.heads * (s.nope_dim + s.v_dim), seed + 1, pad)),
        k_rope(input(act, tokens(), s.rope_dim, seed + 2, pad)),
        dout(input(act, queries(), s.heads * s.v_dim, seed + 3, pad)),
        out(like(dout)),
        lse(DType::kF32, queries(), s.heads),
        dq(like(q)),
        dkv(like(kv)),
        dk_rope(like(k_rope)) {}

  int64_t tokens() const { return shape.batch * shape.sequence; }
  int64_t queries() const { return shape.batch * shape.num_queries(); }
  Tensor input(DType act, int64_t rows, int64_t width, uint64_t seed, int64_t pad) const {
    return Tensor::random(act, rows, width, seed, 1.0, width + pad);
  }
  Tensor like(Tensor& t) const { return Tensor(t.dtype(), t.rows(), t.cols(), t.matrix().stride); }
  ops::MlaAttentionForward forward() {
    return {shape, q.matrix(), kv.matrix(), k_rope.matrix(), out.matrix(), lse.vector<float>()};
  }
  ops::MlaAttentionBackward backward() {
    return {shape,        q.matrix(),          kv.matrix(),   k_rope.matrix(),
            out.matrix(), lse.vector<float>(), dout.matrix(), dq.matrix(),
            dkv.matrix(), dk_rope.matrix()};
  }

  ops::MlaShape shape;
  Tensor q, kv, k_rope, dout, out, lse, dq, dkv, dk_rope;
};

//                          batch, sequence, heads, nope, rope, v, scale, queries
const ops::MlaShape kShapes[] = {
    {1, 1, 1, 4, 2, 3, 1.0f},           {2, 5, 3, 8, 4, 8, 0.3f},
    {1, 16, 2, 16, 8, 16, 0.2f},        {1, 63, 1, 7, 2, 5, 0.4f},
    {3, 64, 2, 16, 0, 16, 0.25f},       {2, 65, 2, 0, 16, 12, 0.25f},
    {1, 128, 3, 24, 8, 32, 0.18f},      {1, 129, 1, 13, 6, 11, 0.2f},
    {2, 193, 2, 32, 16, 24, 0.15f},     {1, 257, 5, 16, 16, 16, 0.18f},
    {1, 331, 1, 40, 24, 48, 0.12f},     {2, 5, 3, 8, 4, 8, 0.3f, 1},
    {1, 64, 2, 16, 8, 16, 0.2f, 32},    {2, 128, 3, 24, 8, 32, 0.18f, 64},
    {2, 193, 2, 32, 16, 24, 0.15f, 70}, {1, 257, 5, 16, 16, 16, 0.18f, 130},
    {3, 331, 1, 40, 24, 48, 0.12f, 7},  {1, 200, 9, 16, 0, 16, 0.2f, 199},
    {1, 320, 2, 12, 4, 20, 0.2f, 192}};

std::string name_of(const ops::MlaShape& s) {
  return "batch " + std::to_string(s.batch) + " sequence " + std::to_string(s.sequence) +
         " heads " + std::to_string(s.heads) + " nope " + std::to_string(s.nope_dim) + " rope " +
         std::to_string(s.rope_dim) + " queries " + std::to_string(s.num_queries());
}

TEST_P(AttentionTest, ForwardMatchesReference) {
  for (const auto& shape : kShapes) {
    Case actual(shape, act(), 1), expected(shape, act(), 1);
    ops::mla_attention_forward(cpu(), actual.forward());
    ops::mla_attention_forward(reference(), expected.forward());
    expect_close(actual.out, expected.out, name_of(shape) + " out");
    expect_close(actual.lse, expected.lse, name_of(shape) + " lse");
  }
}

TEST_P(AttentionTest, BackwardMatchesReference) {
  for (const auto& shape : kShapes) {
    Case actual(shape, act(), 7), expected(shape, act(), 7);
    ops::mla_attention_forward(reference(), expected.forward());
    actual.out = expected.out;
    actual.lse = expected.lse;
    ops::mla_attention_backward(cpu(), actual.backward());
    ops::mla_attention_backward(reference(), expected.backward());
    expect_close(actual.dq, expected.dq, name_of(shape) + " dq", 2);
    expect_close(actual.dkv, expected.dkv, name_of(shape) + " dkv", 2);
    expect_close(actual.dk_rope, expected.dk_rope, name_of(shape) + " dk_rope", 2);
  }
}

TEST_P(AttentionTest, LargeScoresStayFinite) {
  ops::MlaShape shape{1, 150, 2, 8, 8, 8, 30.0f};
  Case actual(shape, act(), 3), expected(shape, act(), 3);
  ops::mla_attention_forward(cpu(), actual.forward());
  ops::mla_attention_forward(reference(), expected.forward());
  expect_close(actual.out, expected.out, "out",
               20);  // scores near 600 carry an error of 600 · 2^-24
  expect_close(actual.lse, expected.lse, "lse");
}

TEST_P(AttentionTest, NoTokensIsNothingToDo) {
  Case empty({0, 16, 2, 4, 2, 4, 1.0f}, act(), 1);
  ops::mla_attention_forward(cpu(), empty.forward());
  ops::mla_attention_backward(cpu(), empty.backward());
  EXPECT_TRUE(empty.dq.guards_hold());
}

TEST_P(AttentionTest, RunsAreBitwiseEqual) {
  const ops::MlaShape shape{1, 300, 3, 24, 8, 16, 0.2f};
  Case first(shape, act(), 5), second(shape, act(), 5);
  for (Case* c : {&first, &second}) {
    ops::mla_attention_forward(cpu(), c->forward());
    ops::mla_attention_backward(cpu(), c->backward());
  }
  EXPECT_TRUE(first.out.bits_equal(second.out));
  EXPECT_TRUE(first.lse.bits_equal(second.lse));
  EXPECT_TRUE(first.dq.bits_equal(second.dq));
  EXPECT_TRUE(first.dkv.bits_equal(second.dkv));
  EXPECT_TRUE(first.dk_rope.bits_equal(second.dk_rope));
}

// One head on more threads than heads is shared between them: right, the forward with the bits of
// one thread.
TEST_P(AttentionTest, AnyNumberOfThreads) {
  const ops::MlaShape shape{1, 400, 1, 16, 8, 16, 0.2f};
  Case expected(shape, act(), 5);
  ops::mla_attention_forward(reference(), expected.forward());
  ops::mla_attention_backward(reference(), expected.backward());
  Case first(shape, act(), 5);
  for (int threads : {1, 2, 3, 5}) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Case actual(shape, act(), 5);
    ops::mla_attention_forward(cpu(), actual.forward());
    ops::mla_attention_backward(cpu(), actual.backward());
    omp_set_num_threads(before);
    const std::string what = std::to_string(threads) + " threads";
    if (threads == 1) first.out = actual.out;
    EXPECT_TRUE(actual.out.bits_equal(first.out)) << what;
    expect_close(actual.dq, expected.dq, what + " dq", 4);
    expect_close(actual.dkv, expected.dkv, what + " dkv", 4);
    expect_close(actual.dk_rope, expected.dk_rope, what + " dk_rope", 4);
  }
}

// What comes after a token must not reach it: changing later keys leaves earlier outputs' bits
// alone.
TEST_P(AttentionTest, TheFutureIsNotSeen) {
  const ops::MlaShape shape{1, 140, 1, 8, 4, 8, 0.3f};
  Case before(shape, act(), 9), after(shape, act(), 9);
  const int64_t cut = 70;
  for (int64_t t = cut; t < shape.sequence; ++t)
    for (int64_t c = 0; c < after.kv.cols(); ++c) after.kv.set(t, c, 50.0);
  ops::mla_attention_forward(cpu(), before.forward());
  ops::mla_attention_forward(cpu(), after.forward());
  for (int64_t t = 0; t < cut; ++t)
    for (int64_t c = 0; c < before.out.cols(); ++c)
      ASSERT_EQ(before.out.at(t, c), after.out.at(t, c)) << t;
}

// Linear in the sequence: at 4096 tokens an eighth of one head's f32 [sequence, sequence] scores.
TEST_P(AttentionTest, WorkspaceIsFarBelowSequenceSquared) {
  const int64_t sequence = 4096;
  Case c({1, sequence, 1, 16, 8, 16, 0.2f}, act(), 2);
  ops::mla_attention_forward(cpu(), c.forward());
  ops::mla_attention_backward(cpu(), c.backward());
  EXPECT_LT(workspace().peak_bytes(), static_cast<size_t>(sequence * sequence * 4 / 8));
}

// A part of a sequence is those rows of the whole: its queries see the keys that they saw there.
TEST_P(AttentionTest, PartsOfASequenceAreItsRows) {
  const ops::MlaShape shape{1, 160, 2, 12, 4, 8, 0.3f};
  Case whole(shape, act(), 5);
  ops::mla_attention_forward(cpu(), whole.forward());
  const auto copy_rows = [](const Tensor& from, int64_t first, Tensor& to) {
    for (int64_t r = 0; r < to.rows(); ++r)
      for (int64_t i = 0; i < to.cols(); ++i) to.set(r, i, from.at(first + r, i));
  };
  for (const int64_t end : {64, 100, 160}) {
    for (const int64_t queries : {int64_t{1}, int64_t{36}, end}) {
      ops::MlaShape part = shape;
      part.sequence = end, part.queries = queries;
      Case c(part, act(), 5);
      copy_rows(whole.q, end - queries, c.q);
      copy_rows(whole.kv, 0, c.kv);
      copy_rows(whole.k_rope, 0, c.k_rope);
      ops::mla_attention_forward(cpu(), c.forward());
      Tensor expected(act(), queries, c.out.cols());
      copy_rows(whole.out, end - queries, expected);
      expect_close(c.out, expected, name_of(part) + " out");
    }
  }
}

TEST(AttentionReference, BackwardMatchesFiniteDifferences) {
  for (const ops::MlaShape& shape :
       {ops::MlaShape{2, 5, 2, 3, 2, 4, 0.7f}, ops::MlaShape{1, 4, 1, 0, 4, 2, 0.5f},
        ops::MlaShape{2, 5, 2, 3, 2, 4, 0.7f, 3}}) {
    Case c(shape, DType::kF64, 11, 1);
    auto backend = make_reference_backend();
    const ops::Context ctx{backend.get(), nullptr, nullptr};
    const auto loss = [&] {
      backend->mla_attention_forward(ctx, c.forward());
      return weighted_sum(c.out, c.dout);
    };
    loss();
    backend->mla_attention_backward(ctx, c.backward());
    expect_gradient(c.dq, c.q, loss, "dq");
    expect_gradient(c.dkv, c.kv, loss, "dkv");
    expect_gradient(c.dk_rope, c.k_rope, loss, "dk_rope");
  }
}

}  // namespace
}  // namespace dsv3::test
