// The reference table of presets as jobs in code, so that the planner's
// tests don't depend on the YAML files.
#pragma once

#include <string>

#include "base/check.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan::testing {

struct TableRow {
  const char* name;
  int64_t vocab, hidden, layers, heads, q_rank, kv_rank, nope, rope, v, dense, expert, experts,
      topk, shared, first_dense, groups, topk_group, mtp;
};

inline constexpr TableRow kTable[] = {
    {"small", 32768, 1024, 12, 16, 512, 256, 64, 32, 64, 2560, 512, 16, 2, 1, 1, 4, 2, 0},
    {"1b", 32768, 1024, 16, 16, 512, 256, 64, 32, 64, 2560, 2304, 8, 2, 0, 1, 1, 1, 0},
    {"5b", 65536, 2048, 24, 32, 1024, 512, 128, 64, 128, 5376, 1792, 16, 2, 1, 2, 1, 1, 0},
    {"10b", 102400, 3072, 32, 32, 1536, 768, 128, 64, 128, 8192, 896, 32, 4, 1, 2, 1, 1, 1},
    {"15b", 102400, 3584, 40, 56, 1792, 896, 128, 64, 128, 9216, 448, 64, 4, 2, 4, 1, 1, 0},
    {"20b", 129280, 4096, 48, 64, 2048, 1024, 128, 64, 128, 12288, 256, 96, 6, 1, 3, 1, 1, 0},
    {"671b", 129280, 7168, 61, 128, 1536, 512, 128, 64, 128, 18432, 2048, 256, 8, 1, 3, 8, 4, 1},
};

// bf16 weights, fp32 gradients and moments, one sequence of 4096 a micro-batch, every parallel size
// free, on GPUs.
inline spec::JobSpec table_job(const std::string& name) {
  for (const TableRow& row : kTable) {
    if (name != row.name) continue;
    spec::JobSpec job;
    spec::ModelSpec& model = job.model;
    model.name = row.name;
    model.vocab_size = row.vocab;
    model.d_model = row.hidden;
    model.num_layers = row.layers;
    model.num_heads = row.heads;
    model.mla.q_lora_rank = row.q_rank;
    model.mla.kv_lora_rank = row.kv_rank;
    model.mla.qk_nope_head_dim = row.nope;
    model.mla.qk_rope_head_dim = row.rope;
    model.mla.v_head_dim = row.v;
    model.dense_intermediate_size = row.dense;
    model.max_context_length = 131072;
    model.mtp_layers = row.mtp;
    model.moe.expert_intermediate_size = row.expert;
    model.moe.num_experts = row.experts;
    model.moe.num_experts_per_token = row.topk;
    model.moe.num_shared_experts = row.shared;
    model.moe.first_k_dense = row.first_dense;
    model.moe.n_group = row.groups;
    model.moe.topk_group = row.topk_group;
    job.parallel.tensor_parallel_size = -1;
    job.parallel.pipeline_parallel_size = -1;
    job.parallel.expert_parallel_size = -1;
    job.parallel.data_parallel_size = -1;
    job.training.seq_length = 4096;
    job.training.max_steps = 100;
    job.cluster.devices = "cuda";
    return job;
  }
  DSV3_CHECK(false, "no such row");
}

// The same with micro-batch and schedule free too, 768 sequences a step.
inline spec::JobSpec free_job(const std::string& name) {
  spec::JobSpec job = table_job(name);
  job.training.micro_batch_size = -1;
  job.training.global_batch_size = 768;
  job.parallel.pipeline_schedule = "auto";
  return job;
}

}  // namespace dsv3::plan::testing
