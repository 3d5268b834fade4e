// See foreign_keys.h. A word stands here when it means something that no key of the same meaning
// can take over silently.
#include "configs/spec/foreign_keys.h"

#include <array>

namespace dsv3::spec {
namespace {

struct Instead {
  std::string_view name;
  std::string_view sentence;
};

constexpr std::array kInstead = {
    Instead{"attention_dropout", "leave it out: there is no dropout"},
    Instead{"hidden_dropout", "leave it out: there is no dropout"},
    Instead{"dropout", "leave it out: there is no dropout"},
    Instead{"expert_dropout",
            "leave it out: there is no dropout; model.moe.use_aux_loss_free keeps "
            "experts in use"},
    Instead{"amp", "write training.dtype: bf16"},
    Instead{"fp16", "there is no fp16 training; write training.dtype: bf16"},
    Instead{"compile_model", "leave it out: the kernels are compiled already"},
    Instead{"use_flash_attention", "leave it out: attention never keeps the score matrix"},
    Instead{"data_dir", "write data.path with the prefix that `dsv3ctl data prepare` wrote"},
    Instead{"dataset", "write data.path with the prefix that `dsv3ctl data prepare` wrote"},
    Instead{"deepspeed", "give the DeepSpeed json with --deepspeed FILE"},
    Instead{"ds_config", "give the DeepSpeed json with --deepspeed FILE"},
    Instead{"log_expert_stats",
            "write logging.expert_stats_interval_steps: 1 (which is what it is when left out)"},
    Instead{"gradient_accumulation_steps",
            "leave it out: it is global_batch_size over micro_batch_size·EP·DP; give "
            "training.global_batch_size"},
    Instead{"grad_accumulation",
            "leave it out: it is global_batch_size over micro_batch_size·EP·DP; give "
            "training.global_batch_size"},
    Instead{"gradient_checkpointing", "write parallel.recompute: full, or selective"},
    Instead{"use_distributed_optimizer", "write parallel.zero_stage: 1"},
    Instead{"sequence_parallel", "leave it out: tensor_parallel_size includes it"},
    Instead{"hidden_act", "leave it out: feed-forwards are SwiGLU"},
    Instead{"moe_layer_freq", "write model.moe.first_k_dense: the layers from there on are MoE"},
    Instead{"routing", "write model.moe.num_experts_per_token: 2 for top-2"},
    Instead{"qk_head_dim",
            "write model.mla.qk_nope_head_dim and qk_rope_head_dim, whose sum it is"},
    Instead{"head_dim", "write model.mla.qk_nope_head_dim, qk_rope_head_dim and v_head_dim"},
    Instead{"gpus", "give --gpus N to plan, validate or recommend"},
    Instead{"total_gpus", "give --gpus N to plan, validate or recommend"},
    Instead{"gpu", "give --gpu NAME to plan, validate or recommend"},
    Instead{"gpu_memory", "give --gpu-memory GB to plan, validate or recommend"},
    Instead{"num_train_epochs", "write training.max_steps"},
    Instead{"epochs", "write training.max_steps"},
    Instead{"world_size", "give --gpus N to plan; the sizes under parallel make the world"},
    Instead{"virtual_pipeline_parallel_size", "write parallel.pipeline_schedule: interleaved"},
    Instead{"untie_embeddings_and_output_weights",
            "write model.tie_embeddings, which says the opposite"},
    Instead{"moe_shared_expert_intermediate_size",
            "write model.moe.num_shared_experts, each as wide as a routed expert"},
};

}  // namespace

std::string_view instead_of(std::string_view path, std::string_view name) {
  for (const Instead& i : kInstead) {
    if (i.name == name || i.name == path) return i.sentence;
  }
  return {};
}

}  // namespace dsv3::spec
