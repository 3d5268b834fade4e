// See deepspeed_keys.h. After DeepSpeed's "Configuration JSON" page.
#include "configs/spec/deepspeed_keys.h"

namespace dsv3::spec {
namespace {

using U = DeepSpeedUse;

constexpr std::string_view kBuckets = "gradients are reduced in buckets of the runtime's own size";
constexpr std::string_view kGathers = "the runtime chooses when to gather and free weights";
constexpr std::string_view kHost = "the state is kept in memory of its own, pinned where it can be";
constexpr std::string_view kOwnProfile = "dsv3ctl profile measures a step, op by op";
constexpr std::string_view kOwnChoice = "the planner chooses the layout: dsv3ctl plan";
constexpr std::string_view kNoElastic = "a job restarts on the ranks it has: dsv3ctl resume";
constexpr std::string_view kMaths = "it changes what is trained; leave it out";

constexpr DeepSpeedKey kKeys[] = {
    // ---- batch
    {"train_batch_size", U::kKey, "training.global_batch_size"},
    {"train_micro_batch_size_per_gpu", U::kKey, "training.micro_batch_size"},
    {"gradient_accumulation_steps", U::kSpecial, ""},
    // ---- optimizer
    {"optimizer.type", U::kSpecial, ""},
    {"optimizer.params.lr", U::kKey, "training.learning_rate"},
    {"optimizer.params.betas", U::kSpecial, ""},
    {"optimizer.params.eps", U::kKey, "training.eps"},
    {"optimizer.params.weight_decay", U::kKey, "training.weight_decay"},
    {"optimizer.params.adam_w_mode", U::kSpecial, ""},
    {"optimizer.params.bias_correction", U::kSpecial, ""},
    {"optimizer.params.torch_adam", U::kIgnored, "there is one AdamW"},
    {"optimizer.legacy_fusion", U::kIgnored, "there is one AdamW"},
    {"scheduler.type", U::kSpecial, ""},
    {"scheduler.params.warmup_num_steps", U::kKey, "training.lr_warmup_steps"},
    {"scheduler.params.total_num_steps", U::kKey, "training.max_steps"},
    {"scheduler.params.warmup_max_lr", U::kKey, "training.learning_rate"},
    {"scheduler.params.warmup_min_lr", U::kSpecial, ""},
    {"scheduler.params.warmup_min_ratio", U::kSpecial, ""},
    {"scheduler.params.cos_min_ratio", U::kSpecial, ""},
    {"scheduler.params.warmup_type", U::kSpecial, ""},
    {"scheduler.params.last_batch_iteration", U::kIgnored,
     "the schedule goes on from the checkpoint's step"},
    {"gradient_clipping", U::kKey, "training.grad_clip"},
    {"zero_allow_untested_optimizer", U::kIgnored, "there is one AdamW"},
    {"zero_force_ds_cpu_optimizer", U::kIgnored, "there is one AdamW"},
    // ---- precision
    {"bf16.enabled", U::kSpecial, ""},
    {"bf16.immediate_grad_update", U::kIgnored, "gradients are accumulated as they come"},
    {"bf16.check_grad_overflow", U::kIgnored, "a loss that is not finite ends the attempt"},
    {"fp8.enabled", U::kSpecial, ""},
    {"fp16.enabled", U::kSpecial, ""},
    {"fp16", U::kSilent, ""},
    {"amp.enabled", U::kRefused, "write \"bf16\": {\"enabled\": true}"},
    {"amp", U::kSilent, ""},
    {"data_types.grad_accum_dtype", U::kKey, "training.grads_dtype"},
    {"communication_data_type", U::kIgnored, "gradients are reduced in training.grads_dtype"},
    {"seq_parallel_communication_data_type", U::kIgnored,
     "gradients are reduced in training.grads_dtype"},
    {"prescale_gradients", U::kIgnored, "gradients are means over the tokens of the global batch"},
    {"gradient_predivide_factor", U::kIgnored,
     "gradients are means over the tokens of the global batch"},
    {"sparse_gradients", U::kIgnored, "the embedding's gradient is reduced whole"},
    // ---- ZeRO and the layout
    {"zero_optimization.stage", U::kKey, "parallel.zero_stage"},
    {"zero_optimization.overlap_comm", U::kKey, "parallel.overlap_grad_reduce"},
    {"zero_optimization.offload_optimizer.device", U::kSpecial, ""},
    {"zero_optimization.offload_optimizer", U::kIgnored, kHost},
    {"zero_optimization.cpu_offload", U::kKey, "parallel.offload_optimizer"},
    {"zero_optimization.offload_param", U::kIgnored,
     "weights stay on the device; zero_optimization.stage 3 shares them out"},
    {"zero_optimization.contiguous_gradients", U::kIgnored, kBuckets},
    {"zero_optimization.reduce_scatter", U::kIgnored, kBuckets},
    {"zero_optimization.reduce_bucket_size", U::kIgnored, kBuckets},
    {"zero_optimization.allgather_partitions", U::kIgnored, kBuckets},
    {"zero_optimization.allgather_bucket_size", U::kIgnored, kBuckets},
    {"zero_optimization.round_robin_gradients", U::kIgnored, kBuckets},
    {"zero_optimization.sub_group_size", U::kIgnored, kBuckets},
    {"zero_optimization.stage3_max_live_parameters", U::kIgnored, kGathers},
    {"zero_optimization.stage3_max_reuse_distance", U::kIgnored, kGathers},
    {"zero_optimization.stage3_prefetch_bucket_size", U::kIgnored, kGathers},
    {"zero_optimization.stage3_param_persistence_threshold", U::kIgnored, kGathers},
    {"zero_optimization.stage3_gather_16bit_weights_on_model_save", U::kIgnored,
     "checkpoints hold whole tensors; dsv3ctl export writes 16-bit weights"},
    {"zero_optimization.stage3_gather_fp16_weights_on_model_save", U::kIgnored,
     "checkpoints hold whole tensors; dsv3ctl export writes 16-bit weights"},
    {"zero_optimization.ignore_unused_parameters", U::kIgnored, "every parameter is used"},
    {"zero_optimization.load_from_fp32_weights", U::kIgnored, "checkpoints hold fp32 weights"},
    {"zero_optimization.elastic_checkpoint", U::kIgnored, "any layout loads any checkpoint"},
    {"zero_optimization.zero_hpz_partition_size", U::kIgnored, kGathers},
    {"zero_optimization.zero_quantized_weights", U::kRefused, kMaths},
    {"zero_optimization.zero_quantized_gradients", U::kRefused, kMaths},
    {"tensor_parallel.autotp_size", U::kKey, "parallel.tensor_parallel_size"},
    {"pipeline", U::kIgnored, kOwnChoice},
    {"elasticity", U::kIgnored, kNoElastic},
    {"autotuning", U::kIgnored, kOwnChoice},
    {"disable_allgather", U::kIgnored, kBuckets},
    {"aio", U::kIgnored, "nothing is offloaded to disks"},
    {"activation_checkpointing", U::kSpecial, ""},
    // ---- what would train something else
    {"curriculum_learning", U::kRefused, kMaths},
    {"data_efficiency", U::kRefused, kMaths},
    {"compression_training", U::kRefused, kMaths},
    {"progressive_layer_drop", U::kRefused, kMaths},
    {"sparse_attention", U::kRefused, kMaths},
    {"quantize_training", U::kRefused, kMaths},
    {"eigenvalue", U::kRefused, kMaths},
    // ---- what is written down
    {"steps_per_print", U::kKey, "logging.interval_steps"},
    {"tensorboard.enabled", U::kKey, "logging.tensorboard"},
    {"tensorboard", U::kIgnored, "events go to the job's folder"},
    {"csv_monitor", U::kIgnored, "logging.jsonl: true writes metrics; dsv3ctl sql reads them"},
    {"wandb", U::kIgnored, "nothing is sent out; dsv3ctl metrics --json feeds other programs"},
    {"comet", U::kIgnored, "nothing is sent out; dsv3ctl metrics --json feeds other programs"},
    {"comms_logger", U::kIgnored, kOwnProfile},
    {"flops_profiler", U::kIgnored, kOwnProfile},
    {"wall_clock_breakdown", U::kIgnored, kOwnProfile},
    {"memory_breakdown", U::kIgnored, "dsv3ctl memory JOB shows it"},
    {"dump_state", U::kIgnored, "dsv3ctl status JOB shows it"},
    {"checkpoint", U::kIgnored, "checkpoints have one form, whatever the layout"},
    {"nebula", U::kIgnored, "checkpoint.async: true writes while training goes on"},
    {"load_universal_checkpoint", U::kIgnored, "any layout loads any checkpoint"},
    {"dataloader_drop_last", U::kIgnored, "batches are cut from one endless stream of tokens"},
    {"compile", U::kIgnored, "the kernels are compiled already"},
    {"graph_harvesting", U::kIgnored, "the kernels are launched as they are"},
    {"hybrid_engine", U::kIgnored, "there is no generation in training"},
};

}  // namespace

std::span<const DeepSpeedKey> deepspeed_keys() {
  return kKeys;
}

}  // namespace dsv3::spec
