// Attention, feed-forward, embedding, joint product and head on the ranks of TP × CP layouts leave
// what one process leaves; selective recomputation leaves the same bits; and the bytes that travel
// are those of the formulas.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/model/embedding.h"
#include "runtime/model/ffn.h"
#include "runtime/model/head.h"
#include "runtime/model/joined.h"
#include "runtime/model/mla.h"
#include "tests/unit/runtime/model/module_run.h"

namespace dsv3::model {
namespace {

void attention(ModuleRun& run) {
  const Pass& pass = run.pass();
  const int64_t d = run.model().d_model;
  const MlaBlock block(run.model(), run.params(), "model.layers.0.self_attn");
  const tensor::Tensor x = run.rows(1, d), y = run.rows(2, d), dy = run.rows(3, d),
                       dx = run.rows(4, d);
  MlaStash stash;
  MlaGrad grad;
  block.forward(pass, run.cos(), run.sin(), x, y, stash);
  run.keep_y(y);
  run.forward_done();
  block.backward_input(pass, run.cos(), run.sin(), stash, dy, dx, grad);
  block.backward_weight(pass, stash, x, dy, grad);
  run.keep_dx(dx);
}

void feed_forward(ModuleRun& run, bool accumulate) {
  const Pass& pass = run.pass();
  const int64_t d = run.model().d_model;
  const DenseFfn block(run.params(), "model.layers.0.mlp");
  const tensor::Tensor x = run.rows(1, d), y = run.rows(2, d), dy = run.rows(3, d),
                       dx = run.rows(4, d);
  FfnStash stash;
  FfnGrad grad;
  block.forward(pass, x, y, stash);
  run.keep_y(y);
  run.forward_done();
  block.backward_input(pass, stash, dy, dx, accumulate, grad);
  block.backward_weight(pass, stash, x, dy, grad);
  run.keep_dx(dx);
}

void embedding(ModuleRun& run) {
  const int64_t d = run.model().d_model;
  const Weight weight = run.params().weight("model.embed_tokens");
  const auto ids = run.ids(5, run.model().vocab_size);
  const tensor::Tensor y = run.rows(2, d), dy = run.rows(3, d);
  embed(run.pass(), weight, ids, y);
  run.keep_y(y);
  run.forward_done();
  embed_backward(run.pass(), weight, ids, dy);
}

void joint_product(ModuleRun& run) {
  const Pass& pass = run.pass();
  const int64_t d = run.model().d_model;
  const Weight weight = run.params().weight("model.layers.1.eh_proj");
  const tensor::Tensor joined = run.rows(1, 2 * d), y = run.rows(2, d), dy = run.rows(3, d),
                       djoined = run.rows(4, 2 * d);
  JoinedGrad grad;
  project_joined(pass, weight, joined, y);
  run.keep_y(y);
  run.forward_done();
  project_joined_input_grad(pass, weight, dy, djoined, grad);
  project_joined_weight_grad(pass, weight, joined, dy, grad);
  run.keep_dx(djoined);
}

// Training's loss and gradients, then the loss alone, and the logits.
void head(ModuleRun& run) {
  const Weight weight = run.params().weight("lm_head");
  const tensor::Tensor x = run.rows(1, run.model().d_model), dx = run.rows(4, run.model().d_model);
  const tensor::Tensor logits =
      run.pass().push_f32("test", {run.pass().tokens(), run.model().vocab_size});
  HeadLoss args{.x = x,
                .labels = run.ids(6, run.model().vocab_size, true),
                .loss_scale = 0.25,
                .grad_scale = 0.5,
                .loss = run.loss(),
                .dx = dx};
  head_loss(run.pass(), weight, args);
  run.keep_dx(dx);
  run.pass().training = false;
  head_loss(run.pass(), weight, args);
  head_logits(run.pass(), weight, x, logits);
  run.keep_y(logits);
}

constexpr ModuleCase kCases[] = {
    {.tp = 2},
    {.tp = 4},
    {.cp = 2},
    {.cp = 4},
    {.tp = 2, .cp = 2},
    {.tp = 3, .cp = 2},  // a TP rank's run goes over the border of two parts
    {.tp = 2, .cp = 2, .sequences = 1, .sequence = 256},  // blocks of 64
    {.tp = 2, .direct_query = true},
    {.cp = 2, .direct_query = true},
    {.tp = 2, .cp = 2, .sequences = 3, .direct_query = true},
    {.tp = 2, .dtype = DType::kBf16},
    {.tp = 2, .cp = 2, .dtype = DType::kBf16},
};

void expect_same(const Outcome& actual, const Outcome& expected, const ModuleCase& c) {
  const bool exact = c.dtype == DType::kF32;
  expect_near(actual.y, expected.y, exact ? 1e-6 : 1e-2, name_of(c) + ": outputs");
  expect_near(actual.dx, expected.dx, exact ? 1e-5 : 2e-2, name_of(c) + ": input gradients");
  expect_near(actual.grads, expected.grads, exact ? 1e-5 : 2e-2, name_of(c) + ": weight gradients");
  EXPECT_NEAR(actual.loss, expected.loss, (exact ? 1e-6 : 1e-2) * std::abs(expected.loss))
      << name_of(c);
}

void expect_ranks_match(const ModuleBody& body, bool attention = false) {
  for (const ModuleCase& c : kCases) {
    if (c.direct_query && !attention) continue;
    expect_same(run_on_ranks(c, body), run_alone(c, body), c);
  }
}

TEST(ParallelModules, AttentionIsThatOfOneProcess) {
  expect_ranks_match(attention, true);
}
TEST(ParallelModules, FeedForwardIsThatOfOneProcess) {
  expect_ranks_match([](ModuleRun& run) { feed_forward(run, false); });
  expect_ranks_match([](ModuleRun& run) { feed_forward(run, true); });
}
TEST(ParallelModules, EmbeddingIsThatOfOneProcess) {
  expect_ranks_match(embedding);
}
TEST(ParallelModules, JointProductIsThatOfOneProcess) {
  expect_ranks_match(joint_product);
}
TEST(ParallelModules, HeadIsThatOfOneProcess) {
  expect_ranks_match(head);
}

TEST(ParallelModules, SelectiveRecomputationLeavesTheSameBits) {
  for (const ModuleBody& body :
       {ModuleBody(attention), ModuleBody([](ModuleRun& run) { feed_forward(run, false); })}) {
    for (ModuleCase c : kCases) {
      const Outcome kept_alone = run_alone(c, body), kept = run_on_ranks(c, body);
      c.recompute = Recompute::kSelective;
      const Outcome alone = run_alone(c, body), ranks = run_on_ranks(c, body);
      EXPECT_EQ(alone.y, kept_alone.y) << name_of(c);
      EXPECT_EQ(alone.dx, kept_alone.dx) << name_of(c);
      EXPECT_EQ(alone.grads, kept_alone.grads) << name_of(c);
      EXPECT_EQ(ranks.y, kept.y) << name_of(c);
      EXPECT_EQ(ranks.dx, kept.dx) << name_of(c);
      EXPECT_EQ(ranks.grads, kept.grads) << name_of(c);
    }
  }
}

// What it is for: the up-projections and SwiGLU's output are not in what a forward leaves.
TEST(ParallelModules, SelectiveRecomputationKeepsLess) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective}) {
    const bool all = recompute == Recompute::kNone;
    ModuleRun run({.recompute = recompute}, comm::Groups::alone());
    const MlaBlock block(run.model(), run.params(), "model.layers.0.self_attn");
    const DenseFfn ffn(run.params(), "model.layers.0.mlp");
    const tensor::Tensor x = run.rows(1, run.model().d_model), y = run.rows(2, run.model().d_model);
    MlaStash stash;
    FfnStash ffn_stash;
    block.forward(run.pass(), run.cos(), run.sin(), x, y, stash);
    ffn.forward(run.pass(), x, y, ffn_stash);
    EXPECT_EQ(stash.q.empty(), !all);
    EXPECT_EQ(stash.kv.empty(), !all);
    EXPECT_EQ(ffn_stash.hidden.empty(), !all);
  }
}

