// The router: the choice (groups, ties, negative biased scores), its weights, losses, gradients and
// the balancing bias.
#include <algorithm>
#include <cmath>
#include <set>

#include <omp.h>

#include "base/rng.h"
#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

using ops::RouterShape;
using ops::ScoreFunction;

// All router values are f32 whatever the activations are, so there is one case of each test.
class RouterTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, RouterTest, testing::Values(DType::kF32), dtype_case_name);

RouterShape shape_of(int64_t tokens, int64_t sequence, int64_t experts, int64_t top_k,
                     int64_t groups = 1, int64_t top_groups = 1,
                     ScoreFunction score = ScoreFunction::kSigmoid, bool normalise = true,
                     float scaling = 1.0f) {
  return {tokens, sequence, experts, top_k, groups, top_groups, score, normalise, scaling};
}

const RouterShape kShapes[] = {
    shape_of(0, 4, 8, 2),
    // Not normalised: one expert's normalised weight is 1 and its gradient 0.
    shape_of(1, 1, 1, 1, 1, 1, ScoreFunction::kSigmoid, false),
    shape_of(12, 4, 7, 3, 1, 1, ScoreFunction::kSigmoid, false, 1.7f),
    shape_of(90, 45, 61, 61),
    shape_of(64, 16, 8, 2, 8, 3),  // groups of one expert
    shape_of(200, 50, 256, 8, 8, 4, ScoreFunction::kSigmoid, true, 2.5f),
    shape_of(200, 100, 160, 6, 8, 3, ScoreFunction::kSoftmax, false, 16.0f),
    shape_of(33, 11, 10, 4, 2, 1, ScoreFunction::kSoftmax, true),
};

// Everything the router's ops read and write, on random logits and a bias that makes many biased
// scores negative.
struct Router {
  RouterShape shape;
  Tensor logits, bias, scores, expert_idx, weights, counts, fraction, dweights, dlogits;
  double aux_loss = 1.0, z_loss = 2.0;
  float aux_weight = 0.3f, z_weight = 0.01f;

  explicit Router(const RouterShape& s)
      : shape(s),
        logits(Tensor::random(DType::kF32, s.tokens, s.experts, 1, 2.0)),
        bias(Tensor::random(DType::kF32, 1, s.experts, 2, 0.5)),
        scores(DType::kF32, s.tokens, s.experts),
        expert_idx(DType::kI32, s.tokens, s.top_k),
        weights(DType::kF32, s.tokens, s.top_k),
        counts(Tensor::filled(DType::kI64, 1, s.experts, 100.0)),
        fraction(DType::kF32, s.tokens / s.sequence, s.experts),
        dweights(Tensor::random(DType::kF32, s.tokens, s.top_k, 3)),
        dlogits(DType::kF32, s.tokens, s.experts) {}

  void forward(const ops::Context& ctx) {
    ops::router_forward(
        ctx, {shape, logits.vector<float>(), bias.vector<float>(), scores.vector<float>(),
              expert_idx.vector<int32_t>(), weights.vector<float>(), counts.vector<int64_t>()});
  }
  void loss(const ops::Context& ctx) {
    ops::router_loss(
        ctx, {shape, logits.vector<float>(), scores.vector<float>(), expert_idx.vector<int32_t>(),
              aux_weight, z_weight, fraction.vector<float>(), &aux_loss, &z_loss});
  }
  void backward(const ops::Context& ctx) {
    ops::router_backward(
        ctx, {shape, logits.vector<float>(), scores.vector<float>(), expert_idx.vector<int32_t>(),
              dweights.vector<float>(), fraction.vector<float>(), aux_weight, z_weight,
              dlogits.vector<float>()});
  }
  std::vector<int> chosen(int64_t token) const {
    std::vector<int> experts;
    for (int64_t k = 0; k < shape.top_k; ++k)
      experts.push_back(static_cast<int>(expert_idx.at(token, k)));
    return experts;
  }
};

TEST_P(RouterTest, ForwardMatchesReference) {
  for (const RouterShape& shape : kShapes) {
    Router actual(shape), expected(shape);
    actual.forward(cpu());
    expected.forward(reference());
    EXPECT_TRUE(actual.expert_idx.bits_equal(expected.expert_idx)) << shape.experts;
    EXPECT_TRUE(actual.counts.bits_equal(expected.counts)) << shape.experts;
    expect_close(actual.scores, expected.scores, "scores");
    expect_close(actual.weights, expected.weights, "weights");
  }
}

