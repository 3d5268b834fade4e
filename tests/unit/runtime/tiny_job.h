// A job small enough for unit tests, with every mechanism on: query latent, a dense layer, groups,
// shared expert, MTP, all losses; and a model of it on the CPU.
//
// Law: the same on every run; nothing here reads a file, a clock or the environment.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/rng.h"
#include "configs/spec/job_spec.h"
#include "runtime/device/device.h"
#include "runtime/model/transformer.h"

namespace dsv3::testing_support {

inline spec::JobSpec tiny_job() {
  spec::JobSpec job;
  spec::ModelSpec& model = job.model;
  model.name = "tiny";
  model.vocab_size = 50;
  model.num_layers = 3;
  model.d_model = 32;
  model.num_heads = 2;
  model.dense_intermediate_size = 48;
  model.max_context_length = 32;
  model.mtp_layers = 1;
  model.init_std = 0.05;
  model.mla = {.kv_lora_rank = 16,
               .q_lora_rank = 24,
               .qk_nope_head_dim = 8,
               .qk_rope_head_dim = 4,
               .v_head_dim = 8};
  spec::MoeSpec& moe = model.moe;
  moe.num_experts = 8;
  moe.num_experts_per_token = 2;
  moe.expert_intermediate_size = 16;
  moe.num_shared_experts = 1;
  moe.first_k_dense = 1;
  moe.n_group = 2;
  moe.topk_group = 1;
  moe.router_aux_loss_weight = 1e-2;
  moe.router_z_loss_weight = 1e-3;
  spec::TrainingSpec& training = job.training;
  training.max_steps = 6;
  training.global_batch_size = 4;
  training.micro_batch_size = 2;
  training.seq_length = 16;
  training.dtype = "fp32";
  training.learning_rate = 5e-3;
  training.lr_warmup_steps = 2;
  training.eval_batches = 2;
  job.parallel.data_parallel_size = 1;
  return job;
}

inline std::unique_ptr<device::Device> cpu_device() {
  auto device = device::open_device("cpu");
  EXPECT_TRUE(device.ok()) << device.status().to_string();
  return std::move(device).value();
}

// `sequences` samples of sequence + 1 tokens; the same on every run.
inline std::vector<int32_t> random_tokens(const spec::JobSpec& job, int64_t sequences) {
  const CounterRng rng(99, name_key("tokens"));
  std::vector<int32_t> tokens(static_cast<size_t>(sequences * (job.training.seq_length + 1)));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(rng.below(i, static_cast<uint64_t>(job.model.vocab_size)));
  }
  return tokens;
}

inline std::vector<float> to_host(tensor::Arena& arena, const tensor::Tensor& t) {
  std::vector<float> values(static_cast<size_t>(t.num_elements()));
  arena.device().backend().copy_to_host(values.data(), t.data, values.size() * sizeof(float),
                                        nullptr);
  arena.device().synchronize();
  return values;
}

// A model with initial weights on a device and arena of its own.
struct TinyModel {
  explicit TinyModel(const spec::JobSpec& spec, int64_t global_sequences = 4,
                     DType compute = DType::kF32,
                     model::Recompute recompute = model::Recompute::kNone)
      : job(spec), device(cpu_device()), arena(*device) {
    const model::TransformerOptions options{.sequence = job.training.seq_length,
                                            .global_sequences = global_sequences,
                                            .compute = compute,
                                            .recompute = recompute};
    transformer = std::make_unique<model::Transformer>(job.model, options, arena);
    transformer->params().initialise(job.training.seed);
  }
  // One forward and backward of `tokens` in micro-batches of `sequences`.
  void accumulate(const std::vector<int32_t>& tokens, int64_t sequences) {
    transformer->step().reset();
    transformer->params().zero_grad();
    const auto part = static_cast<size_t>(sequences * (job.training.seq_length + 1));
    for (size_t at = 0; at < tokens.size(); at += part) {
      transformer->train_micro_batch(
          std::span(tokens).subspan(at, std::min(part, tokens.size() - at)));
    }
    transformer->step().read_back();
  }
  std::vector<float> grads() { return to_host(arena, transformer->params().grad()); }
  std::vector<float> weights() { return to_host(arena, transformer->params().master()); }
  double lm_loss() const { return transformer->step().host_scalar(model::Scalar::kLmLoss); }

  spec::JobSpec job;
  std::unique_ptr<device::Device> device;
  tensor::Arena arena;
  std::unique_ptr<model::Transformer> transformer;
};

}  // namespace dsv3::testing_support
