// JobSpec: what a user asked for, after parsing, defaults and aliases. Plain data; no behaviour.
//
// Law: a member here carries the canonical YAML key as its name (configs/README.md), and its
// type, range, default, unit and documentation stand once, in the field table (field_table.h).
// std::optional means "null is a value".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::spec {

struct RopeScaling {
  std::string type = "none";  // none | yarn
  double factor = 1.0;
  int64_t original_max_position = 4096;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;
  bool operator==(const RopeScaling&) const = default;
};

struct MlaSpec {
  int64_t kv_lora_rank = 0;
  std::optional<int64_t> q_lora_rank;  // null: one direct projection
  int64_t qk_nope_head_dim = 128;
  int64_t qk_rope_head_dim = 64;
  int64_t v_head_dim = 128;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool use_flash_mla = false;
  bool use_fp8_kv = false;

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  bool operator==(const MlaSpec&) const = default;
};

struct MoeSpec {
  int64_t num_experts = 0;
  int64_t num_experts_per_token = 0;
  int64_t expert_intermediate_size = 0;
  int64_t num_shared_experts = 0;
  int64_t first_k_dense = 0;
  std::optional<int64_t> moe_layers;  // given: must equal num_layers − first_k_dense
  int64_t n_group = 1;
  int64_t topk_group = 1;
  std::string score_function = "sigmoid";  // sigmoid (V3) | softmax (V2)
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1.0;
  bool allow_uneven_groups = false;
  bool use_aux_loss_free = true;
  double bias_update_rate = 1e-3;
  double router_aux_loss_weight = 0.0;
  double router_z_loss_weight = 0.0;
  std::optional<double> capacity_factor;  // null: dropless
  bool use_deep_ep = false;
  bool deep_ep_fp8 = false;
  bool operator==(const MoeSpec&) const = default;
};

struct ModelSpec {
  std::string name;
  int64_t vocab_size = 0;
  int64_t num_layers = 0;
  int64_t d_model = 0;
  int64_t num_heads = 0;
  // Accepted because Hugging Face writes it; MLA has none of its own.
  std::optional<int64_t> num_key_value_heads;
  int64_t dense_intermediate_size = 0;
  int64_t max_context_length = 0;
  bool tie_embeddings = false;
  int64_t mtp_layers = 0;
  double mtp_loss_weight = 0.3;
  double rms_norm_eps = 1e-6;
  double init_std = 0.02;
  MlaSpec mla;
  MoeSpec moe;

  // Layers first_k_dense … num_layers−1 are MoE; MTP modules are MoE too (when there are experts).
  bool is_moe_layer(int64_t layer) const {
    return moe.num_experts > 0 && layer >= moe.first_k_dense;
  }
  bool operator==(const ModelSpec&) const = default;
};

// In a JobSpec made in code every size is 1 but data_parallel_size. In a file, a
// tensor/pipeline/expert/data size that is −1 or left out is the planner's choice and stays −1 here
// until the planner has chosen.
struct ParallelSpec {
  int64_t tensor_parallel_size = 1;
  int64_t pipeline_parallel_size = 1;
  int64_t expert_parallel_size = 1;
  int64_t data_parallel_size = -1;  // −1: the planner's choice
  int64_t context_parallel_size = 1;
  int64_t expert_tensor_parallel_size = 1;
  int64_t zero_stage = 1;
  bool overlap_grad_reduce = true;
  bool overlap_expert_exchange = true;
  std::string pipeline_schedule = "1f1b";  // afab | 1f1b | interleaved | zero_bubble
  // Layers of each virtual stage, chunk by chunk: the first layer's stage first. Empty: the
  // planner's choice.
  std::vector<int64_t> pipeline_layers;
  std::string recompute = "none";  // none | selective | full
  bool offload_optimizer = false;
  int64_t collective_timeout_s = 120;
  bool operator==(const ParallelSpec&) const = default;
};

struct TrainingSpec {
  int64_t max_steps = 0;
  int64_t global_batch_size = 0;  // sequences
  int64_t micro_batch_size = 1;   // sequences
  int64_t seq_length = 0;         // tokens
  std::string dtype = "bf16";     // fp32 | bf16 | fp8
  int64_t seed = 1234;
  double learning_rate = 3e-4;
  int64_t lr_warmup_steps = 0;
  std::string lr_schedule = "cosine";  // constant | linear | cosine
  double min_learning_rate = 0.0;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double grad_clip = 1.0;              // 0: off
  std::string moments_dtype = "fp32";  // fp32 | bf16
  std::string grads_dtype = "fp32";    // fp32 | bf16
  int64_t eval_interval_steps = 0;     // 0: only at the end
  int64_t eval_batches = 8;            // global batches per validation
  bool deterministic = true;
  bool operator==(const TrainingSpec&) const = default;
};

struct DataSpec {
  std::vector<std::pair<std::string, double>> path;  // Megatron prefixes with their weights
  std::vector<double> split = {0.99, 0.01};          // train, validation (shares of the documents)
  std::string tokenizer;                             // what `data prepare` was given; informative
  bool operator==(const DataSpec&) const = default;
};

struct CheckpointSpec {
  std::string path;            // "": the job's folder in the state dir
  int64_t interval_steps = 0;  // 0: at the end only
  int64_t keep_last = 2;
  bool async = true;
  std::string load;  // a checkpoint folder to start from; "": none
  bool operator==(const CheckpointSpec&) const = default;
};

struct LoggingSpec {
  int64_t interval_steps = 1;
  int64_t expert_stats_interval_steps = 1;
  bool tensorboard = false;
  bool jsonl = false;
  bool operator==(const LoggingSpec&) const = default;
};

struct ClusterSpecKeys {
  std::string launcher = "local";  // local | ssh | slurm
  std::string devices = "cpu";     // cpu | cuda
  int64_t nodes = 1;
  int64_t ranks_per_node = 1;
  bool operator==(const ClusterSpecKeys&) const = default;
};

// What `configs list` says of a preset, and what it is not warned of; without meaning for a run.
struct PresetSpec {
  std::string use_case;       // one line
  int64_t gpus_min = 0;       // 0: runs on CPUs
  int64_t gpu_memory_gb = 0;  // label GB of each; 0: none needed
  std::string accepts;        // codes of warnings that are meant, with spaces between
  bool operator==(const PresetSpec&) const = default;
};

struct JobSpec {
  ModelSpec model;
  ParallelSpec parallel;
  TrainingSpec training;
  DataSpec data;
  CheckpointSpec checkpoint;
  LoggingSpec logging;
  ClusterSpecKeys cluster;
  PresetSpec preset;
  bool operator==(const JobSpec&) const = default;
};

}  // namespace dsv3::spec