TEST_P(RouterTest, LossesMatchReference) {
  for (const RouterShape& shape : kShapes) {
    Router actual(shape), expected(shape);
    expected.forward(reference());
    actual.scores = expected.scores;
    actual.expert_idx = expected.expert_idx;
    actual.loss(cpu());
    expected.loss(reference());
    expect_close(actual.fraction, expected.fraction, "fraction");
    EXPECT_NEAR(actual.aux_loss, expected.aux_loss, 1e-6 * expected.aux_loss);
    EXPECT_NEAR(actual.z_loss, expected.z_loss, 1e-6 * expected.z_loss);
  }
}

TEST_P(RouterTest, BackwardMatchesReference) {
  for (const RouterShape& shape : kShapes) {
    for (const bool with_losses : {true, false}) {
      Router actual(shape), expected(shape);
      expected.forward(reference());
      expected.loss(reference());
      actual.scores = expected.scores;
      actual.expert_idx = expected.expert_idx;
      actual.fraction = expected.fraction;
      if (!with_losses)
        actual.aux_weight = actual.z_weight = expected.aux_weight = expected.z_weight = 0.0f;
      actual.backward(cpu());
      expected.backward(reference());
      expect_close(actual.dlogits, expected.dlogits, "dlogits");
    }
  }
}

// d(Σ weights · dweights + aux loss + z loss) / dlogits, with logits far enough apart that a step
// does not change the choice.
TEST_P(RouterTest, BackwardIsTheGradientOfWeightsAndLosses) {
  for (const ScoreFunction score : {ScoreFunction::kSigmoid, ScoreFunction::kSoftmax}) {
    for (const bool normalise : {true, false}) {
      Router r(shape_of(6, 3, 6, 2, 1, 1, score, normalise, 1.5f));
      r.bias = Tensor(DType::kF32, 1, 6);
      for (int64_t t = 0; t < 6; ++t) {
        for (int64_t e = 0; e < 6; ++e)
          r.logits.set(t, e, 0.4 * ((5 * e + 3 * t * t) % 6) - 1.0 + 0.05 * t);
      }
      r.forward(reference());
      r.loss(reference());
      r.backward(reference());
      const Tensor analytic = r.dlogits, chosen = r.expert_idx;
      const auto loss = [&] {
        r.aux_loss = r.z_loss = 0.0;
        r.forward(reference());
        r.loss(reference());
        EXPECT_TRUE(r.expert_idx.bits_equal(chosen));
        return weighted_sum(r.weights, r.dweights) + r.aux_loss + r.z_loss;
      };
      expect_gradient(analytic, r.logits, loss, "dlogits", 1e-2, 1e-3);
    }
  }
}

TEST_P(RouterTest, TiesGoToTheLowerIndex) {
  for (const ScoreFunction score : {ScoreFunction::kSigmoid, ScoreFunction::kSoftmax}) {
    Router r(shape_of(3, 3, 12, 5, 4, 2, score));
    r.logits = Tensor::filled(DType::kF32, 3, 12, 0.7);
    r.bias = Tensor(DType::kF32, 1, 12);
    r.forward(cpu());
    for (int64_t t = 0; t < 3; ++t) EXPECT_EQ(r.chosen(t), (std::vector<int>{0, 1, 2, 3, 4}));
    for (int64_t e = 0; e < 12; ++e) EXPECT_EQ(r.counts.at(0, e), e < 5 ? 103.0 : 100.0);
  }
}

// Scores are 1/2 everywhere. Biased: group 0 has −0.1, −0.2; group 1 −0.3, −0.4. Only group 0 is
// kept: had the masked experts become 0, they would win over the negative ones.
TEST_P(RouterTest, MaskedGroupsLoseToNegativeScores) {
  Router r(shape_of(1, 1, 4, 2, 2, 1));
  r.logits = Tensor(DType::kF32, 1, 4);
  for (int64_t e = 0; e < 4; ++e) r.bias.set(0, e, -0.6 - 0.1 * e);
  r.forward(cpu());
  EXPECT_EQ(r.chosen(0), (std::vector<int>{0, 1}));
  EXPECT_NEAR(r.weights.at(0, 0), 0.5, 1e-6);  // from the unbiased scores
}

