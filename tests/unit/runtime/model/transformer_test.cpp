// The model as a whole: what must not matter (micro-batches, evaluation, how a backward is cut),
// what memory it takes, and that it learns. That its numbers are right is for tests/golden.
#include "runtime/model/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/optim/adamw.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::model {
namespace {

using testing_support::random_tokens;
using testing_support::tiny_job;
using testing_support::TinyModel;
using testing_support::to_host;

TEST(Transformer, MicroBatchesAddUpToTheGlobalBatch) {
  TinyModel whole(tiny_job()), split(tiny_job());
  const std::vector<int32_t> tokens = random_tokens(tiny_job(), 4);
  whole.accumulate(tokens, 4);
  split.accumulate(tokens, 1);
  for (Scalar scalar : {Scalar::kLmLoss, Scalar::kMtpLoss, Scalar::kAuxLoss, Scalar::kZLoss}) {
    const double want = whole.transformer->step().host_scalar(scalar);
    EXPECT_GT(want, 0);
    EXPECT_NEAR(split.transformer->step().host_scalar(scalar), want, 1e-6 * want);
  }
  const std::vector<float> a = whole.grads(), b = split.grads();
  float largest = 0;
  for (float g : a) largest = std::max(largest, std::fabs(g));
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-5f * largest) << i;
  for (int64_t layer = 0; layer < whole.transformer->num_moe_layers(); ++layer) {
    const auto x = whole.transformer->step().host_counts(layer),
               y = split.transformer->step().host_counts(layer);
    EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin()));
    int64_t sum = 0;
    for (int64_t count : x) sum += count;
    EXPECT_EQ(sum, 4 * 16 * 2);  // every token chose two, MTP's tail positions too
  }
}

TEST(Transformer, TwoRunsGiveTheSameBits) {
  TinyModel a(tiny_job()), b(tiny_job());
  const std::vector<int32_t> tokens = random_tokens(tiny_job(), 4);
  a.accumulate(tokens, 2);
  b.accumulate(tokens, 2);
  EXPECT_EQ(a.grads(), b.grads());
  EXPECT_EQ(a.lm_loss(), b.lm_loss());
}

// What is dropped and computed again has the same bits, is counted once, and was memory.
TEST(Transformer, RecomputationChangesNoBitAndNoCount) {
  for (const DType compute : {DType::kF32, DType::kBf16}) {
    TinyModel kept(tiny_job(), 4, compute);
    const std::vector<int32_t> tokens = random_tokens(tiny_job(), 4);
    kept.accumulate(tokens, 2);
    int64_t bytes = kept.arena.ledger().peak_bytes("activations/");
    for (const Recompute recompute : {Recompute::kSelective, Recompute::kFull}) {
      TinyModel again(tiny_job(), 4, compute, recompute);
      again.accumulate(tokens, 2);
      EXPECT_EQ(again.grads(), kept.grads());
      for (int i = 0; i < kNumScalars; ++i) {
        const auto scalar = static_cast<Scalar>(i);
        EXPECT_EQ(again.transformer->step().host_scalar(scalar),
                  kept.transformer->step().host_scalar(scalar));
      }
      for (int64_t layer = 0; layer < kept.transformer->num_moe_layers(); ++layer) {
        const auto x = kept.transformer->step().host_counts(layer),
                   y = again.transformer->step().host_counts(layer);
        EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin()));
      }
      // Selective keeps less than none, full less than selective.
      const int64_t now = again.arena.ledger().peak_bytes("activations/");
      EXPECT_LT(now, bytes);
      bytes = now;
      EXPECT_EQ(again.arena.mark(), 0u);
    }
  }
}

TEST(Transformer, EvaluationChangesNothing) {
  TinyModel tiny(tiny_job());
  const std::vector<int32_t> tokens = random_tokens(tiny_job(), 4);
  tiny.accumulate(tokens, 4);
  const double trained = tiny.lm_loss();
  const std::vector<float> grads = tiny.grads(), weights = tiny.weights();
  const std::vector<float> bias = to_host(tiny.arena, tiny.transformer->router_bias());
  tiny.transformer->step().reset();
  tiny.transformer->evaluate(tokens, 1.0 / 64);
  tiny.transformer->step().read_back();
  EXPECT_NEAR(tiny.lm_loss(), trained, 1e-6 * trained);  // the same mean over the same tokens
  for (int64_t layer = 0; layer < tiny.transformer->num_moe_layers(); ++layer) {
    for (int64_t count : tiny.transformer->step().host_counts(layer)) EXPECT_EQ(count, 0);
  }
  EXPECT_EQ(tiny.transformer->step().host_scalar(Scalar::kAuxLoss), 0);
  EXPECT_EQ(tiny.grads(), grads);
  EXPECT_EQ(tiny.weights(), weights);
  EXPECT_EQ(to_host(tiny.arena, tiny.transformer->router_bias()), bias);
}

TEST(Transformer, AStepAllocatesNothingAfterTheFirst) {
  TinyModel tiny(tiny_job());
  const std::vector<int32_t> tokens = random_tokens(tiny_job(), 4);
  tiny.accumulate(tokens, 2);
  tiny.arena.compact();
  const int64_t allocations = tiny.arena.num_allocations();
  for (int step = 0; step < 3; ++step) {
    tiny.accumulate(tokens, 2);
    tiny.transformer->evaluate(tokens, 1.0);
  }
  EXPECT_EQ(tiny.arena.num_allocations(), allocations);
  EXPECT_EQ(tiny.arena.mark(), 0u);
}