// Bytes that a rank sends: a gather, a scatter or an exchange of a buffer of n bytes over g ranks
// is (g − 1) / g · n.
TEST(ParallelModules, TrafficIsThatOfTheFormulas) {
  for (const ModuleCase& c : kCases) {
    const spec::ModelSpec model = ModuleRun::model_of(c);
    const int64_t e = static_cast<int64_t>(dtype_bytes(c.dtype)), d = model.d_model;
    const int64_t whole = c.sequences * c.sequence, gathered = whole / c.cp;
    const int64_t latent = model.mla.kv_lora_rank + model.mla.qk_rope_head_dim;
    const int64_t query = model.mla.q_lora_rank.value_or(d);
    const auto tensor = [&](int64_t numbers) { return e * numbers * (c.tp - 1) / c.tp; };
    const auto context = [&](int64_t numbers) { return e * numbers * (c.cp - 1) / c.cp; };

    const Outcome mla = run_on_ranks(c, attention);
    const int64_t inputs = gathered * query + whole * latent;
    EXPECT_EQ(mla.tensor_forward, tensor(inputs + gathered * d)) << name_of(c);
    EXPECT_EQ(mla.tensor_backward, tensor(2 * inputs + gathered * d)) << name_of(c);
    EXPECT_EQ(mla.context_forward, context(whole / c.tp * latent)) << name_of(c);
    EXPECT_EQ(mla.context_backward, context(2 * (whole / c.tp) * latent)) << name_of(c);

    const Outcome ffn = run_on_ranks(c, [](ModuleRun& run) { feed_forward(run, false); });
    EXPECT_EQ(ffn.tensor_forward, tensor(2 * gathered * d)) << name_of(c);
    EXPECT_EQ(ffn.tensor_backward, tensor(3 * gathered * d)) << name_of(c);

    const Outcome table = run_on_ranks(c, embedding);
    EXPECT_EQ(table.tensor_forward, tensor(gathered * d)) << name_of(c);
    EXPECT_EQ(table.tensor_backward, tensor(gathered * d)) << name_of(c);

    const Outcome joint = run_on_ranks(c, joint_product);
    EXPECT_EQ(joint.tensor_forward, tensor(gathered * 2 * d) + tensor(gathered * d / c.tp))
        << name_of(c);
    EXPECT_EQ(joint.tensor_backward, tensor(gathered * 4 * d) + tensor(gathered * d / c.tp))
        << name_of(c);
    EXPECT_EQ(ffn.context_forward + table.context_forward + joint.context_backward, 0);
  }
}

}  // namespace
}  // namespace dsv3::model