// V3 adds a group's two best biased scores, V2 takes its best: the same logits keep different
// groups.
TEST_P(RouterTest, GroupScoreIsTwoBestForSigmoidAndBestForSoftmax) {
  const double logits[] = {2.0, -4.0, -4.0, 1.5, 1.5, -4.0};
  for (const ScoreFunction score : {ScoreFunction::kSigmoid, ScoreFunction::kSoftmax}) {
    Router r(shape_of(1, 1, 6, 1, 2, 1, score));
    r.bias = Tensor(DType::kF32, 1, 6);
    for (int64_t e = 0; e < 6; ++e) r.logits.set(0, e, logits[e]);
    r.forward(cpu());
    EXPECT_EQ(r.chosen(0), (std::vector<int>{score == ScoreFunction::kSigmoid ? 3 : 0}));
  }
}

TEST_P(RouterTest, BiasDecidesTheChoiceButNotTheWeights) {
  Router with(shape_of(1, 1, 4, 2)), without(shape_of(1, 1, 4, 2));
  for (Router* r : {&with, &without})
    r->logits = Tensor(DType::kF32, 1, 4), r->bias = Tensor(DType::kF32, 1, 4);
  with.bias.set(0, 3, 5.0);
  with.forward(cpu());
  without.forward(cpu());
  EXPECT_EQ(with.chosen(0), (std::vector<int>{3, 0}));
  EXPECT_EQ(without.chosen(0), (std::vector<int>{0, 1}));
  EXPECT_EQ(with.weights.at(0, 0), without.weights.at(0, 0));
}

TEST_P(RouterTest, ExpertsStayValidWhenLogitsAreNotNumbers) {
  Router r(shape_of(2, 2, 16, 4, 4, 2));
  for (int64_t e = 0; e < 16; ++e) r.logits.set(0, e, std::nan(""));
  r.logits.set(1, 3, std::nan(""));
  r.forward(cpu());
  for (int64_t t = 0; t < 2; ++t) {
    const std::vector<int> chosen = r.chosen(t);
    EXPECT_EQ(std::set<int>(chosen.begin(), chosen.end()).size(), 4u);
    for (const int e : chosen) EXPECT_TRUE(e >= 0 && e < 16 && (t == 0 || e != 3));
  }
}

TEST_P(RouterTest, NotANumberLosesToEveryNumber) {
  Router r(shape_of(1, 1, 3, 2));
  for (int64_t e = 0; e < 3; ++e) r.logits.set(0, e, -20.0), r.bias.set(0, e, -1.0 - 0.1 * e);
  r.logits.set(0, 0, std::nan(""));
  r.forward(cpu());
  EXPECT_EQ(r.chosen(0), (std::vector<int>{1, 2}));
}

// Perfect balance gives Σ f_i P_i = 1 per sequence, whatever the number of experts (Switch,
// DeepSeek-V2 eq. 23).
TEST_P(RouterTest, AuxiliaryLossOfPerfectBalanceIsItsWeightPerSequence) {
  Router r(shape_of(8, 4, 4, 1));
  r.bias = Tensor(DType::kF32, 1, 4);
  for (int64_t t = 0; t < 8; ++t)
    for (int64_t e = 0; e < 4; ++e) r.logits.set(t, e, e == t % 4 ? 1.0 : -1.0);
  r.aux_loss = 0.0;
  r.forward(cpu());
  r.loss(cpu());
  EXPECT_NEAR(r.aux_loss, 2 * 0.3, 1e-6);
}

// Two ranks with halves of every sequence, told the whole's choices: their shares are the whole.
TEST_P(RouterTest, PartsOfSequencesAddUpToTheWhole) {
  const int64_t sequences = 3, sequence = 10, half = 5, experts = 12;
  Router whole(shape_of(sequences * sequence, sequence, experts, 3, 3, 2));
  whole.forward(reference());
  whole.aux_loss = whole.z_loss = 0.0;
  whole.loss(reference());
  whole.backward(reference());
  Tensor counts(DType::kI32, sequences, experts);
  for (int64_t t = 0; t < whole.shape.tokens; ++t) {
    for (const int e : whole.chosen(t)) counts.set(t / sequence, e, counts.at(t / sequence, e) + 1);
  }
  double aux = 0.0, z = 0.0;
  for (int64_t part = 0; part < 2; ++part) {
    RouterShape shape = shape_of(sequences * half, half, experts, 3, 3, 2);
    shape.whole_sequence = sequence;
    Router r(shape);
    r.bias = whole.bias;
    r.aux_loss = r.z_loss = 0.0;
    const auto token_of = [&](int64_t t) { return t / half * sequence + part * half + t % half; };
    for (int64_t t = 0; t < shape.tokens; ++t) {
      for (int64_t e = 0; e < experts; ++e) r.logits.set(t, e, whole.logits.at(token_of(t), e));
      for (int64_t k = 0; k < 3; ++k) r.dweights.set(t, k, whole.dweights.at(token_of(t), k));
    }
    r.forward(cpu());
    ops::router_loss(
        cpu(), {r.shape, r.logits.vector<float>(), r.scores.vector<float>(),
                r.expert_idx.vector<int32_t>(), r.aux_weight, r.z_weight,
                r.fraction.vector<float>(), &r.aux_loss, &r.z_loss, counts.vector<int32_t>()});
    r.backward(cpu());
    aux += r.aux_loss;
    z += r.z_loss;
    expect_close(r.fraction, whole.fraction, "fraction");
    Tensor dlogits(DType::kF32, shape.tokens, experts);
    for (int64_t t = 0; t < shape.tokens; ++t)
      for (int64_t e = 0; e < experts; ++e) dlogits.set(t, e, whole.dlogits.at(token_of(t), e));
    expect_close(r.dlogits, dlogits, "dlogits");
  }
  EXPECT_NEAR(aux, whole.aux_loss, 1e-6 * whole.aux_loss);
  EXPECT_NEAR(z, whole.z_loss, 1e-6 * whole.z_loss);
}

