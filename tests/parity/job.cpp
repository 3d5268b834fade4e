// The parity suite's job; see job.h.
#include "tests/parity/job.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cctype>
#include <vector>

#include "base/rng.h"
#include "runtime/data/indexed_dataset.h"

namespace dsv3::parity {
namespace {

constexpr int64_t kVocabulary = 64;

spec::ModelSpec parity_model(const Variant& variant) {
  spec::ModelSpec model;
  model.name = "parity";
  model.vocab_size = kVocabulary;
  model.num_layers = 8;
  model.d_model = 32;
  model.num_heads = 8;
  model.dense_intermediate_size = 48;
  model.max_context_length = 32;
  model.tie_embeddings = variant.tied;
  model.mtp_layers = 1;
  model.init_std = 0.05;
  model.mla = {.kv_lora_rank = 16,
               .q_lora_rank = 24,
               .qk_nope_head_dim = 8,
               .qk_rope_head_dim = 4,
               .v_head_dim = 8};
  if (variant.direct_query) model.mla.q_lora_rank.reset();
  spec::MoeSpec& moe = model.moe;
  moe.num_experts = 16;
  moe.num_experts_per_token = 4;
  moe.expert_intermediate_size = 16;
  moe.num_shared_experts = 1;
  moe.first_k_dense = 1;
  moe.n_group = 4;
  moe.topk_group = 2;
  moe.routed_scaling_factor = 1.5;
  moe.router_aux_loss_weight = 1e-2;
  moe.router_z_loss_weight = 1e-3;
  moe.capacity_factor = variant.capacity_factor;
  if (variant.regular) {
    model.mla.q_lora_rank = 32;
    moe.num_experts_per_token = moe.num_experts;
    moe.topk_group = moe.n_group;
  }
  return model;
}

}  // namespace

plan::Layout completed(plan::Layout layout) {
  layout.grad_accumulation = kSequences / layout.dense_dp() / layout.micro_batch;
  return layout;
}

spec::JobSpec parity_job(const Case& c, const std::string& data) {
  spec::JobSpec job;
  job.model = parity_model(c.variant);
  spec::TrainingSpec& training = job.training;
  training.max_steps = 2 * kSteps;
  training.global_batch_size = kSequences;
  training.micro_batch_size = c.layout.micro_batch;
  training.seq_length = 32;
  training.dtype = c.variant.bf16 ? "bf16" : "fp32";
  training.learning_rate = 1e-3;
  training.lr_warmup_steps = 1;
  training.eval_batches = 1;
  spec::ParallelSpec& parallel = job.parallel;
  parallel.tensor_parallel_size = c.layout.tp;
  parallel.context_parallel_size = c.layout.cp;
  parallel.pipeline_parallel_size = c.layout.pp;
  parallel.expert_parallel_size = c.layout.ep;
  parallel.data_parallel_size = c.layout.dp;
  parallel.expert_tensor_parallel_size = c.layout.etp;
  parallel.zero_stage = c.layout.zero_stage;
  parallel.pipeline_schedule = c.layout.schedule;
  parallel.recompute = c.layout.recompute;
  parallel.overlap_grad_reduce = c.overlap;
  parallel.overlap_expert_exchange = c.overlap;
  parallel.pipeline_layers = c.layout.pipeline_layers;
  job.data.path = {{data, 1.0}};
  job.data.split = {0.8, 0.2};
  job.checkpoint.keep_last = 10;
  return job;
}

Case reference_of(const Case& c) {
  Case reference{.variant = c.variant};
  reference.layout.zero_stage = 0;
  reference.layout.micro_batch = 2;
  reference.layout = completed(reference.layout);
  return reference;
}

void write_text(const std::string& prefix) {
  auto builder = data::IndexedDatasetBuilder::create(prefix, data::TokenType::kU16);
  ASSERT_TRUE(builder.ok()) << builder.status().to_string();
  const CounterRng rng(5, 6);
  for (uint64_t document = 0; document < 60; ++document) {
    std::vector<int32_t> tokens;
    for (uint64_t i = 0; i < 50; ++i) {
      const auto noise = static_cast<int32_t>(rng.below(document * 50 + i, 5));
      tokens.push_back(i == 0 ? noise : (tokens.back() * 7 + 3 + noise) % kVocabulary);
    }
    ASSERT_TRUE(builder->add_document(tokens).ok());
  }
  ASSERT_TRUE(builder->finish().ok());
}

std::string to_string(const Case& c) {
  std::string text = plan::to_string(c.layout);
  if (!c.overlap) text += " no overlap";
  if (c.variant.direct_query) text += ", direct query";
  if (c.variant.tied) text += ", tied embeddings";
  if (c.variant.bf16) text += ", bf16";
  if (c.variant.capacity_factor) text += fmt::format(", capacity {}", *c.variant.capacity_factor);
  return text;
}

std::string test_name(const Case& c) {
  std::string name;
  for (const char letter : to_string(c)) {
    if (std::isalnum(static_cast<unsigned char>(letter))) {
      name += letter;
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  return name;
}

}  // namespace dsv3::parity