TEST(Transformer, NoTensorGrowsWithTheSquareOfTheSequence) {
  spec::JobSpec job = tiny_job();
  job.training.seq_length = 4096;
  job.model.num_layers = 1;
  job.model.mtp_layers = 0;
  job.model.num_heads = 1;
  job.model.moe.num_experts = 0;
  job.model.dense_intermediate_size = 16;
  TinyModel tiny(job, 1);
  tiny.accumulate(random_tokens(job, 1), 1);
  // A [4096, 4096] tensor of single bytes would be 16 MiB; everything about attention together
  // stays below that.
  const tensor::Ledger& ledger = tiny.arena.ledger();
  const int64_t square = int64_t{4096} * 4096;
  EXPECT_GT(ledger.peak_bytes("activations/attention/"), 0);
  EXPECT_LT(ledger.peak_bytes("activations/attention/") +
                ledger.peak_bytes("transient/attention/") + ledger.peak_bytes("workspace"),
            square);
}

TEST(Transformer, WholeLogitsExistOnlyWhenAskedFor) {
  spec::JobSpec job = tiny_job();
  job.model.vocab_size = 30'000;
  job.training.seq_length = 512;
  TinyModel tiny(job, 1);
  const std::vector<int32_t> tokens = random_tokens(job, 1);
  tiny.accumulate(tokens, 1);
  const int64_t whole = int64_t{512} * 30'000 * 4;
  EXPECT_LT(tiny.arena.ledger().peak_bytes("transient/logits"), whole / 2);
  const tensor::Scope scope(tiny.arena);
  EXPECT_EQ(tiny.transformer->logits(tokens).bytes(), whole);
}

TEST(Transformer, LearnsATinyBatchByHeart) {
  spec::JobSpec job = tiny_job();
  job.training.learning_rate = 1e-2;
  job.training.lr_schedule = "constant";
  job.training.lr_warmup_steps = 5;
  job.training.weight_decay = 0;
  TinyModel tiny(job, 2);
  optim::Optimizer optimizer(job.training, tiny.transformer->params(), tiny.arena);
  const std::vector<int32_t> tokens = random_tokens(job, 2);
  double first = 0;
  for (int64_t step = 1; step <= 80; ++step) {
    tiny.accumulate(tokens, 2);
    if (step == 1) first = tiny.lm_loss();
    optimizer.add_squared_norm(tiny.transformer->step());
    optimizer.update(step, tiny.transformer->step());
    tiny.transformer->update_router_bias();
  }
  EXPECT_NEAR(first, std::log(50.0), 0.3);
  EXPECT_LT(tiny.lm_loss(), 0.2);  // 0.07 in a sanitizer build, which rounds otherwise
}

// Input and weight gradients apart give the bits of the joint backward.
TEST(TransformerLayer, SplitBackwardEqualsTheJointOne) {
  for (const int64_t layer_idx : {0, 1}) {  // dense, MoE
    const spec::JobSpec job = tiny_job();
    TinyModel tiny(job);
    const TransformerLayer layer(job.model, tiny.transformer->params(), layer_idx, 0, {});
    const Pass pass{.arena = tiny.arena,
                    .ctx = tiny.arena.context(),
                    .sequences = 2,
                    .sequence = 16,
                    .scales = {.token = 1.0 / 32, .aux = 0.01f, .z = 0.001f}};
    const tensor::Tensor x = pass.push("x", 32), y = pass.push("y", 32), dh = pass.push("dh", 32);
    const CounterRng rng(3, 4);
    for (int64_t i = 0; i < 32 * 32; ++i) x.as<float>()[i] = rng.normal(static_cast<uint64_t>(i));
    const std::vector<float> ones(16 * 2, 0.6f), zeros(16 * 2, 0.8f);  // any rotation
    const ops::Vector<const float> cos(ones.data(), 32), sin(zeros.data(), 32);
    LayerStash stash;
    layer.forward(pass, tiny.transformer->step(), cos, sin, x, y, stash);

    const auto run = [&](bool split) {
      tiny.transformer->params().zero_grad();
      for (int64_t i = 0; i < 32 * 32; ++i)
        dh.as<float>()[i] = rng.normal(static_cast<uint64_t>(5000 + i));
      const tensor::Scope scope(tiny.arena);
      if (split) {
        LayerGrad grad;
        layer.backward_input(pass, cos, sin, stash, dh, grad);
        layer.backward_weight(pass, stash, grad);
      } else {
        layer.backward(pass, cos, sin, stash, dh);
      }
      std::vector<float> result = tiny.grads();
      const std::vector<float> dx = to_host(tiny.arena, dh);
      result.insert(result.end(), dx.begin(), dx.end());
      return result;
    };
    const std::vector<float> joint = run(false);
    EXPECT_EQ(joint, run(true));
    EXPECT_TRUE(std::any_of(joint.begin(), joint.end(), [](float g) { return g != 0; }));
  }
}

}  // namespace
}  // namespace dsv3::model