TEST_P(RouterTest, RunsAreCountedByThemselves) {
  Router r(shape_of(90, 30, 16, 4, 4, 2));
  for (const ops::Context* context : {&cpu(), &reference()}) {
    Tensor run_counts = Tensor::filled(DType::kI32, 6, 16, 77.0);  // two runs a sequence
    ops::router_forward(*context, {r.shape, r.logits.vector<float>(), r.bias.vector<float>(),
                                   r.scores.vector<float>(), r.expert_idx.vector<int32_t>(),
                                   r.weights.vector<float>(), r.counts.vector<int64_t>(), 15,
                                   run_counts.vector<int32_t>()});
    Tensor expected(DType::kI32, 6, 16);
    for (int64_t t = 0; t < 90; ++t)
      for (const int e : r.chosen(t)) expected.set(t / 15, e, expected.at(t / 15, e) + 1);
    EXPECT_TRUE(run_counts.bits_equal(expected)) << context->backend->name();
  }
}

TEST_P(RouterTest, ResultsHaveTheSameBitsForAnyNumberOfThreads) {
  Router one(shape_of(500, 250, 64, 6, 8, 4)), many(one.shape);
  const int threads = omp_get_max_threads();
  for (Router* r : {&one, &many}) {
    omp_set_num_threads(r == &one ? 1 : 3);
    r->forward(cpu());
    r->loss(cpu());
    r->backward(cpu());
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(one.weights.bits_equal(many.weights));
  EXPECT_TRUE(one.counts.bits_equal(many.counts));
  EXPECT_TRUE(one.dlogits.bits_equal(many.dlogits));
  EXPECT_EQ(one.aux_loss, many.aux_loss);
  EXPECT_EQ(one.z_loss, many.z_loss);
}

TEST_P(RouterTest, BiasMovesAgainstTheLoadExactly) {
  Tensor counts(DType::kI64, 1, 3), bias(DType::kF32, 1, 3);
  // Mean 10/3; then equal; then a difference of one in 2^55, which f64 counts would lose.
  const int64_t big = int64_t{1} << 55;
  const int64_t rows[][3] = {{3, 3, 4}, {5, 5, 5}, {big, big + 1, big}};
  const double expected[][3] = {{0.5, 0.5, -0.5}, {0.0, 0.0, 0.0}, {0.5, -0.5, 0.5}};
  for (int i = 0; i < 3; ++i) {
    for (const ops::Context* context : {&cpu(), &reference()}) {
      std::copy_n(rows[i], 3, counts.data<int64_t>());
      std::fill_n(bias.data<float>(), 3, 0.0f);
      ops::router_bias_update(*context, {counts.vector<int64_t>(), bias.vector<float>(), 0.5f});
      for (int e = 0; e < 3; ++e) EXPECT_EQ(bias.at(0, e), expected[i][e]) << i << " " << e;
    }
  }
}

using RouterDeathTest = RouterTest;
INSTANTIATE_TEST_SUITE_P(Cpu, RouterDeathTest, testing::Values(DType::kF32), dtype_case_name);

TEST_P(RouterDeathTest, RefusesGroupsThatHoldTooFewExperts) {
  Router r(shape_of(2, 2, 8, 4));
  r.shape.groups = 4;
  r.shape.top_groups = 1;
  EXPECT_DEATH(r.forward(cpu()), "router_forward: shape");
}

}  // namespace
}  // namespace dsv3::test
