// The planner's list of a step's ops beside what the device was asked for in a real step: the same
// ops, shapes, calls, FLOPs and bytes.
#include "cluster/plan/step_ops.h"

#include <fmt/core.h>

#include <functional>
#include <map>
#include <string>

#include "kernels/ops/profile.h"
#include "runtime/optim/adamw.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::train {
namespace {

using testing_support::tiny_job;
using testing_support::TinyModel;

struct Sums {
  double calls = 0, flops = 0, bytes = 0;
};
using OpSums = std::map<std::string, Sums>;  // by op, role, dtype and shape

std::string key_of(std::string_view op, std::string_view role, DType dtype,
                   const std::array<int64_t, 3>& shape) {
  return fmt::format("{} {} {} {}x{}x{}", op, role, dtype_name(dtype), shape[0], shape[1],
                     shape[2]);
}

// A job whose blocks need no padding, so that counts of elements are counts of parameters.
spec::JobSpec aligned_job() {
  spec::JobSpec job = tiny_job();
  job.model.vocab_size = 64;
  job.model.mla.q_lora_rank = 32;
  return job;
}

OpSums planned(const spec::JobSpec& job) {
  plan::Layout layout;
  layout.zero_stage = 0;
  layout.micro_batch = job.training.micro_batch_size;
  layout.grad_accumulation = job.training.global_batch_size / layout.micro_batch;
  layout.moments_dtype = job.training.moments_dtype;
  OpSums sums;
  for (const plan::StepOp& op : plan::step_ops(job, layout)) {
    Sums& sum = sums[key_of(op.op, op.role, op.dtype, op.shape)];
    sum.calls += op.calls;
    sum.flops += op.calls * op.flops;
    sum.bytes += op.calls * op.bytes;
  }
  return sums;
}

// What a step does after reading its samples: run_step() without the session around it.
OpSums measured(const spec::JobSpec& job) {
  const DType compute = job.training.dtype == "fp32" ? DType::kF32 : DType::kBf16;
  TinyModel tiny(job, job.training.global_batch_size, compute);
  optim::Optimizer optimizer(job.training, tiny.transformer->params(), tiny.arena);
  ops::Profile profile;
  tiny.device->profile_into(&profile);
  const auto tokens = testing_support::random_tokens(job, job.training.global_batch_size);
  model::Transformer& model = *tiny.transformer;
  model.step().reset();
  model.params().zero_grad();
  const auto part =
      static_cast<size_t>(job.training.micro_batch_size * (job.training.seq_length + 1));
  for (size_t at = 0; at < tokens.size(); at += part)
    model.train_micro_batch(std::span(tokens).subspan(at, part));
  optimizer.add_squared_norm(model.step());
  optimizer.update(1, model.step());
  model.update_router_bias();
  model.step().read_back();
  tiny.device->profile_into(nullptr);
  OpSums sums;
  for (const auto& [key, totals] : profile.entries()) {
    const auto& [op, signature] = key;
    Sums& sum = sums[key_of(op, ops::role_name(signature.role), signature.dtype, signature.shape)];
    sum.calls += static_cast<double>(totals.calls);
    sum.flops += totals.cost.flops;
    sum.bytes += totals.cost.bytes;
  }
  return sums;
}

struct Variant {
  std::string name;
  std::function<void(spec::JobSpec&)> change;
};
void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

class StepOps : public testing::TestWithParam<Variant> {};

TEST_P(StepOps, AreWhatTheDeviceIsAsked) {
  spec::JobSpec job = aligned_job();
  GetParam().change(job);
  const OpSums plan = planned(job), real = measured(job);
  for (const auto& [key, sums] : real) {
    const auto found = plan.find(key);
    ASSERT_NE(found, plan.end()) << key << " is not planned";
    EXPECT_EQ(found->second.calls, sums.calls) << key;
    EXPECT_DOUBLE_EQ(found->second.flops, sums.flops) << key;
    EXPECT_DOUBLE_EQ(found->second.bytes, sums.bytes) << key;
  }
  for (const auto& [key, sums] : plan) EXPECT_TRUE(real.contains(key)) << key << " is not asked";
}

INSTANTIATE_TEST_SUITE_P(
    Variants, StepOps,
    testing::Values(
        Variant{"f32", [](spec::JobSpec&) {}},
        Variant{"bf16", [](spec::JobSpec& job) { job.training.dtype = "bf16"; }},
        Variant{"bf16_moments", [](spec::JobSpec& job) { job.training.moments_dtype = "bf16"; }},
        Variant{"direct_query", [](spec::JobSpec& job) { job.model.mla.q_lora_rank.reset(); }},
        Variant{"no_shared_experts",
                [](spec::JobSpec& job) { job.model.moe.num_shared_experts = 0; }},
        Variant{"no_mtp", [](spec::JobSpec& job) { job.model.mtp_layers = 0; }},
        Variant{"tied", [](spec::JobSpec& job) { job.model.tie_embeddings = true; }},
        Variant{"dense", [](spec::JobSpec& job) { job.model.moe = {}; }},
        Variant{"no_router_losses",
                [](spec::JobSpec& job) {
                  job.model.moe.router_aux_loss_weight = 0;
                  job.model.moe.router_z_loss_weight = 0;
                  job.model.moe.use_aux_loss_free = false;
                }},
        Variant{"one_micro_batch", [](spec::JobSpec& job) { job.training.micro_batch_size = 4; }},
        // The head takes 16 MiB of logits at a time: 64 rows of 65,536, twice and a rest.
        Variant{"head_in_chunks",
                [](spec::JobSpec& job) {
                  job.model.vocab_size = 65536;
                  job.training.seq_length = 80;
                  job.model.max_context_length = 80;
                  job.training.micro_batch_size = 2;
                  job.training.global_batch_size = 2;
                }},
        Variant{"no_rope", [](spec::JobSpec& job) { job.model.mla.qk_rope_head_dim = 0; }}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace dsv3::train
