// Keys of the run: `parallel`, `training`, `data`, `checkpoint`, `logging`, `cluster`, `preset`.
#include "configs/spec/field_entry.h"

namespace dsv3::spec {
namespace {

using K = AliasKind;

const std::vector<Entry> kParallel = {
    AT(parallel.tensor_parallel_size)
        .names("", "--tensor-model-parallel-size", "tensor_parallel.autotp_size")
        .range(-1, 1024)
        .absent("-1")
        .unit("ranks")
        .bare({"tensor_model_parallel_size"})
        .doc("TP: ranks that share each dense matrix. −1 or left out: the planner's choice."),
    AT(parallel.pipeline_parallel_size)
        .names("", "--pipeline-model-parallel-size", "")
        .range(-1, 1024)
        .absent("-1")
        .unit("stages")
        .bare({"pipeline_model_parallel_size"})
        .doc("PP: stages the layers are cut into. −1 or left out: the planner's choice."),
    AT(parallel.expert_parallel_size)
        .names("", "--expert-model-parallel-size (EP·TP where expert tensor parallelism is 1)", "")
        .range(-1, 4096)
        .absent("-1")
        .unit("ranks")
        .bare({"expert_model_parallel_size"})
        .doc("EP: ranks the experts are spread over; they see different data. −1 or left "
             "out: the planner's choice."),
    AT(parallel.data_parallel_size)
        .range(-1, 65536)
        .unit("ranks")
        .doc("DP: copies of the experts. −1 or left out: the planner's choice. Dense "
             "parameters are copied EP·DP times."),
    AT(parallel.context_parallel_size)
        .names("", "--context-parallel-size", "")
        .range(-1, 1024)
        .unit("ranks")
        .doc("CP: ranks that share each sequence. −1: the planner's choice; left out: 1."),
    AT(parallel.expert_tensor_parallel_size)
        .names("", "--expert-tensor-parallel-size", "")
        .range(-1, 1024)
        .unit("ranks")
        .also({{"parallel.expert_tensor_parallel"}})
        .doc("1: a TP group's ranks hold different experts; TP: each expert is cut along its "
             "width; −1: the planner's choice between the two; left out: 1."),
    AT(parallel.zero_stage)
        .names("", "--use-distributed-optimizer (stage 1)", "zero_optimization.stage")
        .range(0, 3)
        .also({{"zero_optimization.stage"}})
        .doc("What the data-parallel ranks share out: 0 nothing, 1 optimizer state, 2 + "
             "gradients, 3 + weights. The least: the planner raises it where memory asks for more. "
             "On "
             "CPUs 1 gives way to 0, which is the same numbers."),
    AT(parallel.overlap_grad_reduce)
        .names("", "--overlap-grad-reduce", "zero_optimization.overlap_comm")
        .also({{"zero_optimization.overlap_comm"}})
        .doc("Reduce gradients while the backward pass runs."),
    AT(parallel.overlap_expert_exchange)
        .names("", "--overlap-moe-expert-parallel-comm", "")
        .doc(
            "Compute the experts in parts, some while the rows of others travel between the ranks, "
            "and shared experts meanwhile; false: all rows at once, and nothing while they travel. "
            "The same numbers."),
    AT(parallel.pipeline_schedule)
        .names("", "--num-layers-per-virtual-pipeline-stage (interleaved)", "")
        .choices({"afab", "1f1b", "interleaved", "zero_bubble", "auto"})
        .doc("Order of forward and backward passes of a stage; auto: the planner's choice."),
    AT(parallel.pipeline_layers)
        .names("", "--pipeline-model-parallel-layout (its own notation)", "")
        .range(1, 4096)
        .unit("layers")
        .doc("Layers of each pipeline stage, first to last, such as [4, 5, 5, 3]; with interleaved "
             "chunks of each virtual stage. Empty: the planner's choice. MTP modules come on top "
             "of the last."),
    AT(parallel.recompute)
        .names("gradient_checkpointing (full)", "--recompute-granularity",
               "activation_checkpointing (full)")
        .choices({"none", "selective", "full"})
        .doc("Activations to compute again in the backward pass instead of keeping. The least: the "
             "planner raises it where memory asks for more."),
    AT(parallel.offload_optimizer)
        .names("", "--optimizer-cpu-offload", "zero_optimization.offload_optimizer.device (cpu)")
        .doc("true: the optimizer's state may be kept in host memory, where nothing else fits; "
             "false: "
             "never."),
    AT(parallel.collective_timeout_s)
        .names("", "--distributed-timeout-minutes (minutes)", "")
        .range(1, 86400)
        .unit("s")
        .doc("A rank that waits longer than this for the others in one collective operation ends "
             "the attempt, naming the operation and whom it waited for."),
};

const std::vector<Entry> kTraining = {
    AT(training.max_steps)
        .names("max_steps", "--train-iters", "scheduler.params.total_num_steps")
        .range(0, 1e9)
        .unit("steps")
        .bare({"max_steps", "train_iters"})
        .doc("Optimizer steps of the job."),
    AT(training.global_batch_size)
        .names("", "--global-batch-size", "train_batch_size")
        .range(1, 1 << 24)
        .absent("768")
        .unit("sequences")
        .bare({"train_batch_size", "batch_size"})
        .also({{"training.global_batch_tokens", K::kBatchTokens}})
        .doc("Sequences per optimizer step. (`global_batch_tokens` gives it in tokens "
             "instead.) The default, for planning only, "
             "divides by many widths."),
    AT(training.micro_batch_size)
        .names("per_device_train_batch_size", "--micro-batch-size",
               "train_micro_batch_size_per_gpu")
        .range(-1, 65536)
        .unit("sequences")
        .bare({"train_micro_batch_size_per_gpu"})
        .doc("Sequences per forward pass of one data-parallel rank. −1: the planner's choice; "
             "left out: 1."),
    AT(training.seq_length)
        .names("", "--seq-length", "")
        .absent("4096")
        .range(1, 1 << 24)
        .unit("tokens")
        .kilo()
        .bare({"seq_length"})
        .doc("Length of a training sequence. Left out: 4096, or max_context_length where "
             "that is smaller."),
    AT(training.dtype)
        .names("torch_dtype", "--bf16 (a flag)", "bf16.enabled")
        .choices({"fp32", "bf16", "fp8"})
        .also({{"training.use_fp8", K::kTrueIsFp8},
               {"use_fp8", K::kTrueIsFp8},
               {"training.fp8", K::kTrueIsFp8},
               {"training.bf16", K::kTrueIsBf16},
               {"bf16.enabled", K::kTrueIsBf16},
               {"mixed_precision", K::kTrueIsBf16},
               {"torch_dtype", K::kTorchDtype},
               {"dtype", K::kTorchDtype}})
        .doc("Type the matrix products run in; master weights are fp32 with any."),
    AT(training.seed)
        .names("seed", "--seed", "")
        .range(0, 9.0e15)
        .doc("Seed of initial weights and of the order of the data."),
    AT(training.learning_rate)
        .names("learning_rate", "--lr", "optimizer.params.lr")
        .range(0, 10)
        .bare({"learning_rate", "lr"})
        .also({{"optimizer.params.lr"}})
        .doc("Peak learning rate."),
    AT(training.lr_warmup_steps)
        .names("warmup_steps", "--lr-warmup-iters", "scheduler.params.warmup_num_steps")
        .range(0, 1e9)
        .unit("steps")
        .bare({"warmup_steps", "lr_warmup_iters"})
        .also({{"training.warmup_steps"}})
        .doc("Steps of linear warm-up from 0."),
    AT(training.lr_schedule)
        .names("lr_scheduler_type", "--lr-decay-style",
               "scheduler.type (WarmupLR: constant, WarmupDecayLR: linear, WarmupCosineLR: cosine)")
        .choices({"constant", "linear", "cosine"})
        .bare({"lr_decay_style"})
        .doc("Learning rate after the warm-up, from learning_rate to min_learning_rate at "
             "max_steps."),
    AT(training.min_learning_rate)
        .names("", "--min-lr", "scheduler.params.cos_min_ratio (a share of the peak)")
        .range(0, 10)
        .bare({"min_lr"})
        .doc("Learning rate at the last step."),
    AT(training.weight_decay)
        .names("weight_decay", "--weight-decay", "optimizer.params.weight_decay")
        .range(0, 10)
        .bare({"weight_decay"})
        .also({{"optimizer.params.weight_decay"}})
        .doc("AdamW's decay of matrices; norms have none."),
    AT(training.beta1)
        .names("adam_beta1", "--adam-beta1", "optimizer.params.betas (the first)")
        .range(0, 0.999999999)
        .bare({"adam_beta1"})
        .doc("AdamW: decay of the first moment."),
    AT(training.beta2)
        .names("adam_beta2", "--adam-beta2", "optimizer.params.betas (the second)")
        .range(0, 0.999999999)
        .bare({"adam_beta2"})
        .doc("AdamW: decay of the second moment."),
    AT(training.eps)
        .names("adam_epsilon", "--adam-eps", "optimizer.params.eps")
        .above(0, 1)
        .bare({"adam_eps"})
        .also({{"optimizer.params.eps"}})
        .doc("AdamW: added to the second moment's root."),
    AT(training.grad_clip)
        .names("max_grad_norm", "--clip-grad", "gradient_clipping")
        .range(0, 1e9)
        .bare({"grad_clip", "gradient_clipping", "clip_grad"})
        .doc("Largest norm of the whole gradient; 0: no clipping."),
    AT(training.moments_dtype)
        .names("", "--exp-avg-dtype (with --exp-avg-sq-dtype)", "")
        .choices({"fp32", "bf16"})
        .doc("Type of AdamW's two moments. The planner lowers fp32 to bf16 only "
             "where nothing else fits, and says so."),
    AT(training.grads_dtype)
        .names("", "--main-grads-dtype", "data_types.grad_accum_dtype")
        .choices({"fp32", "bf16"})
        .doc("Type gradients are accumulated in. Lowered like moments_dtype, after it."),
    AT(training.eval_interval_steps)
        .names("eval_steps", "--eval-interval", "")
        .range(0, 1e9)
        .unit("steps")
        .doc("Steps between validations; 0: only at the end."),
    AT(training.eval_batches)
        .names("", "--eval-iters", "")
        .range(1, 1e6)
        .unit("global batches")
        .doc("Batches of one validation."),
    AT(training.deterministic)
        .names("full_determinism", "--deterministic-mode", "")
        .doc("The same job on the same layout gives the same bits."),
};

const std::vector<Entry> kRest = {
    AT(data.path)
        .names("", "--data-path", "")
        .doc("Prefix of an indexed data set (PREFIX.bin, PREFIX.idx), or a blend: [0.3, a, 0.7, "
             "b], {a: 0.3, b: 0.7} or "
             "\"0.3 a 0.7 b\". \"@demo\": the demo's text, prepared where it is absent."),
    AT(data.split)
        .names("", "--split (99,1,0)", "")
        .range(0, 1)
        .unit("shares")
        .doc("Shares of the documents for training and validation; they add up to 1."),
    AT(data.tokenizer)
        .names("", "--tokenizer-model", "")
        .doc("What `data prepare` was given, for information."),
    AT(checkpoint.path)
        .names("output_dir", "--save", "")
        .doc("Folder of the checkpoints, seen by all nodes. \"\": the job's folder in the "
             "state directory."),
    AT(checkpoint.interval_steps)
        .names("save_steps", "--save-interval", "")
        .range(0, 1e9)
        .unit("steps")
        .doc("Steps between checkpoints; 0: at the end only."),
    AT(checkpoint.keep_last)
        .names("save_total_limit", "", "")
        .range(1, 1e6)
        .unit("checkpoints")
        .doc("Complete checkpoints that are kept."),
    AT(checkpoint.async)
        .names("", "--async-save", "")
        .doc("Write checkpoints while training goes on."),
    AT(checkpoint.load)
        .names("resume_from_checkpoint", "--load", "")
        .doc("Checkpoint folder to start from; \"\": none."),
    AT(logging.interval_steps)
        .names("logging_steps", "--log-interval", "steps_per_print")
        .range(1, 1e9)
        .unit("steps")
        .doc("Steps between log lines."),
    AT(logging.expert_stats_interval_steps)
        .range(0, 1e9)
        .unit("steps")
        .doc("Steps between records of expert usage; 0: none."),
    AT(logging.tensorboard)
        .names("", "--tensorboard-dir (a folder)", "tensorboard.enabled")
        .doc("Write TensorBoard events into the job's folder."),
    AT(logging.jsonl).doc("Write metrics as JSON lines into the job's folder."),
    AT(cluster.launcher).choices({"local", "ssh", "slurm"}).doc("How agents are started."),
    AT(cluster.devices).choices({"cpu", "cuda"}).doc("What ranks compute on."),
    AT(cluster.nodes).range(1, 65536).unit("nodes").doc("Nodes of the job."),
    AT(cluster.ranks_per_node).range(1, 1024).unit("ranks").doc("Ranks on each node."),
    AT(preset.use_case)
        .doc("What a preset is for, one line, for `configs list`; without meaning for a run."),
    AT(preset.gpus_min)
        .range(0, 65536)
        .unit("GPUs")
        .doc("Fewest GPUs a preset is meant for; 0: CPUs."),
    AT(preset.gpu_memory_gb)
        .range(0, 1024)
        .unit("GB")
        .doc("Memory of each of them, as on the label."),
    AT(preset.accepts)
        .doc(
            "Codes of warnings that are meant, with spaces between (MOE_SHARED_RATIO): not shown."),
};

}  // namespace

void append_run_fields(std::vector<Field>& table) {
  for (const Entry& e : kParallel) table.push_back(e.f);
  for (const Entry& e : kTraining) table.push_back(e.f);
  for (const Entry& e : kRest) table.push_back(e.f);
}

}  // namespace dsv3::spec
